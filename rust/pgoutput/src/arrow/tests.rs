//! Column by column gives what cell by cell gives, on values that a server sends and on bytes that none does.
use std::collections::BTreeSet;

use proptest::prelude::*;

use super::write;
use crate::batch::{Batch, Builder};
use crate::catalog::Catalog;
use crate::session::Session;

const TYPES: [u32; 14] = [16, 17, 20, 21, 23, 25, 700, 701, 1009, 1082, 1184, 1700, 2950, 3802];

fn batch(rows: &[Vec<(u8, Vec<u8>)>]) -> Batch {
    let mut relation = b"R\0\0\0\x01s\0t\0d\0\x0e".to_vec();
    for (number, oid) in TYPES.iter().enumerate() {
        relation.extend(format!("\x01c{number}\0").bytes());
        relation.extend(oid.to_be_bytes());
        relation.extend((12_i32 << 16 | 6).to_be_bytes());
    }
    let (mut session, mut builder) = (Session::default(), Builder::default());
    builder.push(&mut session, &relation, 0);
    for row in rows {
        let mut message = b"I\0\0\0\x01N\0\x0e".to_vec();
        for (kind, bytes) in row {
            message.push(*kind);
            if *kind == b'b' {
                message.extend(u32::try_from(bytes.len()).unwrap_or(0).to_be_bytes());
                message.extend(bytes);
            }
        }
        builder.push(&mut session, &message, 0);
    }
    builder.finish()
}

/// What a server might send of a type, from any bytes: mostly of its size.
fn plausible(oid: u32, mut bytes: Vec<u8>) -> Vec<u8> {
    let text = |bytes: Vec<u8>| bytes.into_iter().map(|byte| (byte % 96).saturating_add(32)).collect();
    match oid {
        16 => vec![bytes.first().copied().unwrap_or(0) % 2],
        25 => text(bytes),
        3802 => [vec![1], text(bytes)].concat(),
        1700 => [[0, 1, 0, 0, 0, 0, 0, 2, 0].as_slice(), bytes.get(..1).unwrap_or(&[3])].concat(),
        1009 => {
            let element = text(bytes);
            let size = u8::try_from(element.len()).unwrap_or(0);
            let head = [0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 25, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, size];
            [head.as_slice(), &element].concat()
        }
        _ => {
            let size = match oid {
                21 => 2,
                23 | 700 | 1082 => 4,
                20 | 701 | 1184 => 8,
                2950 => 16,
                _ => bytes.len(),
            };
            bytes.resize(size, 7);
            bytes
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn column_by_column_is_cell_by_cell(
        rows in prop::collection::vec(
            prop::collection::vec(
                (prop::sample::select(b"bbbbbbnu".to_vec()), prop::collection::vec(any::<u8>(), 0..20), 0..200),
                TYPES.len(),
            ),
            0..6,
        )
    ) {
        let value = |((kind, bytes, luck), oid): ((u8, Vec<u8>, i32), u32)| {
            (kind, if luck == 0 { bytes } else { plausible(oid, bytes) })
        };
        let rows: Vec<Vec<_>> = rows.into_iter().map(|row| row.into_iter().zip(TYPES).map(value).collect()).collect();
        let (batch, catalog) = (batch(&rows), Catalog::default());
        let by_column = write(&batch, &catalog, &BTreeSet::new(), false);
        let by_cell = write(&batch, &catalog, &BTreeSet::new(), true);
        match (by_column, by_cell) {
            (Ok(one), Ok(other)) => {
                prop_assert_eq!(one.len(), other.len());
                for (one, other) in one.iter().zip(&other) {
                    prop_assert_eq!(&one.rows, &other.rows);
                }
            }
            (one, other) => prop_assert_eq!(one.is_ok(), other.is_ok()),
        }
    }
}
