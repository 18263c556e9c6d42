//! Loopback ports that stay ours while a server on them is killed and started again: below the
//! range from which the kernel gives outgoing connections theirs, and locked across processes.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use super::clock::{Rng, now};

const FIRST: u64 = 10_000;
const LAST: u64 = 29_999;

/// A port reserved until this is dropped.
#[derive(Debug)]
pub(crate) struct Port {
    number: u16,
    _lock: File,
}

impl Port {
    /// Reserves a free one.
    pub(crate) fn reserve() -> Self {
        let folder = std::env::temp_dir().join("hive-e2e-ports");
        std::fs::create_dir_all(&folder).expect("a folder for port locks");
        let since = now();
        let mut rng = Rng(u64::from(std::process::id()) << 32);
        loop {
            rng.0 ^= since.elapsed_nanos();
            let number = u16::try_from(rng.within(FIRST, LAST)).expect("a port");
            let path = folder.join(number.to_string());
            let Ok(lock) = File::options().create(true).truncate(false).write(true).open(path) else { continue };
            if lock.try_lock().is_err() {
                continue;
            }
            if TcpListener::bind((Ipv4Addr::LOCALHOST, number)).is_ok() {
                return Self { number, _lock: lock };
            }
        }
    }

    pub(crate) fn number(&self) -> u16 {
        self.number
    }

    pub(crate) fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.number))
    }
}

trait Nanos {
    fn elapsed_nanos(&self) -> u64;
}

impl Nanos for std::time::Instant {
    fn elapsed_nanos(&self) -> u64 {
        now().duration_since(*self).as_nanos() as u64
    }
}
