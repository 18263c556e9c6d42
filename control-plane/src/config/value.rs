//! Types of settings: how each is read, written and, if secret, hidden.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use figment::value::Value;
use hive_core::id::Namespace;

use super::etcd::StoreKind;
use super::sections::LogFormat;

/// A type that a setting can have.
pub(super) trait Setting: Clone {
    /// What it must be, after "must be".
    const EXPECTED: &'static str;
    /// Never shown.
    const SECRET: bool = false;
    /// Reads it, if it is one.
    fn read(value: &Value) -> Option<Self>;
    /// Writes it as TOML that `read` understands.
    fn show(&self) -> String;
}

/// Text that is never printed: no `Display`, and `Debug` masks it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The text, for the one place that needs it.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl Setting for Secret {
    const EXPECTED: &'static str = "text";
    const SECRET: bool = true;
    fn read(value: &Value) -> Option<Self> {
        text(value).map(Self)
    }
    fn show(&self) -> String {
        "\"***\"".to_owned()
    }
}

/// A number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

impl ByteSize {
    /// A number of KiB.
    #[must_use]
    pub const fn kib(n: u64) -> Self {
        Self(n << 10)
    }

    /// A number of MiB.
    #[must_use]
    pub const fn mib(n: u64) -> Self {
        Self(n << 20)
    }

