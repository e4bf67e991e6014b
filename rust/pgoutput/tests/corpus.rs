//! The fuzz targets' exercises on the inputs that are kept: what they begin with, and what they once found.
#![cfg(feature = "arrow")]
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::arithmetic_side_effects)]
#![allow(clippy::indexing_slicing, reason = "a test may fail by panicking")]
use std::alloc::System;
use std::fs;
use std::path::PathBuf;

use cap::Cap;
use pgoutput::oid::Kind;

#[path = "../../fuzz/src/exercise.rs"]
mod exercise;

#[global_allocator]
static ALLOCATOR: Cap<System> = Cap::new(System, usize::MAX);

/// What a target does with an input.
type Exercise = fn(&[u8]);

/// With an input, and what that is.
type Case = (Exercise, Vec<u8>, String);

const EXERCISES: [(&str, Exercise); 5] = [
    ("message", exercise::message),
    ("stream", exercise::stream),
    ("assembler", exercise::assembler),
    ("copy", exercise::copy),
    ("value", exercise::value),
];

/// Every kept input of every target.
fn kept() -> Vec<Case> {
    let fuzz = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../fuzz");
    let mut cases = Vec::new();
    for (target, exercise) in EXERCISES {
        let folders = ["seeds", "regressions"].map(|folder| fuzz.join(folder).join(target));
        for folder in folders.iter().filter(|folder| folder.exists()) {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                cases.push((exercise, fs::read(&path).unwrap(), path.display().to_string()));
            }
        }
        assert!(cases.iter().any(|(of, ..)| std::ptr::fn_addr_eq(*of, exercise)), "{target} has inputs");
    }
    cases
}

/// The one test here, because the allocator counts for the whole process.
#[test]
fn no_input_takes_more_memory_than_it_justifies() {
    let mut cases = kept();
    cases.extend(claims());
    // The most that was allocated at any time only ever grows, so those that are allowed the least come first, and the
    // cases' own making is made good for.
    cases.sort_by_key(|(_, input, _)| exercise::allowance(input));
    let _ballast = Vec::<u8>::with_capacity(ALLOCATOR.max_allocated() - ALLOCATOR.allocated());
    for (exercise, input, name) in &cases {
        let before = ALLOCATOR.allocated();
        exercise(input);
        let taken = ALLOCATOR.max_allocated().saturating_sub(before);
        let allowed = exercise::allowance(input);
        assert!(taken <= allowed, "{name}: {} bytes took {taken}, of {allowed}", input.len());
    }
}

/// Messages that announce what is not there: two GiB, thirty thousand columns, a billion elements.
fn claims() -> Vec<Case> {
    let many: [u32; 6] = [0, 1, 0x7fff, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff];
    let mut claims: Vec<Case> = Vec::new();
    for count in many.map(u32::to_be_bytes) {
        let [_, _, high, low] = count;
        let message = |parts: &[&[u8]]| parts.concat();
        let oid = 1_u32.to_be_bytes();
        for (name, bytes) in [
            ("Truncate", message(&[b"T", &count, &[0]])),
            ("Truncate of one", message(&[b"T", &count, &[0], &oid])),
            ("Message", message(&[b"M\x01", &[0; 8], b"p\0", &count, b"x"])),
            ("columns of a Relation", message(&[b"R", &oid, b"s\0t\0d", &[high, low]])),
            ("columns of an Insert", message(&[b"I", &oid, b"N", &[high, low], b"n"])),
            ("value of an Insert", message(&[b"I", &oid, b"N\0\x06t", &count, b"x"])),
            ("old row", message(&[b"U", &oid, b"O", &[high, low]])),
        ] {
            claims.push((exercise::message, bytes, name.to_owned()));
        }
        let header = [b"\x08\0\xff".as_slice(), b"PGCOPY\n\xff\r\n\0", &[0; 4], &count].concat();
        claims.push((exercise::copy, header, "COPY header".to_owned()));
        let row = [b"\x08\0\xff".as_slice(), b"PGCOPY\n\xff\r\n\0", &[0; 8], b"\0\x08", &count, b"x"].concat();
        claims.push((exercise::copy, row, "COPY value".to_owned()));
        for number in (1..20_000).filter(|&oid| exercise::CATALOG.kind(oid) != Kind::Opaque) {
            let oid = u32::to_be_bytes(number);
            // Two dimensions of so many elements; as other types it is a length or a count just the same.
            let array = [&oid, b"\x01".as_slice(), &[0, 0, 0, 2], &[0; 4], &[0, 0, 0, 25], &count, &count].concat();
            claims.push((exercise::value, array, format!("array of type {number}")));
            let claimed = [oid.as_slice(), b"\x01", &count, &count, &count, &[0; 8]].concat();
            claims.push((exercise::value, claimed, format!("count in type {number}")));
        }
    }
    claims
}
