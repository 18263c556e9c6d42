//! Identities and counters as types, so that none is mistaken for another.
//!
//! Only their form is checked here; whether they are known or current is for the rules.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

use crate::time::Time;

/// Why a name was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The name is empty.
    #[error("must not be empty")]
    Empty,
    /// The name is longer than its limit in bytes.
    #[error("must be at most {0} bytes long")]
    TooLong(usize),
    /// A DNS-1123 label was expected.
    #[error("must be lower-case letters, digits and '-', beginning and ending with a letter or digit")]
    NotDns1123,
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks that `s` is a DNS-1123 label of at most 63 bytes.
            ///
            /// # Errors
            /// Names the rule that `s` breaks.
            pub fn parse(s: &str) -> Result<Self, NameError> {
                dns1123(s)?;
                Ok(Self(Arc::from(s)))
            }

            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

name! {
    /// A tenant. It owns its agents, sidecars and tasks; nothing crosses namespaces.
    Namespace
}
name! {
    /// An agent, unique in its namespace.
    AgentId
}
name! {
    /// A sidecar, unique in its namespace.
    SidecarId
}

fn dns1123(s: &str) -> Result<(), NameError> {
    const LIMIT: usize = 63;
    let edge = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    match s.as_bytes() {
        [] => Err(NameError::Empty),
        b if b.len() > LIMIT => Err(NameError::TooLong(LIMIT)),
        b @ [first, .., last] if edge(*first) && edge(*last) && b.iter().all(|b| edge(*b) || *b == b'-') => Ok(()),
        [only] if edge(*only) => Ok(()),
        _ => Err(NameError::NotDns1123),
    }
}

/// A task's id: a UUIDv7 chosen by the client, so that a repeated submit finds itself.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskId(pub [u8; 16]);

/// Why a task id was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TaskIdError {
    /// The text is not a UUID.
    #[error("must be a UUID, such as 01890a5d-ac96-774b-bcce-b302099a8057")]
    NotUuid,
    /// The UUID is not of version 7.
    #[error("must be a UUID of version 7")]
    NotV7,
}

impl TaskId {
    /// Builds an id from its time and 74 bits of randomness (RFC 9562, section 5.7).
    #[must_use]
    pub fn new(time: Time, random: u128) -> Self {
        let value = (u128::from(time.0) << 80)
            | (7 << 76)
            | (((random >> 62) & 0xfff) << 64)
            | (0b10 << 62)
            | (random & ((1 << 62) - 1));
        Self(value.to_be_bytes())
    }

    /// Checks version and variant.
    ///
    /// # Errors
    /// [`TaskIdError::NotV7`] for any other version or variant.
    pub fn from_bytes(bytes: [u8; 16]) -> Result<Self, TaskIdError> {
        if bytes[6] >> 4 == 7 && bytes[8] >> 6 == 0b10 { Ok(Self(bytes)) } else { Err(TaskIdError::NotV7) }
    }

    /// Reads the hyphenated or the plain form, in either case.
    ///
    /// # Errors
    /// Says whether the text is no UUID at all or one of another version.
    pub fn parse(text: &str) -> Result<Self, TaskIdError> {
        let hyphens = [8, 13, 18, 23];
        let hyphenated = text.len() == 36;
        if !hyphenated && text.len() != 32 {
            return Err(TaskIdError::NotUuid);
        }
        let mut bytes = [0u8; 16];
        let mut digits = 0;
        for (at, c) in text.bytes().enumerate() {
            if hyphenated && hyphens.contains(&at) {
                if c != b'-' {
                    return Err(TaskIdError::NotUuid);
                }
                continue;
            }
            let digit = char::from(c).to_digit(16).ok_or(TaskIdError::NotUuid)?;
            bytes[digits / 2] |= u8::try_from(digit).unwrap_or(0) << (4 * ((digits + 1) % 2));
            digits += 1;
        }
        if digits == 32 { Self::from_bytes(bytes) } else { Err(TaskIdError::NotUuid) }
    }

