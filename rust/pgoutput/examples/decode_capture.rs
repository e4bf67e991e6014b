//! Decodes a capture again and again: what the instruction counts of `tests/test_instructions.py` and a profiler look at.
//!
//! `decode_capture WORK FILE ROUNDS`, where WORK is `batch`, `parse`, `json`, `debezium` or `arrow`; the format of the file is in
//! `tests/golden/README.md`. Prints the number of changes, and the nanoseconds that the fastest round took for each.
#[cfg(feature = "arrow")]
use std::collections::BTreeSet;
use std::hint::black_box;
use std::process::ExitCode;
use std::time::{Duration, Instant};

#[cfg(feature = "arrow")]
use pgoutput::arrow;
use pgoutput::batch::{Batch, Builder};
use pgoutput::catalog::Catalog;
use pgoutput::json::{self, Envelope};
use pgoutput::message::Message;
use pgoutput::session::Session;

const MAGIC: &[u8] = b"pgcdc-capture-1\n";

/// The messages of a capture; None where it is not whole.
fn messages(capture: &[u8]) -> Option<Vec<&[u8]>> {
    let mut rest = capture.strip_prefix(MAGIC)?;
    let mut messages = Vec::new();
    while !rest.is_empty() {
        let (_lsn, after) = rest.split_first_chunk::<8>()?;
        let (length, after) = after.split_first_chunk::<4>()?;
        let (message, after) = after.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)?;
        messages.push(message);
        rest = after;
    }
    Some(messages)
}

fn batch(session: &mut Session, messages: &[&[u8]]) -> Batch {
    let mut builder = Builder::with_capacity(messages.len(), messages.iter().map(|message| message.len()).sum());
    for message in messages {
        builder.push(session, message, 0);
    }
    builder.finish()
}

/// How many messages are decoded together, as they come from a stream.
const TOGETHER: usize = 500;

/// One round of the work; None where it failed.
fn work(name: &str, messages: &[&[u8]], catalog: &Catalog) -> Option<()> {
    let mut session = Session::default();
    for messages in messages.chunks(TOGETHER) {
        match name {
            "parse" => {
                for message in messages {
                    black_box(Message::parse(message).ok()?);
                }
            }
            "batch" => drop(black_box(batch(&mut session, messages))),
            "debezium" => {
                let options = json::debezium::Options::default();
                drop(black_box(
                    json::lines(&batch(&mut session, messages), catalog, Envelope::Debezium(&options)).ok()?,
                ));
            }
            "json" => drop(black_box(json::lines(&batch(&mut session, messages), catalog, Envelope::Plain).ok()?)),
            #[cfg(feature = "arrow")]
            "arrow" => drop(black_box(arrow::parts(&batch(&mut session, messages), catalog, &BTreeSet::new()).ok()?)),
            _ => return None,
        }
    }
    Some(())
}

fn run(name: &str, file: &str, rounds: u32) -> Option<()> {
    let capture = std::fs::read(file).ok()?;
    let messages = messages(&capture)?;
    let changes = messages.iter().filter(|message| message.first().is_some_and(|kind| b"IUD".contains(kind))).count();
    let catalog = Catalog::default();
    let mut fastest = Duration::MAX;
    for _ in 0..rounds {
        let start = Instant::now();
        work(name, &messages, &catalog)?;
        fastest = fastest.min(start.elapsed());
    }
    let nanoseconds = fastest.as_nanos().checked_div(u128::try_from(changes).ok()?)?;
    println!("{changes} changes, {nanoseconds} ns each in the fastest round");
    Some(())
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let done = match arguments.as_slice() {
        [name, file, rounds] => rounds.parse().ok().and_then(|rounds| run(name, file, rounds)),
        _ => None,
    };
    if done.is_some() {
        return ExitCode::SUCCESS;
    }
    eprintln!("usage: decode_capture batch|parse|json|debezium|arrow FILE ROUNDS");
    ExitCode::FAILURE
}
