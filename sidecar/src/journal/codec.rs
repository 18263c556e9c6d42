//! Facts as bytes: protobuf messages of the journal's own. Numbers are never reused.

use hive_proto::sidecar_v1::{self, DeclineReason, FailureReason, Outcome};
use hive_proto::v1::{self, DesiredState, DisconnectPolicy};
use prost::Message;

use crate::attempt::{AttemptEnd, AttemptKey};
use crate::session::record::{Assigned, Entry};
use crate::session::settled::Settlement;
use crate::session::{Connection, Leader, Revision};

#[derive(Clone, PartialEq, Message)]
struct Record {
    #[prost(oneof = "Kind", tags = "1, 2, 3, 4, 5, 6, 7, 8, 9")]
    kind: Option<Kind>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum Kind {
    #[prost(message, tag = "1")]
    Boot(Boot),
    #[prost(uint64, tag = "2")]
    Generation(u64),
    #[prost(uint64, tag = "3")]
    Connection(u64),
    #[prost(message, tag = "4")]
    Intent(Intent),
    #[prost(message, tag = "5")]
    Ended(sidecar_v1::Result),
    #[prost(message, tag = "6")]
    Settled(SettledRecord),
    #[prost(message, tag = "7")]
    Floor(v1::Revision),
    #[prost(message, tag = "8")]
    Desired(sidecar_v1::Drain),
    #[prost(string, tag = "9")]
    Cluster(String),
}

#[derive(Clone, PartialEq, Message)]
struct Boot {
    #[prost(bytes = "vec", tag = "1")]
    boot_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    host_boot: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct Intent {
    #[prost(message, optional, tag = "1")]
    attempt: Option<sidecar_v1::AttemptRef>,
    #[prost(string, tag = "2")]
    agent: String,
    #[prost(message, optional, tag = "3")]
    revision: Option<v1::Revision>,
    #[prost(message, optional, tag = "4")]
    leader: Option<sidecar_v1::LeaderEpoch>,
    #[prost(enumeration = "DisconnectPolicy", tag = "5")]
    policy: i32,
    #[prost(uint32, tag = "6")]
    inputs_asked: u32,
    #[prost(uint64, tag = "7")]
    grace_ms: u64,
}

#[derive(Clone, PartialEq, Message)]
struct SettledRecord {
    #[prost(message, optional, tag = "1")]
    attempt: Option<sidecar_v1::AttemptRef>,
    #[prost(message, optional, tag = "2")]
    revision: Option<v1::Revision>,
    #[prost(oneof = "How", tags = "3, 4, 5")]
    how: Option<How>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum How {
    #[prost(enumeration = "DeclineReason", tag = "3")]
    Declined(i32),
    #[prost(bool, tag = "4")]
    Lost(bool),
    #[prost(bool, tag = "5")]
    Released(bool),
}

/// A fact as bytes.
pub(super) fn encode(entry: &Entry) -> Vec<u8> {
    let kind = match entry {
        Entry::Boot { boot_id, host_boot } => {
            Kind::Boot(Boot { boot_id: boot_id.to_vec(), host_boot: host_boot.to_vec() })
        }
        Entry::Cluster(cluster) => Kind::Cluster(cluster.clone()),
        Entry::Generation(generation) => Kind::Generation(*generation),
        Entry::Connection(connection) => Kind::Connection(connection.0),
        Entry::Intent { key, assigned } => Kind::Intent(Intent {
            attempt: Some((*key).into()),
            agent: assigned.agent.clone(),
            revision: Some(revision(assigned.revision)),
            leader: Some(assigned.leader.to_wire()),
            policy: assigned.policy.into(),
            inputs_asked: assigned.inputs_asked,
            grace_ms: assigned.grace_ms,
        }),
        Entry::Ended { key, end } => Kind::Ended(crate::session::result_to_wire(*key, end)),
        Entry::Settled { key, settlement, revision: at } => Kind::Settled(SettledRecord {
            attempt: Some((*key).into()),
            revision: Some(revision(*at)),
            how: Some(match settlement {
                Settlement::Declined(reason) => How::Declined((*reason).into()),
                Settlement::Lost => How::Lost(true),
                Settlement::Released => How::Released(true),
            }),
        }),
        Entry::Floor(at) => Kind::Floor(revision(*at)),
        Entry::Desired { agent, state } => {
            Kind::Desired(sidecar_v1::Drain { agent_id: agent.clone(), desired_state: (*state).into() })
        }
    };
    Record { kind: Some(kind) }.encode_to_vec()
}

/// Bytes as a fact; nothing if they are none this version knows.
pub(super) fn decode(bytes: &[u8]) -> Option<Entry> {
    let record = Record::decode(bytes).ok()?;
    Some(match record.kind? {
        Kind::Boot(boot) => {
            Entry::Boot { boot_id: boot.boot_id.try_into().ok()?, host_boot: boot.host_boot.try_into().ok()? }
        }
        Kind::Cluster(cluster) => Entry::Cluster(cluster),
        Kind::Generation(generation) => Entry::Generation(generation),
        Kind::Connection(connection) => Entry::Connection(Connection(connection)),
        Kind::Intent(intent) => Entry::Intent {
            key: key(intent.attempt.as_ref())?,
            assigned: Assigned {
                policy: intent.policy(),
                agent: intent.agent,
                revision: Revision::from_wire(intent.revision.as_ref()),
                leader: Leader::from_wire(intent.leader.as_ref()),
                inputs_asked: intent.inputs_asked,
                grace_ms: intent.grace_ms,
            },
        },
        Kind::Ended(result) => Entry::Ended { key: key(result.attempt.as_ref())?, end: end(result) },
        Kind::Settled(settled) => Entry::Settled {
            key: key(settled.attempt.as_ref())?,
            revision: Revision::from_wire(settled.revision.as_ref()),
            settlement: match settled.how? {
                How::Declined(reason) => Settlement::Declined(DeclineReason::try_from(reason).unwrap_or_default()),
                How::Lost(_) => Settlement::Lost,
                How::Released(_) => Settlement::Released,
            },
        },
        Kind::Floor(at) => Entry::Floor(Revision::from_wire(Some(&at))),
        Kind::Desired(drain) => {
            Entry::Desired { state: DesiredState::try_from(drain.desired_state).ok()?, agent: drain.agent_id }
        }
    })
}

fn revision(at: Revision) -> v1::Revision {
    v1::Revision { cluster_generation: at.cluster_generation, seq: at.seq }
}

fn key(wire: Option<&sidecar_v1::AttemptRef>) -> Option<AttemptKey> {
    AttemptKey::try_from(wire?).ok()
}

fn end(result: sidecar_v1::Result) -> AttemptEnd {
    AttemptEnd {
        outcome: Outcome::try_from(result.outcome).unwrap_or_default(),
        reason: FailureReason::try_from(result.reason).unwrap_or_default(),
        started_ms: millis(result.start_time),
        ended_ms: millis(result.end_time),
        payload: result.payload,
        message: result.message,
        exit_code: result.exit_code,
        signal: result.signal,
        retryable: result.retryable,
    }
}

fn millis(at: Option<prost_types::Timestamp>) -> u64 {
    let at = at.unwrap_or_default();
    let seconds = u64::try_from(at.seconds).unwrap_or(0);
    seconds.saturating_mul(1_000) + u64::try_from(at.nanos).unwrap_or(0) / 1_000_000
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::journal) fn one_of_each() -> Vec<Entry> {
        let key = AttemptKey { task: [3; 16], attempt: 2 };
        let at = Revision { cluster_generation: 1, seq: 44 };
        let assigned = Assigned {
            agent: "a".into(),
            revision: at,
            leader: Leader { cluster_generation: 1, number: 5 },
            policy: DisconnectPolicy::Stop,
            inputs_asked: 2,
            grace_ms: 10_000,
        };
        let end = AttemptEnd {
            payload: Some(v1::Payload { data: vec![0, 255, 7].into(), content_type: "x/y".into() }),
            exit_code: Some(75),
            signal: None,
            ..AttemptEnd::failed(FailureReason::ExitCode, "no", true, 1_234, 5_678_901)
        };
        let settled = |settlement| Entry::Settled { key, settlement, revision: at };
        vec![
            Entry::Boot { boot_id: [1; 16], host_boot: [2; 16] },
            Entry::Generation(9),
            Entry::Connection(Connection(17)),
            Entry::Intent { key, assigned },
            Entry::Ended { key, end },
            settled(Settlement::Declined(DeclineReason::JournalFull)),
            settled(Settlement::Lost),
            settled(Settlement::Released),
            Entry::Floor(at),
            Entry::Desired { agent: "b".into(), state: DesiredState::Removed },
            Entry::Cluster("c".into()),
        ]
    }

    #[test]
    fn every_fact_survives_its_bytes() {
        for entry in one_of_each() {
            assert_eq!(decode(&encode(&entry)), Some(entry));
        }
        assert_eq!(decode(&[]), None);
        assert_eq!(decode(&[0xff; 9]), None);
    }
}
