//! Other formats than events: whatever the bytes are, lines of JSON and record batches or an error, never a panic.
#![allow(missing_docs, clippy::unwrap_used, clippy::arithmetic_side_effects, clippy::indexing_slicing)]
use pgoutput::batch::{Batch, Builder};
use pgoutput::catalog::Catalog;
use pgoutput::json::debezium::{Decimals, Options, Times};
use pgoutput::json::fields::fields;
use pgoutput::json::{self, Envelope, Scratch, write_value};
use pgoutput::oid::{Kind, Scalar, builtin};
use pgoutput::row::Refused;
use pgoutput::session::Session;
use pgoutput::value::Format;
use proptest::prelude::*;

const TYPES: [u32; 14] = [16, 17, 18, 20, 25, 114, 700, 1007, 1082, 1184, 1700, 2950, 3802, 999_999];

/// A stream of one relation with a column of each type, then rows of any bytes.
fn stream(rows: &[Vec<(u8, Vec<u8>)>]) -> Batch {
    let mut relation = [b"R".as_slice(), &1_u32.to_be_bytes(), b"s\0t\0d"].concat();
    relation.extend(u16::try_from(TYPES.len()).unwrap().to_be_bytes());
    for (number, oid) in TYPES.iter().enumerate() {
        relation.push(u8::from(number == 0));
        relation.extend(format!("c{number}\0").bytes());
        relation.extend(oid.to_be_bytes());
        relation.extend((12_i32 << 16 | 2).wrapping_add(4).to_be_bytes());
    }
    let mut session = Session::default();
    let mut builder = Builder::default();
    builder.push(&mut session, &relation, 0);
    for row in rows {
        let mut message = [b"I".as_slice(), &1_u32.to_be_bytes(), b"N"].concat();
        message.extend(u16::try_from(row.len()).unwrap().to_be_bytes());
        for (kind, bytes) in row {
            message.push(*kind);
            if matches!(kind, b't' | b'b') {
                message.extend(u32::try_from(bytes.len()).unwrap().to_be_bytes());
                message.extend(bytes);
            }
        }
        builder.push(&mut session, &message, 0);
    }
    builder.finish()
}

fn written(kind: &Kind, format: Format, bytes: &[u8]) -> Result<String, &'static str> {
    let mut out = Vec::new();
    write_value(&mut out, kind, format, bytes, &mut Scratch::default()).map_err(|invalid| invalid.0)?;
    Ok(String::from_utf8(out).unwrap())
}

#[test]
fn arrays_are_nested_as_their_dimensions_say() {
    let int4 = builtin(1007);
    let cases: [(&[u8], &str); 5] = [
        (b"{}", "[]"),
        (b"{1,NULL}", "[1,null]"),
        (b"{{{1},{2}},{{3},{4}}}", "[[[1],[2]],[[3],[4]]]"),
        (b"[5:5]={1}", "{\"lower_bounds\":[5],\"elements\":[1]}"),
        (b"[1:2][0:0]={{1},{2}}", "{\"lower_bounds\":[1,0],\"elements\":[[1],[2]]}"),
    ];
    for (text, expected) in cases {
        assert_eq!(written(&int4, Format::Text, text).as_deref(), Ok(expected));
    }
}

#[test]
fn the_first_bad_value_is_named() {
    let mut row: Vec<(u8, Vec<u8>)> = TYPES.iter().map(|_| (b'n', Vec::new())).collect();
    row[5] = (b't', b"{".to_vec());
    let failed = json::lines(&stream(&[row]), &Catalog::default(), Envelope::Plain).unwrap_err();
    assert_eq!(failed.record, 1);
    assert_eq!(failed.refused, Refused::Value { reason: "not JSON", column: 5, offset: 18 });
}