    /// For lengths in memory.
    #[must_use]
    pub fn as_usize(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

const SIZES: &[(&str, u64)] = &[("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

impl Setting for ByteSize {
    const EXPECTED: &'static str = "a size such as 4MiB, 256KiB or a number of bytes";
    fn read(value: &Value) -> Option<Self> {
        if let Some(bytes) = number(value) {
            return Some(Self(bytes));
        }
        let text = text(value)?;
        let (unit, scale) = SIZES.iter().find(|(unit, _)| text.ends_with(unit))?;
        text.strip_suffix(unit)?.trim().parse::<u64>().ok()?.checked_mul(*scale).map(Self)
    }
    fn show(&self) -> String {
        let exact = SIZES.iter().find(|(_, scale)| self.0 > 0 && self.0.is_multiple_of(*scale));
        exact.map_or("\"0B\"".to_owned(), |(unit, scale)| format!("\"{}{unit}\"", self.0 / scale))
    }
}

const UNITS: &[(&str, u64)] = &[("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

impl Setting for Duration {
    const EXPECTED: &'static str = "a time such as 500ms, 30s, 10m, 24h or 1h30m";
    fn read(value: &Value) -> Option<Self> {
        let text = text(value)?;
        let mut rest = text.trim();
        let mut total = 0u64;
        if rest.is_empty() {
            return None;
        }
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit())?;
            let (count, tail) = rest.split_at(digits);
            let unit = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
            let (unit, tail) = tail.split_at(unit);
            let (_, scale) = UNITS.iter().find(|(name, _)| *name == unit)?;
            total = total.checked_add(count.parse::<u64>().ok()?.checked_mul(*scale)?)?;
            rest = tail;
        }
        Some(Self::from_millis(total))
    }
    fn show(&self) -> String {
        let ms = u64::try_from(self.as_millis()).unwrap_or(u64::MAX);
        let exact = UNITS.iter().find(|(_, scale)| ms > 0 && ms.is_multiple_of(*scale));
        exact.map_or("\"0s\"".to_owned(), |(unit, scale)| format!("\"{}{unit}\"", ms / scale))
    }
}

impl Setting for bool {
    const EXPECTED: &'static str = "true or false";
    fn read(value: &Value) -> Option<Self> {
        value.to_bool().or_else(|| text(value)?.parse().ok())
    }
    fn show(&self) -> String {
        self.to_string()
    }
}

impl Setting for u32 {
    const EXPECTED: &'static str = "a whole number";
    fn read(value: &Value) -> Option<Self> {
        number(value)?.try_into().ok()
    }
    fn show(&self) -> String {
        self.to_string()
    }
}

impl Setting for u64 {
    const EXPECTED: &'static str = "a whole number";
    fn read(value: &Value) -> Option<Self> {
        number(value)
    }
    fn show(&self) -> String {
        self.to_string()
    }
}

impl Setting for f64 {
    const EXPECTED: &'static str = "a number";
    fn read(value: &Value) -> Option<Self> {
        let whole = number(value).and_then(|n| u32::try_from(n).ok()).map(Self::from);
        let read = whole.or_else(|| value.to_num()?.to_f64()).or_else(|| text(value)?.parse().ok());
        read.filter(|n| n.is_finite())
    }
    fn show(&self) -> String {
        format!("{self:?}")
    }
}

impl Setting for String {
    const EXPECTED: &'static str = "text";
    fn read(value: &Value) -> Option<Self> {
        text(value)
    }
    fn show(&self) -> String {
        quoted(self)
    }
}

impl Setting for PathBuf {
    const EXPECTED: &'static str = "a path";
    fn read(value: &Value) -> Option<Self> {
        text(value).filter(|text| !text.is_empty()).map(Self::from)
    }
    fn show(&self) -> String {
        quoted(&self.to_string_lossy())
    }
}

impl Setting for SocketAddr {
    const EXPECTED: &'static str = "an address and port such as 127.0.0.1:7070 or [::1]:7070";
    fn read(value: &Value) -> Option<Self> {
        text(value)?.parse().ok()
    }
    fn show(&self) -> String {
        quoted(&self.to_string())
    }
}

impl Setting for LogFormat {
    const EXPECTED: &'static str = "text or json";
    fn read(value: &Value) -> Option<Self> {
        match text(value)?.as_str() {
            "text" => Some(Self::Text),
            "json" => Some(Self::Json),
            _ => None,
        }
    }
    fn show(&self) -> String {
        match self {
            Self::Text => "\"text\"".to_owned(),
            Self::Json => "\"json\"".to_owned(),
        }
    }
}

impl Setting for StoreKind {
    const EXPECTED: &'static str = "embedded or etcd";
    fn read(value: &Value) -> Option<Self> {
        match text(value)?.as_str() {
            "embedded" => Some(Self::Embedded),
            "etcd" => Some(Self::Etcd),
            _ => None,
        }
    }
    fn show(&self) -> String {
        match self {
            Self::Embedded => "\"embedded\"".to_owned(),
            Self::Etcd => "\"etcd\"".to_owned(),
        }
    }
}

impl Setting for Vec<String> {
    const EXPECTED: &'static str = "a list of texts";
    fn read(value: &Value) -> Option<Self> {
        match value {
            Value::Array(_, items) => items.iter().map(text).collect(),
            // The environment's way to write a list.
            one => Some(text(one)?.split(',').map(|item| item.trim().to_owned()).collect()),
        }
    }
    fn show(&self) -> String {
        format!("[{}]", self.iter().map(|item| quoted(item)).collect::<Vec<_>>().join(", "))
    }
}

impl Setting for Vec<Namespace> {
    const EXPECTED: &'static str = "a list of names, each of lower-case letters, digits and '-', at most 63 long";
    fn read(value: &Value) -> Option<Self> {
        match value {
            Value::Array(_, items) => items.iter().map(|item| Namespace::parse(&text(item)?).ok()).collect(),
            // The environment's way to write a list.
            one => text(one)?.split(',').map(|name| Namespace::parse(name.trim()).ok()).collect(),
        }
    }
    fn show(&self) -> String {
        format!("[{}]", self.iter().map(|name| quoted(name.as_str())).collect::<Vec<_>>().join(", "))
    }
}

/// Text, also where the environment made a number or a truth value of it.
fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(_, text) => Some(text.clone()),
        Value::Char(_, c) => Some(c.to_string()),
        Value::Bool(_, b) => Some(b.to_string()),
        Value::Num(..) => number(value).map(|n| n.to_string()),
        Value::Empty(..) | Value::Dict(..) | Value::Array(..) => None,
    }
}

fn number(value: &Value) -> Option<u64> {
    let Value::Num(_, number) = value else {
        let Value::String(_, text) = value else { return None };
        return text.replace('_', "").parse().ok();
    };
    match (number.to_u128(), number.to_i128()) {
        (Some(n), _) => n.try_into().ok(),
        (None, Some(n)) => n.try_into().ok(),
        (None, None) => None,
    }
}

/// A TOML basic string. JSON's escapes are a subset of TOML's.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
