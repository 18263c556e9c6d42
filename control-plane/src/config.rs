//! The settings of the control plane: flag > environment > file > default, parsed once into types.
//!
//! All faults are reported together. Each part of the server is given its own section and sees no
//! other. What the values mean is said at each setting, in `config/sections.rs`.

mod etcd;
mod fault;
mod flags;
mod print;
mod reader;
mod sections;
mod source;
mod value;

pub use etcd::{Etcd, StoreKind};
pub use fault::{Fault, Faults};
pub use flags::{Command, ConfigVerb, Flags, Program};
pub use print::page;
pub use sections::{
    Config, Limits, Log, LogFormat, Retention, Session, Shutdown, StoreLimits, TaskDefaults, Tls, TlsFiles, Transport,
    Watch,
};
pub use source::Sources;
pub use value::{ByteSize, Secret};

use reader::Reader;

/// A parsed configuration and where each value came from.
pub struct Loaded {
    /// The settings.
    pub config: Config,
    given: Vec<reader::Given>,
}

/// Parses and checks everything.
///
/// # Errors
/// Every fault found, in the order of the settings.
pub fn load(sources: &Sources) -> Result<Loaded, Faults> {
    let mut faults = Vec::new();
    let figment = sources.figment(&mut faults);
    let mut reader = Reader::new(&figment, faults);
    let config = Config::read(&mut reader, sources);
    config.check(&mut reader);
    reader.refuse_unknown();
    let (given, faults) = reader.finish();
    if faults.is_empty() { Ok(Loaded { config, given }) } else { Err(Faults(faults)) }
}

#[cfg(test)]
mod tests;
