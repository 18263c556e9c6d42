//! `hive.v1.ClusterService`.

use std::sync::Arc;

use hive_core::leader::View;
use hive_core::rejection::Rejection;
use hive_proto::v1;
use hive_proto::v1::cluster_service_server::ClusterService;
use tokio::time::Instant;
use tonic::{Request, Response, Status};

use super::check;
use super::convert;
use super::error::Reason;
use crate::clock;
use crate::driver::Handle;
use crate::store::Store;

/// Who this replica is.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The cluster, made with its store.
    pub cluster_id: String,
    /// This replica.
    pub replica_id: String,
    /// Where it is reached.
    pub endpoint: String,
    /// How its port is protected.
    pub security: v1::TransportSecurity,
}

/// See the module.
pub struct Cluster<S> {
    handle: Handle,
    store: Arc<S>,
    identity: Identity,
    since: Instant,
}

impl<S: Store> Cluster<S> {
    /// Over a driver.
    #[must_use]
    pub fn new(handle: Handle, store: Arc<S>, identity: Identity) -> Self {
        Self { handle, store, identity, since: clock::monotonic() }
    }

    async fn epoch(&self) -> Result<v1::LeaderEpoch, Status> {
        let epoch = self.handle.inspect(hive_core::leader::Leader::epoch).await?;
        Ok(v1::LeaderEpoch { cluster_generation: epoch.cluster_generation, number: epoch.number })
    }
}

#[tonic::async_trait]
impl<S: Store> ClusterService for Cluster<S> {
    async fn get_status(
        &self,
        request: Request<v1::GetStatusRequest>,
    ) -> Result<Response<v1::GetStatusResponse>, Status> {
        let namespace = check::namespace(&request.into_inner().namespace)?;
        let ns = namespace.clone();
        let read =
            move |view: &View<'_>| view.has(&ns).then(|| (view.counts(&ns), count_agents(view, &ns), view.revision()));
        let Some((tasks, agents, revision)) = self.handle.read(read).await? else {
            return Err(super::refusal::rejection(&Rejection::NamespaceNotFound));
        };
        let sessions = self.handle.inspect(hive_core::leader::Leader::sessions).await?;
        let health = self.store.health();
        let uptime = clock::monotonic().saturating_duration_since(self.since);
        Ok(Response::new(v1::GetStatusResponse {
            cluster_id: self.identity.cluster_id.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            leader_epoch: Some(self.epoch().await?),
            cluster_time: Some(check::time_out(self.handle.now())),
            uptime: Some(check::duration_out(uptime)),
            tasks: Some(v1::TaskCounts {
                pending: tasks.pending,
                assigned: tasks.assigned,
                input_required: tasks.input_required,
                succeeded: tasks.succeeded,
                failed: tasks.failed,
                cancelled: tasks.cancelled,
                expired: tasks.expired,
            }),
            agents: Some(agents),
            connected_sidecars: u32::try_from(sessions).unwrap_or(u32::MAX),
            store: Some(v1::StoreStatus {
                kind: "embedded".to_owned(),
                size_bytes: health.store_bytes,
                free_bytes: health.free_bytes,
                shedding: health.shedding,
            }),
            revision: Some(check::revision(revision)),
            transport_security: self.identity.security.into(),
        }))
    }

    async fn list_replicas(
        &self,
        _request: Request<v1::ListReplicasRequest>,
    ) -> Result<Response<v1::ListReplicasResponse>, Status> {
        let replica = v1::Replica {
            id: self.identity.replica_id.clone(),
            endpoint: self.identity.endpoint.clone(),
            leader: true,
            version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        Ok(Response::new(v1::ListReplicasResponse { replicas: vec![replica] }))
    }

    async fn transfer_leadership(
        &self,
        request: Request<v1::TransferLeadershipRequest>,
    ) -> Result<Response<v1::TransferLeadershipResponse>, Status> {
        let current = self.epoch().await?;
        if request.into_inner().leader_epoch.is_some_and(|asked| asked != current) {
            return Err(Reason::LeaderEpochStale.status("the lead has changed since that epoch"));
        }
        Err(Reason::NoSuccessor.status("an embedded store has one replica; there is none to hand the lead to"))
    }
}

fn count_agents(view: &View<'_>, namespace: &hive_core::id::Namespace) -> v1::AgentCounts {
    let mut counts = v1::AgentCounts::default();
    for id in view.agents_after(namespace, None) {
        let Some((record, entry)) = view.agent(namespace, &id) else { continue };
        match convert::phase(&record, &entry) {
            v1::AgentPhase::Ready => counts.ready += 1,
            v1::AgentPhase::Suspect => counts.suspect += 1,
            v1::AgentPhase::Lost => counts.lost += 1,
            v1::AgentPhase::Asleep => counts.asleep += 1,
            v1::AgentPhase::Gone => {}
            _ => counts.other += 1,
        }
    }
    counts
}
