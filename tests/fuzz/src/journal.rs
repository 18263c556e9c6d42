//! The sidecar's files: the journal, replayed from any bytes and from sound records of any bytes; the
//! shim's records; names of attempts.

use std::path::Path;

use hive_sidecar::attempt::AttemptKey;
use hive_sidecar::journal;
use hive_sidecar::shim::files::{Cancel, Exit, Identity, Spec, Started};

use super::source::Source;

pub fn run(data: &[u8]) {
    let mut source = Source::new(data);
    match source.below(4) {
        0 => {
            let rest = rest(&mut source);
            let _damaged = journal::replay(Path::new("journal"), &rest);
        }
        1 => {
            // Framed soundly, so that the records themselves are read.
            let mut file = journal::HEADER.to_vec();
            let mut bodies = 0;
            while !source.is_dry() {
                journal::frame(source.chunk(), &mut file);
                bodies += 1;
            }
            if let Ok((state, sound)) = journal::replay(Path::new("journal"), &file) {
                assert!(sound <= file.len());
                assert!(state.attempts.len() <= bodies);
                // A torn end costs the last record at most.
                let torn = &file[..file.len() - usize::from(file.len() > journal::HEADER.len())];
                assert!(journal::replay(Path::new("journal"), torn).is_ok(), "a torn end is no damage");
            }
        }
        2 => {
            let rest = rest(&mut source);
            json::<Spec>(&rest);
            json::<Identity>(&rest);
            json::<Started>(&rest);
            json::<Cancel>(&rest);
            json::<Exit>(&rest);
        }
        _ => {
            let rest = rest(&mut source);
            let text = String::from_utf8_lossy(&rest);
            if let Ok(key) = AttemptKey::parse(&text) {
                assert_eq!(AttemptKey::parse(&key.to_string()), Ok(key));
            }
            if let Ok(key) = AttemptKey::from_dir_name(&text) {
                assert_eq!(AttemptKey::from_dir_name(&key.dir_name()), Ok(key));
            }
        }
    }
}

fn json<T: serde::Serialize + serde::de::DeserializeOwned>(bytes: &[u8]) {
    let Ok(value) = serde_json::from_slice::<T>(bytes) else { return };
    let once = serde_json::to_vec(&value).expect("what we read we can write");
    let again: T = serde_json::from_slice(&once).expect("what we write we can read");
    assert_eq!(serde_json::to_vec(&again).expect("as before"), once);
}

fn rest(source: &mut Source<'_>) -> Vec<u8> {
    let mut rest = Vec::new();
    while !source.is_dry() {
        rest.push(source.byte());
    }
    rest
}
