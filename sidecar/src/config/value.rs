//! What a single value of the file may be. An error says what is wrong with it; its reader adds where it stands.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use toml::Value;

use super::{RuntimeKind, units};

pub(super) fn string(value: Value) -> Result<String, String> {
    match value {
        Value::String(text) if text.contains('\0') => Err("must not hold a zero byte".to_owned()),
        Value::String(text) => Ok(text),
        other => Err(format!("must be text, not {}", other.type_str())),
    }
}

pub(super) fn path(value: Value) -> Result<PathBuf, String> {
    string(value).map(PathBuf::from)
}

pub(super) fn strings(value: Value) -> Result<Vec<String>, String> {
    match value {
        Value::Array(list) => list.into_iter().map(string).collect(),
        other => Err(format!("must be a list of texts, not {}", other.type_str())),
    }
}

pub(super) fn map(value: Value) -> Result<BTreeMap<String, String>, String> {
    match value {
        Value::Table(table) => table.into_iter().map(|(k, v)| Ok((k, string(v)?))).collect(),
        other => Err(format!("must be a table of texts, not {}", other.type_str())),
    }
}

pub(super) fn number(value: Value, low: i64, high: i64) -> Result<i64, String> {
    match value {
        Value::Integer(n) if (low..=high).contains(&n) => Ok(n),
        other => Err(format!("must be a number from {low} to {high}, not {other}")),
    }
}

pub(super) fn duration(value: Value) -> Result<Duration, String> {
    units::duration(&string(value)?)
}

pub(super) fn size(value: Value) -> Result<u64, String> {
    match value {
        Value::Integer(n) => u64::try_from(n).map_err(|_| "must not be negative".to_owned()),
        other => units::size(&string(other)?),
    }
}

pub(super) fn runtime(value: Value) -> Result<RuntimeKind, String> {
    match string(value)?.as_str() {
        "process" => Ok(RuntimeKind::Process),
        "command" => Ok(RuntimeKind::Command),
        other => Err(format!("{other:?} is unknown; one of \"process\", \"command\"")),
    }
}

pub(super) fn limited(text: &str, min: usize, max: usize) -> Result<(), String> {
    if (min..=max).contains(&text.len()) { Ok(()) } else { Err(format!("{text:?} must have {min} to {max} bytes")) }
}

pub(super) fn dns_label(text: &str) -> Result<(), String> {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    let ends = bytes.first().is_some_and(|&b| plain(b)) && bytes.last().is_some_and(|&b| plain(b));
    if bytes.len() <= 63 && ends && bytes.iter().all(|&b| plain(b) || b == b'-') {
        Ok(())
    } else {
        Err(format!("{text:?} must be 1 to 63 of a-z, 0-9 and -, not beginning or ending with -"))
    }
}

pub(super) fn endpoint(text: &str, tls: bool, insecure: bool) -> Result<(), String> {
    let uri: tonic::transport::Uri = text.parse().map_err(|error| format!("{text:?} is not a URL: {error}"))?;
    let host = match (uri.scheme_str(), uri.host()) {
        (Some("https"), Some(_)) if tls => return Ok(()),
        (Some("https"), Some(_)) => {
            return Err(format!("{text:?} needs tls.ca (--ca): the CA that signed the control plane's certificate"));
        }
        (Some("http"), Some(_)) if tls => {
            return Err(format!("{text:?} is plain text, but certificates are given; say https://"));
        }
        (Some("http"), Some(host)) => host,
        _ => return Err(format!("{text:?} must look like http://host:port or https://host:port")),
    };
    let address = host.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
    if insecure || host == "localhost" || address.is_ok_and(|ip| ip.is_loopback()) {
        Ok(())
    } else {
        Err(format!(
            "{text:?} is not on this machine and plain text is readable on the way; say https:// and --ca, or --insecure to allow it"
        ))
    }
}
