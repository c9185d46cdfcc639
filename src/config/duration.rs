//! Durations as people write them: a number and a unit.

use crate::reader::{Parsed, Value};
use std::ops::RangeInclusive;

const UNITS: [(&str, u64); 5] = [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

/// Milliseconds of a text such as `500ms`, `10s`, `5m`, `1h` or `2d`.
fn parse(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let (_, factor) = UNITS.iter().find(|(u, _)| *u == unit)?;
    number.parse::<u64>().ok()?.checked_mul(*factor)
}

/// The shortest text that reads back to the same number of milliseconds.
pub(crate) fn show(ms: u64) -> String {
    match UNITS.iter().rev().find(|(_, factor)| ms != 0 && ms.is_multiple_of(*factor)) {
        Some((unit, factor)) => format!("{}{unit}", ms / factor),
        None => "0s".into(),
    }
}

/// Milliseconds in a range.
pub(crate) fn millis<T: TryFrom<u64>>(value: &Value<'_>, range: RangeInclusive<u64>) -> Parsed<T> {
    let allowed = format!("{} to {}", show(*range.start()), show(*range.end()));
    if !value.is_string() {
        return Err(format!(
            "needs a number with a unit in quotes, as \"{}\"; allowed are {allowed}",
            show(*range.start())
        ));
    }
    let text = value.string()?;
    let ms = parse(text).ok_or_else(|| {
        format!("\"{text}\" is not a duration; give a whole number and one of ms, s, m, h, d, as \"10s\" ({allowed})")
    })?;
    let fits = Some(ms).filter(|ms| range.contains(ms)).and_then(|ms| T::try_from(ms).ok());
    fits.ok_or_else(|| format!("\"{text}\" is out of range; use {allowed}"))
}

/// Whole seconds in a range, as a plain number or as a duration.
pub(crate) fn seconds(value: &Value<'_>, range: RangeInclusive<u64>) -> Parsed<u32> {
    if !value.is_string() {
        return value.integer(range, "seconds");
    }
    let ms: u64 = millis(value, range.start() * 1000..=range.end() * 1000)?;
    match ms % 1000 {
        0 => Ok((ms / 1000) as u32),
        _ => Err("is not a whole number of seconds; DNS knows no smaller TTL".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_reads_back() {
        for ms in [0, 1, 500, 999, 1000, 1500, 60_000, 90_000, 3_600_000, 86_400_000, 7 * 86_400_000 + 1] {
            assert_eq!(parse(&show(ms)), Some(ms), "{}", show(ms));
        }
        assert_eq!((show(90_000), show(3_600_000)), ("90s".into(), "1h".into()));
    }

    #[test]
    fn what_has_no_unit_or_no_number_is_no_duration() {
        for bad in [
            "",
            "10",
            "s",
            "-1s",
            "1.5s",
            "1 s",
            "1m30s",
            "10S",
            "99999999999999999999s",
            "18446744073709551615d",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
