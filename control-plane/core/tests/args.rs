//! The words of a script's line.

use std::sync::Arc;
use std::time::Duration;

use hive_core::record::Labels;

/// `key=value` words of a line.
pub(crate) struct Args<'a>(pub(crate) Vec<&'a str>);

impl<'a> Args<'a> {
    pub(crate) fn get(&self, key: &str) -> Option<&'a str> {
        self.0.iter().find_map(|word| word.strip_prefix(key)?.strip_prefix('='))
    }

    pub(crate) fn has(&self, flag: &str) -> bool {
        self.0.contains(&flag)
    }

    pub(crate) fn at(&self, n: usize) -> &'a str {
        self.0.get(n).copied().unwrap_or_else(|| panic!("word {n} is missing in {:?}", self.0))
    }

    pub(crate) fn number<T: std::str::FromStr>(&self, key: &str) -> Option<T> {
        self.get(key).map(|v| v.parse().unwrap_or_else(|_| panic!("{key}={v} is no number")))
    }

    pub(crate) fn span(&self, key: &str) -> Option<Duration> {
        self.get(key).map(span)
    }

    pub(crate) fn list<T: FromIterator<Arc<str>>>(&self, key: &str) -> T {
        self.get(key).into_iter().flat_map(|v| v.split(',')).filter(|v| !v.is_empty()).map(Arc::from).collect()
    }

    pub(crate) fn labels(&self, key: &str) -> Labels {
        let pairs = self.get(key).into_iter().flat_map(|v| v.split(',')).filter_map(|pair| pair.split_once(':'));
        pairs.map(|(k, v)| (Arc::from(k), Arc::from(v))).collect()
    }
}

pub(crate) fn span(text: &str) -> Duration {
    let at = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or_else(|| panic!("{text} has no unit"));
    let n: u64 = text[..at].parse().unwrap();
    match &text[at..] {
        "ms" => Duration::from_millis(n),
        "s" => Duration::from_secs(n),
        "m" => Duration::from_secs(60 * n),
        "h" => Duration::from_secs(3600 * n),
        unit => panic!("unknown unit {unit}"),
    }
}