/// Values in binary of the types that have a short way of their own: most are what a server sends, some are not.
fn binary() -> impl Strategy<Value = (usize, Vec<u8>)> {
    let any_bytes = |lengths| prop::collection::vec(any::<u8>(), lengths);
    let instant =
        (-4_000_000_000_000_000_000_i64..4_000_000_000_000_000_000).prop_map(|time| time.to_be_bytes().to_vec());
    let numeric = (prop::collection::vec(0..10_100_u16, 0..6), -3..5_i16, any::<bool>(), 0..300_u16).prop_map(
        |(digits, weight, negative, scale)| {
            let scale = if scale < 200 { scale % 13 } else { scale };
            let head = [u16::try_from(digits.len()).unwrap(), weight.cast_unsigned(), u16::from(negative) << 14, scale];
            head.into_iter().chain(digits).flat_map(u16::to_be_bytes).collect()
        },
    );
    let element = prop_oneof![Just(None), any::<i32>().prop_map(Some)];
    let array = (prop::collection::vec(element, 0..4), 0..3_u32, 0..3_i32, any_bytes(0..2)).prop_map(
        |(elements, dimensions, lower, surplus)| {
            let length = u32::try_from(elements.len()).unwrap();
            let mut bytes = [dimensions, 0, 23].map(u32::to_be_bytes).concat();
            bytes.extend([length.to_be_bytes(), lower.to_be_bytes()].concat());
            for element in elements {
                bytes.extend(element.map_or(-1_i32, |_| 4).to_be_bytes());
                bytes.extend(element.into_iter().flat_map(i32::to_be_bytes));
            }
            [bytes, surplus].concat()
        },
    );
    let json = "[ -~é\n]{0,20}".prop_map(|text| [b"\x01\"".as_slice(), text.as_bytes(), b"\""].concat());
    let plausible = prop_oneof![
        any_bytes(8..9).prop_map(|bytes| (3, bytes)),
        "[ -~é\n]{0,20}".prop_map(|text| (4, text.into_bytes())),
        array.prop_map(|bytes| (7, bytes)),
        instant.prop_map(|bytes| (9, bytes)),
        numeric.prop_map(|bytes| (10, bytes)),
        any_bytes(16..17).prop_map(|bytes| (11, bytes)),
        json.prop_map(|bytes| (12, bytes)),
    ];
    prop_oneof![4 => plausible, 1 => (0..TYPES.len(), any_bytes(0..20))]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn in_lines_values_are_what_they_are_alone((column, bytes) in binary()) {
        let mut row = vec![(b'u', Vec::new()); TYPES.len()];
        row[column] = (b'b', bytes.clone());
        let line = json::lines(&stream(&[row]), &Catalog::default(), Envelope::Plain);
        match (line, written(&builtin(TYPES[column]), Format::Binary, &bytes)) {
            (Ok(line), Ok(alone)) => {
                let line = String::from_utf8(line).unwrap();
                prop_assert!(line.ends_with(&format!("\"new\":{{\"c{column}\":{alone}}}}}\n")), "{line} for {alone}");
            }
            (Err(failed), Err(alone)) => {
                let in_line = matches!(failed.refused, Refused::Value { reason, .. } if reason == alone);
                prop_assert!(in_line, "{failed:?} for {alone}");
            }
            (line, alone) => prop_assert!(false, "{line:?} for {alone:?}"),
        }
    }

    #[test]
    fn any_rows_are_written_or_refused(rows in prop::collection::vec(prop::collection::vec(
        (prop::sample::select(b"ntbu".to_vec()), prop::collection::vec(any::<u8>(), 0..17)), TYPES.len()), 0..4)) {
        let batch = stream(&rows);
        let (numbers, text) = (Options::default(), Options { decimals: Decimals::Text, times: Times::IsoText, ..Options::default() });
        for envelope in [Envelope::Plain, Envelope::Debezium(&numbers), Envelope::Debezium(&text)] {
            if let Ok(lines) = json::lines(&batch, &Catalog::default(), envelope) {
                prop_assert_eq!(memchr::memchr_iter(b'\n', &lines).count(), rows.len());
                prop_assert!(std::str::from_utf8(&lines).is_ok());
            }
        }
        #[cfg(feature = "arrow")]
        if let Ok(parts) = pgoutput::arrow::parts(&batch, &Catalog::default(), &std::collections::BTreeSet::new()) {
            prop_assert_eq!(parts.iter().map(|part| part.rows.num_rows()).sum::<usize>(), rows.len());
        }
    }

    #[test]
    fn text_and_opaque_values_are_always_written(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
        for (kind, format) in [
            (Kind::Scalar(Scalar::Text), Format::Text),
            (Kind::Opaque, Format::Text),
            (Kind::Opaque, Format::Binary),
            (Kind::Scalar(Scalar::Bytea), Format::Binary),
        ] {
            let text = written(&kind, format, &bytes).unwrap();
            prop_assert!(text.bytes().all(|byte| byte >= 0x20));
            // What is written is JSON itself, so that it can be embedded.
            prop_assert_eq!(written(&Kind::Scalar(Scalar::Json), Format::Text, text.as_bytes()), Ok(text));
        }
    }

    #[test]
    fn texts_come_out_of_a_row_as_they_went_in(texts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..5)) {
        let text = |bytes: &Vec<u8>| written(&Kind::Scalar(Scalar::Text), Format::Text, bytes).unwrap();
        let members: Vec<_> = texts.iter().enumerate().map(|(number, bytes)| format!("\"c{number}\":{}", text(bytes))).collect();
        let row = format!("{{{}}}", members.join(","));
        let found = fields(row.as_bytes()).unwrap();
        prop_assert_eq!(found.len(), texts.len());
        for (number, ((name, value), bytes)) in found.iter().zip(&texts).enumerate() {
            prop_assert_eq!(name.as_ref(), format!("c{number}").into_bytes());
            prop_assert_eq!(value.as_deref(), Some(bytes.as_slice()));
        }
    }

    #[test]
    fn any_bytes_have_fields_or_none(bytes in prop::collection::vec(prop_oneof![
        any::<u8>(), prop::sample::select(b"{}[]\":,\\u0dcn ".to_vec())], 0..40)) {
        let row = [b"{\"a\":".as_slice(), &bytes, b"}"].concat();
        for text in [&bytes, &row] {
            if let Some(found) = fields(text) {
                prop_assert!(found.iter().all(|(name, value)| name.len() <= text.len() && value.as_ref().is_none_or(|value| value.len() <= text.len())));
            }
        }
    }

    #[test]
    fn numbers_in_both_forms_are_written_alike(number in any::<f64>(), short in any::<f32>(), whole in any::<i64>()) {
        let float = written(&Kind::Scalar(Scalar::Float8), Format::Binary, &number.to_be_bytes()).unwrap();
        if number.is_finite() {
            prop_assert_eq!(float.parse::<f64>().unwrap().to_bits(), number.to_bits());
            prop_assert_eq!(written(&Kind::Scalar(Scalar::Float8), Format::Text, float.as_bytes()), Ok(float));
        }
        let float = written(&Kind::Scalar(Scalar::Float4), Format::Binary, &short.to_be_bytes()).unwrap();
        if short.is_finite() {
            prop_assert_eq!(float.parse::<f32>().unwrap().to_bits(), short.to_bits());
        }
        let whole_text = whole.to_string();
        prop_assert_eq!(written(&Kind::Scalar(Scalar::Int8), Format::Binary, &whole.to_be_bytes()), Ok(whole_text));
    }
}
