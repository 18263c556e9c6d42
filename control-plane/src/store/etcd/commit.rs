//! One transaction: sent until its fate is known or time is up.

use std::sync::atomic::Ordering;

use hive_core::id::Revision;
use hive_etcd::etcdserverpb::{TxnRequest, TxnResponse};
use tokio::time::Instant;

use super::keys::Keys;
use super::position::{Position, Stamp};
use super::ring::{Answer, Failed};
use super::verdict::Verdict;
use super::{Etcd, Lead, request};
use crate::store::{Cause, CommitError, RefusedReason, Transaction};

impl Etcd {
    /// Commits, and keeps what is known of the lead in step. In doubt from before the first sending
    /// until the fate is known, so that a caller who gives up leaves a doubt behind.
    pub(super) async fn settle(&self, lead: &mut Lead, tx: &Transaction) -> Result<Revision, CommitError> {
        if lead.doubt {
            return Err(unknown("an earlier commit has an unknown outcome"));
        }
        if tx.ops.iter().any(|op| Keys::reserved(op.key())) {
            return Err(CommitError::Refused(RefusedReason::Malformed));
        }
        let until = self.deadline();
        if tx.prev_seq != lead.last.seq {
            // Another process may have written; nothing is sent that could land.
            let position = self.position(until).await.map_err(|failed| CommitError::Unknown(failed.cause))?;
            lead.last = position.last;
            if position.last.seq != tx.prev_seq || position.lead.epoch != tx.fence {
                return Err(position.refusal(tx));
            }
        }
        let request = request::commit(&self.keys, tx, &lead.last);
        lead.doubt = true;
        let result = match self.txn(until, &request).await {
            Ok(Answer { response, .. }) if response.succeeded => {
                self.no_space.store(false, Ordering::Relaxed);
                Ok(response.header.map_or(0, |header| header.revision))
            }
            Ok(Answer { response, unsettled }) => match Position::read(&response.responses) {
                Ok(position) if unsettled && position.holds(tx) => Ok(position.last.revision),
                Ok(position) => Err(position.refusal(tx)),
                Err(unreadable) => Err(unknown(unreadable)),
            },
            Err(failed) => self.judge(failed, tx, until).await,
        };
        lead.doubt = matches!(result, Err(CommitError::Unknown(_)));
        let revision = result?;
        let time = tx.time.max(lead.last.time);
        lead.last = Stamp { seq: tx.seq, nonce: tx.nonce, time, epoch: tx.fence, revision };
        let landed = Revision { cluster_generation: tx.fence.cluster_generation, seq: tx.seq };
        lead.acknowledged = Some(landed);
        Ok(landed)
    }

    /// What an error means for the transaction; the revision if it has landed all the same.
    async fn judge(&self, failed: Failed, tx: &Transaction, until: Instant) -> Result<i64, CommitError> {
        let Failed { verdict, unsettled, cause } = failed;
        let reason = match verdict {
            Verdict::NoSpace => RefusedReason::NoSpace,
            Verdict::TooLarge => RefusedReason::TooLarge,
            _ => return Err(CommitError::Unknown(cause)),
        };
        self.no_space.fetch_or(reason == RefusedReason::NoSpace, Ordering::Relaxed);
        // The write that crosses the quota is answered so although it was applied. What was answered
        // can't land later: a look tells, unless an earlier sending is still about.
        let position = self.position(until).await.map_err(|failed| CommitError::Unknown(failed.cause))?;
        if position.holds(tx) {
            Ok(position.last.revision)
        } else if position.lead.epoch != tx.fence {
            Err(position.refusal(tx))
        } else if unsettled {
            Err(CommitError::Unknown(cause))
        } else {
            Err(CommitError::Refused(reason))
        }
    }

    /// Who leads and what the last commit is, read from a quorum.
    pub(super) async fn position(&self, until: Instant) -> Result<Position, Failed> {
        let Answer { response, unsettled } = self.txn(until, &request::position(&self.keys)).await?;
        let failed = |unreadable: super::position::Unreadable| Failed {
            verdict: Verdict::Denied,
            unsettled,
            cause: unreadable.into(),
        };
        Position::read(&response.responses).map_err(failed)
    }

    pub(super) async fn txn(&self, until: Instant, request: &TxnRequest) -> Result<Answer<TxnResponse>, Failed> {
        let call = self.ring.call(until, |mut kv| {
            let request = request.clone();
            async move { kv.txn(request).await }
        });
        call.await
    }
}

fn unknown(why: impl Into<Cause>) -> CommitError {
    CommitError::Unknown(why.into())
}
