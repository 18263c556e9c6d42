//! The store's own numbers: epoch, last commit, cluster time. Written with every commit.
//!
//! They are kept twice. Inside the database they commit with the records. After the commit they
//! are also written to a small file beside it, without a sync: that copy never runs ahead of what
//! was acknowledged and survives the process, so a database that lost or undid acknowledged
//! commits is noticed at the next open instead of passing for an older state.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use hive_core::id::LeaderEpoch;
use hive_core::time::Time;

/// File of the copy.
pub(super) const FILE: &str = "STAMP";

const MAGIC: &[u8; 8] = b"HIVESTMP";
const FIELDS: usize = 5;
const LEN: usize = FIELDS * 8;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Stamp {
    pub(super) epoch: LeaderEpoch,
    pub(super) seq: u64,
    pub(super) nonce: u64,
    pub(super) time: Time,
}

impl Stamp {
    pub(super) fn encode(self) -> [u8; LEN] {
        let fields = [self.epoch.cluster_generation, self.epoch.number, self.seq, self.nonce, self.time.0];
        let mut out = [0; LEN];
        for (place, field) in out.chunks_exact_mut(8).zip(fields) {
            place.copy_from_slice(&field.to_le_bytes());
        }
        out
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; LEN] = bytes.try_into().ok()?;
        let mut fields = [0; FIELDS];
        for (field, place) in fields.iter_mut().zip(bytes.as_chunks::<8>().0) {
            *field = u64::from_le_bytes(*place);
        }
        let [cluster_generation, number, seq, nonce, time] = fields;
        Some(Self { epoch: LeaderEpoch { cluster_generation, number }, seq, nonce, time: Time(time) })
    }

    /// Order of what was acknowledged; nonce and time say nothing about it.
    pub(super) fn position(self) -> (LeaderEpoch, u64) {
        (self.epoch, self.seq)
    }
}

/// The copy beside the database.
#[derive(Debug)]
pub(super) struct Beside {
    file: File,
    path: PathBuf,
}

impl Beside {
    pub(super) fn create(folder: &Path, stamp: Stamp) -> io::Result<()> {
        let file = File::create(folder.join(FILE))?;
        file.write_all_at(&framed(stamp), 0)?;
        file.sync_all()
    }

    /// The copy and its file; `None` for content that is not a stamp.
    pub(super) fn open(folder: &Path) -> io::Result<(Self, Option<Stamp>)> {
        let path = folder.join(FILE);
        let file = OpenOptions::new().read(true).write(true).open(&path)?;
        let mut bytes = [0; LEN + 16];
        let stamp = file.read_exact_at(&mut bytes, 0).ok().and_then(|()| unframed(&bytes));
        Ok((Self { file, path }, stamp))
    }

    /// Notes what has just become durable. Failing only weakens the check at the next open.
    pub(super) fn note(&self, stamp: Stamp) {
        if let Err(error) = self.file.write_all_at(&framed(stamp), 0) {
            tracing::warn!(%error, path = %self.path.display(), "stamp not written");
        }
    }
}

fn framed(stamp: Stamp) -> [u8; LEN + 16] {
    let mut out = [0; LEN + 16];
    let body = stamp.encode();
    out[..8].copy_from_slice(MAGIC);
    out[8..8 + LEN].copy_from_slice(&body);
    out[8 + LEN..].copy_from_slice(&fnv1a(&body).to_le_bytes());
    out
}

fn unframed(bytes: &[u8; LEN + 16]) -> Option<Stamp> {
    let body = bytes.strip_prefix(MAGIC)?.get(..LEN)?;
    let sum = bytes.last_chunk::<8>()?;
    (u64::from_le_bytes(*sum) == fnv1a(body)).then(|| Stamp::decode(body))?
}

/// FNV-1a, 64 bits: enough to tell 40 bytes from a torn or foreign write.
pub(super) fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |sum, b| (sum ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_back_and_notices_a_changed_byte() {
        let stamp = Stamp { epoch: LeaderEpoch { cluster_generation: 1, number: 2 }, seq: 3, nonce: 4, time: Time(5) };
        let bytes = framed(stamp);
        assert_eq!(unframed(&bytes), Some(stamp));
        for at in 0..bytes.len() {
            let mut bad = bytes;
            bad[at] ^= 1;
            assert_eq!(unframed(&bad), None, "byte {at}");
        }
    }
}
