//! Logs: one line per event on standard error, as text or JSON.
//!
//! Numbers belong to `metrics.rs`.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::FmtSpan;

use crate::config::{Log, LogFormat};

/// Why logging could not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The filter is not one.
    #[error("log filter {filter:?} is not understood; try info, or info,hive_control_plane=debug")]
    Filter {
        /// The filter given.
        filter: String,
        /// What is wrong with it.
        #[source]
        source: tracing_subscriber::filter::ParseError,
    },
    /// Another subscriber is there already.
    #[error("logging was started twice")]
    Twice,
}

/// Starts logging for the whole process and sends panics there too.
///
/// # Errors
/// The filter is malformed, or logging runs already.
pub fn start(log: &Log) -> Result<(), Error> {
    let filter = filter(&log.filter)?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_span_events(FmtSpan::NONE)
        .with_ansi(std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none());
    match log.format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    }
    .map_err(|_| Error::Twice)?;
    std::panic::set_hook(Box::new(|panic| {
        let at = panic.location().map(ToString::to_string);
        let text = crate::tasks::panic_text(panic.payload());
        tracing::error!(at, text, "panic");
    }));
    Ok(())
}

/// Checks a filter without using it.
///
/// # Errors
/// The filter is malformed.
pub fn filter(text: &str) -> Result<EnvFilter, Error> {
    EnvFilter::try_new(text).map_err(|source| Error::Filter { filter: text.to_owned(), source })
}
