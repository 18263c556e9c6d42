//! The bodies of all fuzz targets: each takes any bytes and may panic only if the product is at fault.
//! libFuzzer runs them through `fuzz_targets/`, plain `cargo test` through `stable.rs`.
//!
//! Bytes of a peer or a disk go in as they are (`wire`, `stored`, `journal`, `configs`); since such bytes
//! rarely get past the decoder, the others read them as decisions and make sequences of inputs from
//! them (`leader`, `session`, `calls`).

pub mod calls;
pub mod configs;
pub mod journal;
pub mod leader;
#[path = "../../net/memory.rs"]
#[allow(dead_code, reason = "shared with the transport lab, which uses more of it")]
mod memory;
pub mod session;
pub mod source;
pub mod stored;
pub mod wire;

/// A body.
pub type Body = fn(&[u8]);

/// All, by the names of their targets and folders of their corpora.
pub const TARGETS: &[(&str, Body)] = &[
    ("wire", wire::run),
    ("stored", stored::run),
    ("journal", journal::run),
    ("configs", configs::run),
    ("leader", leader::run),
    ("session", session::run),
    ("calls", calls::run),
];
