//! Calls of `hive.v1` by their bytes: gRPC frames of any content into the real services over a store in
//! memory. Every call ends, none by a panic; page tokens, filters and masks are among what is read.

use std::time::Duration;

use bytes::Bytes;
use clap::Parser as _;
use hive_control_plane::api::Identity;
use hive_control_plane::assemble::{self, Sources};
use hive_control_plane::clock::ClusterClock;
use hive_control_plane::config::{self, Config, Program};
use hive_control_plane::server::Routes;
use hive_control_plane::tasks::Tasks;
use hive_core::time::Time;
use http::Request;
use http_body_util::{BodyExt as _, Full};
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tower::Service as _;

use super::memory::Memory;
use super::source::Source;

/// The methods; `stable.rs` holds the list against the services.
pub const METHODS: &[&str] = &[
    "hive.v1.TaskService/SubmitTask",
    "hive.v1.TaskService/SubmitTasks",
    "hive.v1.TaskService/GetTask",
    "hive.v1.TaskService/ListTasks",
    "hive.v1.TaskService/CancelTask",
    "hive.v1.TaskService/WatchTask",
    "hive.v1.TaskService/WatchTasks",
    "hive.v1.TaskService/ProvideInput",
    "hive.v1.TaskService/WaitTask",
    "hive.v1.TaskService/TailLogs",
    "hive.v1.AgentService/RegisterAgent",
    "hive.v1.AgentService/GetAgent",
    "hive.v1.AgentService/ListAgents",
    "hive.v1.AgentService/UpdateAgent",
    "hive.v1.AgentService/DrainAgent",
    "hive.v1.AgentService/RemoveAgent",
    "hive.v1.AgentService/WatchAgents",
    "hive.v1.ClusterService/GetStatus",
    "hive.v1.ClusterService/ListReplicas",
    "hive.v1.ClusterService/TransferLeadership",
    "hive.sidecar.v1.SidecarService/Session",
    "hive.sidecar.v1.SidecarService/PushLogs",
];

/// Calls of one sequence.
const CALLS: usize = 24;
/// A call that waits by right is left after this long, which passes at once.
const LONGEST: Duration = Duration::from_secs(3_600);

fn settings() -> Config {
    let environment = [("HIVE_DATA", "unused")].map(|(k, v)| (k.to_owned(), v.to_owned())).to_vec();
    let flags = Program::try_parse_from(["hive-control-plane"]).expect("flags").flags;
    config::load(&config::Sources::new(&flags, environment)).unwrap_or_else(|faults| panic!("{faults}")).config
}

pub fn run(data: &[u8]) {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime");
    runtime.block_on(async {
        let stop = CancellationToken::new();
        let (core, edge) = (Tasks::new(&stop), Tasks::new(&stop));
        let identity = Identity {
            cluster_id: "c".into(),
            replica_id: "r".into(),
            endpoint: "e".into(),
            security: Default::default(),
        };
        let clock = |stamp: Time| ClusterClock::simulated(stamp.max(Time(1_800_000_000_000)));
        let sources = Sources { clock, seed: 1 };
        let served = assemble::services(&settings(), Memory::default(), identity, sources, &core, &edge).await;
        let (mut routes, _handle) = served.expect("a store");
        let mut source = Source::new(data);
        for _ in 0..CALLS {
            if source.is_dry() {
                break;
            }
            let method = *source.pick(METHODS);
            let body = source.chunk();
            call(&mut routes, method, body).await;
            assert!(core.failure().is_none() && edge.failure().is_none(), "{:?} {:?}", core.failure(), edge.failure());
        }
        stop.cancel();
        tokio::time::timeout(LONGEST, async { (core.ended_all().await, edge.ended_all().await) })
            .await
            .expect("all ends");
    });
}

async fn call(routes: &mut Routes, method: &str, message: &[u8]) {
    let length = u32::try_from(message.len()).expect("short").to_be_bytes();
    let framed = Bytes::from([&[0], &length[..], message].concat());
    let request = Request::builder()
        .method("POST")
        .uri(format!("http://test/{method}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Body::new(Full::new(framed)))
        .expect("a request");
    let answer = tokio::time::timeout(LONGEST, async {
        let mut body = routes.call(request).await.expect("infallible").into_body();
        // A stream without end is left after its first frames.
        for _ in 0..8 {
            if body.frame().await.is_none() {
                return;
            }
        }
    });
    // Waits and watches are in their right to wait.
    let _waits = answer.await;
}
