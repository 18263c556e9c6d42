//! A stage for scenes that are not drawn: the control plane with its default times, whatever else the
//! scene needs, and cues given from outside at their virtual times.

use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hive_proto::sidecar_v1 as pb;
use hive_proto::sidecar_v1::sidecar_message::Kind;
use hive_proto::v1;
use hive_proto::v1::cluster_service_client::ClusterServiceClient;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use turmoil::Sim;

use crate::hosts::{self, settings};
use crate::lab::{EPOCH_MS, Lab, now};
use crate::wire::{self, PLANE};

/// See the module.
pub(crate) struct Stage {
    pub(crate) sim: Sim<'static>,
    pub(crate) lab: Arc<Lab>,
    pub(crate) stop: Arc<Mutex<CancellationToken>>,
    _folder: tempfile::TempDir,
}

/// What is done to a scene from outside, and when.
pub(crate) type Cue<'a> = (Duration, &'a mut dyn FnMut(&mut Sim<'static>, &Lab));

/// Virtual time since the beginning.
pub(crate) fn at() -> Duration {
    Duration::from_millis(now() - EPOCH_MS)
}

impl Stage {
    /// A control plane with these settings and these sidecars, one agent of four slots each.
    pub(crate) fn new(changed: &'static [(&'static str, &'static str)], sidecars: &[&str]) -> Self {
        let lab = Lab::new(1);
        let folder = tempfile::Builder::new().prefix("hive-net-").tempdir().expect("a folder");
        let mut sim = hosts::simulation(1, 10).build();
        let stop: Arc<Mutex<CancellationToken>> = Arc::default();
        let (of_host, of_lab) = (Arc::clone(&stop), Arc::clone(&lab));
        sim.host(PLANE, move || {
            let token = CancellationToken::new();
            *of_host.lock().expect("the token") = token.clone();
            hosts::control_plane(Arc::clone(&of_lab), settings(changed), token)
        });
        for name in sidecars {
            let (lab, name, path) = (Arc::clone(&lab), (*name).to_owned(), Arc::from(folder.path()));
            sim.host(name.clone(), move || hosts::sidecar(Arc::clone(&lab), name.clone(), Arc::clone(&path), 4));
        }
        Self { sim, lab, stop, _folder: folder }
    }

    /// A host that acts once and must come to its end.
    pub(crate) fn actor(&mut self, name: &str, act: impl Future<Output = ()> + 'static) {
        self.sim.client(name, async move {
            act.await;
            Ok(())
        });
    }

    /// Runs until all actors have ended, with cues at their times; fails after `limit`.
    pub(crate) fn play(&mut self, limit: Duration, cues: &mut [Cue<'_>]) {
        let mut next = 0;
        loop {
            let at = self.sim.elapsed();
            while let Some((due, cue)) = cues.get_mut(next)
                && *due <= at
            {
                cue(&mut self.sim, &self.lab);
                next += 1;
            }
            let done = self.sim.step().expect("no host fails");
            let book = self.lab.book();
            assert!(book.faults.is_empty(), "{:?}\n{}", book.faults, book.story.join("\n"));
            if done && next == cues.len() {
                return;
            }
            assert!(at < limit, "not over after {limit:?}\n{}", book.story.join("\n"));
        }
    }
}

/// Waits for a condition, asking every 50 ms, but not for ever.
pub(crate) async fn until<T, F: Future<Output = Option<T>>>(what: &str, mut ask: impl FnMut() -> F) -> T {
    let end = at() + Duration::from_secs(120);
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(at() < end, "waited too long: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The stable reason of a refusal.
pub(crate) fn reason(status: &tonic::Status) -> String {
    use tonic_types::StatusExt as _;
    status.get_error_details().error_info().map(|info| info.reason.clone()).unwrap_or_default()
}

/// Sidecars connected, as the control plane says.
pub(crate) async fn connected(channel: &Channel) -> Option<u32> {
    let status = ClusterServiceClient::new(channel.clone()).get_status(v1::GetStatusRequest::default()).await;
    status.ok().map(|status| status.into_inner().connected_sidecars)
}

/// Waits until so many are.
pub(crate) async fn until_connected(count: u32) -> Channel {
    let channel = wire::channel();
    until("sidecars connected", || async { (connected(&channel).await == Some(count)).then_some(()) }).await;
    channel
}

/// The hello of a sidecar that is none of ours, with room for so many.
pub(crate) fn hello(id: &str, capability: &str, slots: u32) -> pb::SessionRequest {
    let spec = v1::AgentSpec {
        pool: "default".into(),
        capabilities: vec![capability.into()],
        slots,
        runtime: v1::Runtime::Command.into(),
        ..Default::default()
    };
    let agent =
        pb::HostedAgent { agent_id: id.into(), spec: Some(spec), free_slots: slots, ready: true, removed: false };
    let hello = pb::Hello {
        sidecar_id: id.into(),
        boot_id: vec![9; 16].into(),
        connection: 1,
        agents: vec![agent],
        ..Default::default()
    };
    said(Kind::Hello(hello), None)
}

/// A frame of one message.
pub(crate) fn said(kind: Kind, session: Option<pb::SessionEpoch>) -> pb::SessionRequest {
    pb::SessionRequest { session, leader: None, messages: vec![pb::SidecarMessage { kind: Some(kind) }] }
}
