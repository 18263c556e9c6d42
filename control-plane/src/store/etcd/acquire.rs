//! Taking the lead: a new fence first, then everything as it was under it.

use bytes::Bytes;
use hive_core::id::Revision;
use hive_etcd::etcdserverpb::RangeResponse;
use hive_etcd::etcdserverpb::response_op::Response;
use hive_proto::store_v1 as pb;
use prost::Message as _;
use tokio::time::Instant;

use super::position::{Lead as Leader, Position, Stamp};
use super::ring::{Answer, Failed};
use super::verdict::Verdict;
use super::{Etcd, FORMAT, Lead, epoch, request};
use crate::store::embedded::ClusterId;
use crate::store::{Loaded, OpenError};

/// What a cluster says of itself.
#[derive(Clone, Copy, Debug)]
pub(super) struct Format {
    pub(super) generation: u64,
    pub(super) cluster: ClusterId,
}

impl Etcd {
    /// Wins the lead and loads. Once it is won no transaction of an older epoch can land, sent or not,
    /// so that what is loaded at that revision is final.
    pub(super) async fn take_lead(&self, lead: &mut Lead) -> Result<Loaded, OpenError> {
        let generation = self.format().await?.generation;
        lead.doubt = true;
        let revision = self.raise(lead, generation).await?;
        let (records, last) = self.load(revision).await?;
        if let Some(acknowledged) = lead.acknowledged {
            let found = Revision { cluster_generation: generation, seq: last.seq };
            if found < acknowledged {
                let what = format!("commit {acknowledged:?} was acknowledged, but the last one is {found:?}");
                return Err(self.untrusted(what));
            }
        }
        if last.epoch > epoch(generation, revision) {
            return Err(self.untrusted(format!("its last commit is of epoch {}, which is yet to come", last.epoch)));
        }
        lead.last = last;
        lead.doubt = false;
        let Stamp { seq, nonce, time, .. } = last;
        Ok(Loaded { epoch: epoch(generation, revision), seq, nonce, time, records })
    }

    /// What the cluster says of itself; a new one is named.
    pub(super) async fn format(&self) -> Result<Format, OpenError> {
        let cluster = ClusterId(self.options.random);
        let id = Bytes::copy_from_slice(&cluster.0.to_be_bytes());
        let newborn = pb::FormatRecord { format: FORMAT, cluster_generation: 1, cluster_id: id };
        let request = request::name_format(&self.keys, &newborn);
        let answer = self.txn(self.deadline(), &request).await.map_err(self.failed("read the format"))?.response;
        if answer.succeeded {
            return Ok(Format { generation: newborn.cluster_generation, cluster });
        }
        let value = match answer.responses.into_iter().next().and_then(|op| op.response) {
            Some(Response::ResponseRange(range)) => range.kvs.into_iter().next().map(|kv| kv.value),
            _ => None,
        };
        let format = value
            .and_then(|value| pb::FormatRecord::decode(value).ok())
            .ok_or_else(|| self.untrusted("its format can't be read"))?;
        if format.format > FORMAT {
            let found = format.format;
            return Err(self.untrusted(format!("it has format {found}, this version reads up to {FORMAT}")));
        }
        // Another process may have named it, or an earlier sending of ours.
        let id = <[u8; 16]>::try_from(&format.cluster_id[..]).map_err(|_| self.untrusted("its name can't be read"))?;
        Ok(Format { generation: format.cluster_generation, cluster: ClusterId(u128::from_be_bytes(id)) })
    }

    /// Takes the lead from whoever has it. Returns the revision at which it was won.
    async fn raise(&self, lead: &mut Lead, generation: u64) -> Result<i64, OpenError> {
        const STEP: &str = "take the lead";
        let until = self.deadline();
        loop {
            let was = self.position(until).await.map_err(self.failed(STEP))?.lead;
            lead.tries += 1;
            // Odd multiples of one number never meet within a process.
            let nonce = (self.options.random as u64) ^ lead.tries.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let request = request::raise(&self.keys, was.epoch.number, nonce, generation, &self.options.holder);
            let Answer { response, unsettled } = self.txn(until, &request).await.map_err(self.failed(STEP))?;
            if response.succeeded {
                return Ok(response.header.map_or(0, |header| header.revision));
            }
            let now = Position::read(&response.responses).map_err(|bad| self.untrusted(bad.to_string()))?.lead;
            // An earlier sending won it.
            if let Some(won) = won(now, nonce, unsettled) {
                return Ok(won);
            }
        }
    }

    /// All records as of one revision, page by page, and the stamp among them.
    async fn load(&self, revision: i64) -> Result<(Vec<(Bytes, Bytes)>, Stamp), OpenError> {
        let mut records = Vec::new();
        let mut last = Stamp::default();
        let mut from = self.keys.records();
        loop {
            let page = self.page(from.clone(), revision, self.deadline()).await;
            let page = page.map_err(self.failed("load the records"))?;
            let Some(newest) = page.kvs.last().map(|kv| kv.key.clone()) else { break };
            for kv in page.kvs {
                if kv.key == self.keys.stamp() {
                    last = Stamp::decode(&kv).map_err(|bad| self.untrusted(bad.to_string()))?;
                } else if let Some(key) = self.keys.record(&kv.key) {
                    records.push((key, kv.value));
                }
            }
            if !page.more {
                break;
            }
            from = request::behind(&newest);
        }
        Ok((records, last))
    }

    async fn page(&self, from: Bytes, revision: i64, until: Instant) -> Result<RangeResponse, Failed> {
        let request = request::page(&self.keys, from, revision);
        let call = self.ring.call(until, |mut kv| {
            let request = request.clone();
            async move { kv.range(request).await }
        });
        Ok(call.await?.response)
    }

    fn failed(&self, step: &'static str) -> impl Fn(Failed) -> OpenError {
        move |Failed { verdict, cause, .. }| match verdict {
            Verdict::Denied => self.untrusted(format!("can't {step}: {cause}")),
            _ => OpenError::Etcd { step, endpoints: self.options.endpoints.join(", "), source: cause },
        }
    }

    fn untrusted(&self, what: impl Into<String>) -> OpenError {
        OpenError::Keys { prefix: self.keys.prefix(), what: what.into() }
    }
}

/// The revision at which this nonce won the lead.
fn won(now: Leader, nonce: u64, unsettled: bool) -> Option<i64> {
    (unsettled && now.nonce == nonce).then_some(i64::try_from(now.epoch.number).ok())?
}