    /// The moment the id was made, by its maker's clock.
    #[must_use]
    pub fn time(self) -> Time {
        Time(u64::try_from(u128::from_be_bytes(self.0) >> 80).unwrap_or(0))
    }

    /// The lowest id of a moment; retention floors compare against it.
    #[must_use]
    pub fn lowest_at(time: Time) -> Self {
        Self((u128::from(time.0) << 80).to_be_bytes())
    }
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, byte) in self.0.iter().enumerate() {
            if matches!(at, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

macro_rules! counter {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $inner);

        impl $name {
            /// The next value.
            #[must_use]
            pub fn next(self) -> Self {
                Self(self.0 + 1)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

counter! {
    /// Number of an assignment of a task, from 1; 0 before the first. (task, attempt) is the
    /// fencing token: only the current attempt commits a result.
    Attempt(u32)
}
counter! {
    /// Minted by the leader for a sidecar at a host boot or a lost journal; a sidecar restart keeps it.
    Generation(u64)
}
counter! {
    /// How often an agent has moved between hosts.
    MoveNumber(u64)
}
counter! {
    /// Journaled by a sidecar before each dial; the highest wins.
    ConnectionNumber(u64)
}
counter! {
    /// Position of an assignment in one session, from 1.
    AssignNumber(u64)
}

/// A process's random identity, kept in the sidecar's journal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BootId(pub u128);

/// Which life of an agent an attempt belongs to. Only grows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Incarnation {
    /// Moves between hosts so far.
    pub moved: MoveNumber,
    /// Generation of the host.
    pub generation: Generation,
}

/// Identity of one live stream of a sidecar. The highest wins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionEpoch {
    /// Generation of the sidecar.
    pub generation: Generation,
    /// Its connection number.
    pub connection: ConnectionNumber,
}

/// The fence in every write: raised by winning, deposing or handing over the lead.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaderEpoch {
    /// Raised by a restore from a backup.
    pub cluster_generation: u64,
    /// etcd: `mod_revision` of the leader key; embedded: a counter bumped at each open.
    pub number: u64,
}

impl fmt::Display for LeaderEpoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.cluster_generation, self.number)
    }
}

/// Hive's own commit number; the same in every store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision {
    /// Raised by a restore from a backup.
    pub cluster_generation: u64,
    /// Number of the commit, from 1.
    pub seq: u64,
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.cluster_generation, self.seq)
    }
}

/// The token of one attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AttemptId {
    /// The task.
    pub task: TaskId,
    /// Its attempt.
    pub attempt: Attempt,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn task_ids_carry_their_time_and_read_back() {
        let id = TaskId::new(Time(1_700_000_000_123), u128::MAX);
        assert_eq!(id.time(), Time(1_700_000_000_123));
        assert_eq!(TaskId::parse(&id.to_string()), Ok(id));
        assert_eq!(TaskId::parse(&id.to_string().replace('-', "").to_uppercase()), Ok(id));
        assert!(TaskId::lowest_at(id.time()) <= id);
    }

    #[test]
    fn other_texts_are_refused_with_their_reason() {
        assert_eq!(TaskId::parse("x"), Err(TaskIdError::NotUuid));
        assert_eq!(TaskId::parse("01890a5d-ac96-474b-bcce-b302099a8057"), Err(TaskIdError::NotV7));
        assert_eq!(TaskId::parse("01890a5dac96-774b-bcce-b302099a8057-"), Err(TaskIdError::NotUuid));
        assert_eq!(AgentId::parse(""), Err(NameError::Empty));
        assert_eq!(AgentId::parse("-a"), Err(NameError::NotDns1123));
        assert_eq!(AgentId::parse("A"), Err(NameError::NotDns1123));
        assert_eq!(AgentId::parse(&"a".repeat(64)), Err(NameError::TooLong(63)));
        assert!(AgentId::parse("a").is_ok());
    }
}
