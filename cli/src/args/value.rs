//! Values on the command line that need a reader of their own.

use std::time::Duration;

/// `10s`, `500ms`, `5m`, `2h`, `1d`; a bare number is seconds.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let hint = || "give a time such as 500ms, 10s, 5m, 2h or 1d".to_owned();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..digits].parse().map_err(|_| hint())?;
    let millis = match &text[digits..] {
        "ms" => Some(number),
        "" | "s" => number.checked_mul(1_000),
        "m" => number.checked_mul(60_000),
        "h" => number.checked_mul(3_600_000),
        "d" => number.checked_mul(86_400_000),
        _ => None,
    };
    match millis {
        Some(0) => Err("must be longer than nothing".to_owned()),
        // A hundred years: keeps every sum of instants far from overflow.
        Some(millis) if millis <= 3_153_600_000_000 => Ok(Duration::from_millis(millis)),
        _ => Err(hint()),
    }
}

/// `key=value`.
pub(crate) fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("give it as KEY=VALUE".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, millis) in [("500ms", 500), ("10s", 10_000), ("7", 7_000), ("5m", 300_000), ("2h", 7_200_000)] {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "s", "-1s", "1.5s", "0", "99999999999999999999s", "999999999d", "1 s"] {
            assert!(duration(text).is_err(), "{text:?}");
        }
    }
}
