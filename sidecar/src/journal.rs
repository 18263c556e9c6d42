//! The journal: what must survive the sidecar's own death, in one append-only file.
//!
//! Layout: [`HEADER`], then records of `length, CRC-32, bytes` (little endian). An append is one
//! `write`, so it survives kill -9 once it returns; `fdatasync` follows for what nobody has released
//! 100 ms later. A torn end is cut off; damage in the middle is an error. When little of the file is
//! still of use it is rewritten and renamed over. Syncs and rewrites happen on threads that may block.
//!
//! What the facts mean is left to [`crate::session`].

mod codec;
mod file;
mod keeper;

use std::path::PathBuf;

pub use file::{Journal, Limits, frame, replay};
pub use keeper::{Append, Keeper, Lost, Syncing};

/// First bytes of the file; the number is the version of the format.
pub const HEADER: &[u8; 16] = b"hive-sidecar/1\r\n";

/// The journal cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another sidecar holds this state folder.
    #[error("another sidecar uses {dir}; stop it, or give this one its own --state-dir")]
    Locked {
        /// The folder.
        dir: PathBuf,
    },
    /// The file is not a journal, or of a later format.
    #[error(
        "{path} is not a journal this version can read; use the version that wrote it, or move it \
         away to start without its unfinished attempts and unsent results"
    )]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// A record before the last one is damaged.
    #[error(
        "{path} is damaged at byte {offset}, before its end; results after it may be unsent. To go \
         on without what follows, cut it: truncate -s {offset} {path}; to start afresh, move it away"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where the damaged record begins.
        offset: u64,
    },
    /// An operation failed.
    #[error("cannot {doing} {path}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// To what.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// An append that did not happen.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// The file has reached its limit, or the disk has too little room: intents are not taken.
    #[error("the journal is full")]
    Full,
    /// The disk failed.
    #[error("the disk refused a write")]
    Io(#[source] std::io::Error),
}
