//! Values whose meaning is easy to get wrong, each in both forms.
#![allow(missing_docs, clippy::unwrap_used)]
use pgoutput::oid::Scalar;
use pgoutput::value::calendar::Date;
use pgoutput::value::number::{exact_float, float4};
use pgoutput::value::{Format, Value, decode};
use proptest::prelude::*;

fn shown(scalar: Scalar, format: Format, bytes: &[u8]) -> String {
    let mut scratch = Vec::new();
    decode(scalar, format, bytes, &mut scratch)
        .map_or_else(|invalid| format!("invalid: {}", invalid.0), |value| format!("{value:?}"))
}

#[test]
fn instants_that_no_calendar_library_holds() {
    let cases = [
        (i64::MAX, "infinity"),
        (i64::MIN, "-infinity"),
        (9_223_371_331_199_999_999, "294276-12-31 23:59:59.999999+00"),
        (-211_813_488_000_000_000, "4714-11-24 00:00:00+00 BC"),
    ];
    for (microseconds, text) in cases {
        let expected = format!("{:?}", Value::PgText(text));
        assert_eq!(shown(Scalar::TimestampTz, Format::Binary, &microseconds.to_be_bytes()), expected);
        assert_eq!(shown(Scalar::TimestampTz, Format::Text, text.as_bytes()), expected);
    }
    assert!(shown(Scalar::TimestampTz, Format::Text, b"9999999-01-01 00:00:00+00").starts_with("invalid"));
}

#[test]
fn float4_is_the_number_of_the_shortest_text() {
    // What PostgreSQL 17 prints; the second and third are powers of two, where Rust's shortest text differs.
    assert!((float4(0.1_f32) - 0.1_f64).abs() == 0.0);
    assert!((float4(2.0_f32.powi(-12)) - 0.000_244_140_62_f64).abs() == 0.0);
    assert!((float4(2.0_f32.powi(-96)) - 1.262_177_5e-29_f64).abs() == 0.0);
}

#[test]
fn numbers_in_json_keep_their_digits() {
    assert_eq!(exact_float("1e400"), None);
    assert_eq!(exact_float("0.1000000000000000055511151231257827"), None);
    assert_eq!(exact_float("0.1"), Some(0.1));
    assert_eq!(exact_float("0.30000000000000004"), Some(0.1 + 0.2));
    assert_eq!(exact_float("1.50"), Some(1.5));
    assert_eq!(exact_float("-0.0"), Some(-0.0));
    assert_eq!(exact_float("1e-400"), None);
}

proptest! {
    #[test]
    fn days_go_to_dates_and_back(days in -2_500_000..2_200_000_000_i64) {
        prop_assert_eq!(Date::from_days(days).days(), days);
    }

    #[test]
    fn text_and_binary_are_the_same_instant(microseconds in -62_135_596_800_000_000..252_455_615_999_999_999_i64) {
        let binary = shown(Scalar::Timestamp, Format::Binary, &microseconds.to_be_bytes());
        let mut scratch = Vec::new();
        let bytes = microseconds.to_be_bytes();
        if let Ok(Value::Timestamp(date, time)) = decode(Scalar::Timestamp, Format::Binary, &bytes, &mut scratch) {
            let text = format!(
                "{:04}-{:02}-{:02} {:02}:{:02}:{:02}.{:06}",
                date.year, date.month, date.day, time.hour, time.minute, time.second, time.microsecond
            );
            prop_assert_eq!(shown(Scalar::Timestamp, Format::Text, text.as_bytes()), binary);
        }
    }

    #[test]
    fn every_float_survives_json(bits in any::<u64>()) {
        let number = f64::from_bits(bits);
        prop_assume!(number.is_finite());
        prop_assert_eq!(exact_float(&format!("{number:e}")), Some(number));
    }
}
