//! Durations and sizes as people write them.

use std::time::Duration;

const DURATIONS: &[(&str, u64)] = &[("ms", 1), ("s", 1_000), ("min", 60_000), ("m", 60_000), ("h", 3_600_000)];
const SIZES: &[(&str, u64)] = &[("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("B", 1), ("", 1)];

/// `250ms`, `30s`, `10min`, `1h`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    scaled(text, DURATIONS)
        .map(Duration::from_millis)
        .ok_or_else(|| format!("{text:?} is not a duration; write 250ms, 30s, 10min or 1h"))
}

/// `4096`, `512KiB`, `1MiB`, `2GiB`.
pub(super) fn size(text: &str) -> Result<u64, String> {
    scaled(text, SIZES).ok_or_else(|| format!("{text:?} is not a size; write 4096, 512KiB, 1MiB or 2GiB"))
}

fn scaled(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let factor = units.iter().find(|(name, _)| *name == unit.trim_start())?.1;
    number.parse::<u64>().ok()?.checked_mul(factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_people_write() {
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("10 min"), Ok(Duration::from_secs(600)));
        assert_eq!(size("1MiB"), Ok(1 << 20));
        assert_eq!(size("77"), Ok(77));
        for wrong in ["", "s", "1 day", "-1s", "1.5s", "99999999999999999999s", "18446744073709551615h"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }
}
