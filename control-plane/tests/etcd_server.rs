//! The whole control plane on etcd: what it accepted outlives it and etcd's death, and a newer one takes
//! over from an older.

#![expect(clippy::unwrap_used, reason = "a test that can't set its stage should end there")]

#[allow(dead_code, reason = "shared with the conformance suite, which uses more of it")]
mod etcd_support;

use std::future::Future;
use std::time::Duration;

use clap::Parser as _;
use etcd_support::{Server, Version};
use hive_control_plane::clock::monotonic;
use hive_control_plane::config::{self, Program, Sources};
use hive_control_plane::listen::{Listener as _, bind};
use hive_control_plane::run::{self, Listeners};
use hive_proto::v1::task_service_client::TaskServiceClient;
use hive_proto::v1::{GetTaskRequest, SubmitTaskRequest, TaskSpec};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::transport::Channel;

const PATIENCE: Duration = Duration::from_secs(60);

struct ControlPlane {
    tasks: TaskServiceClient<Channel>,
    stop: CancellationToken,
    ended: JoinHandle<Result<(), run::Error>>,
}

impl ControlPlane {
    #[expect(clippy::disallowed_methods, reason = "the server runs beside the test")]
    fn start(etcd: &Server) -> Self {
        let settings = [
            ("HIVE_LISTEN", "127.0.0.1:0"),
            ("HIVE_OPS_LISTEN", "127.0.0.1:0"),
            ("HIVE_DATA", "unused"),
            ("HIVE_STORE__KIND", "etcd"),
            ("HIVE_ETCD__ENDPOINTS", &etcd.url()),
            ("HIVE_ETCD__PATIENCE", "60s"),
        ];
        let environment = settings.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let flags = Program::try_parse_from(["hive-control-plane"]).unwrap().flags;
        let config =
            config::load(&Sources::new(&flags, environment)).unwrap_or_else(|faults| panic!("{faults}")).config;
        let listeners = Listeners {
            main: bind("listen", config.listen).unwrap(),
            ops: bind("ops_listen", config.ops_listen).unwrap(),
        };
        let address = listeners.main.local_addr().unwrap();
        let stop = CancellationToken::new();
        let ended = tokio::spawn(run::run(config, listeners, stop.clone()));
        let channel = Channel::from_shared(format!("http://{address}")).unwrap().connect_lazy();
        Self { tasks: TaskServiceClient::new(channel), stop, ended }
    }

    async fn submit(&self) -> Result<String, Status> {
        let spec = TaskSpec { capabilities: vec!["wc".to_owned()], ..TaskSpec::default() };
        let request = SubmitTaskRequest { spec: Some(spec), ..SubmitTaskRequest::default() };
        let task = self.tasks.clone().submit_task(request).await?.into_inner().task.unwrap();
        Ok(task.id)
    }

    async fn knows(&self, id: &str) -> bool {
        let request = GetTaskRequest { task_id: id.to_owned(), ..GetTaskRequest::default() };
        self.tasks.clone().get_task(request).await.is_ok()
    }

    async fn end(self) -> Result<(), run::Error> {
        tokio::time::timeout(PATIENCE, self.ended).await.expect("it ends").unwrap()
    }
}

async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, mut ask: impl FnMut() -> F) -> T {
    let until = monotonic() + PATIENCE;
    loop {
        if let Some(found) = ask().await {
            return found;
        }
        assert!(monotonic() < until, "waited too long: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn what_was_accepted_outlives_etcds_death_and_the_control_plane() {
    for version in [Version::Old, Version::New] {
        let Some(mut etcd) = Server::start("what_was_accepted_outlives_etcds_death", version, &[]) else { return };
        let older = ControlPlane::start(&etcd);
        let before = eventually("a first task", || async { older.submit().await.ok() }).await;

        etcd.kill();
        let (during, ()) = tokio::join!(older.submit(), async { etcd.restart() });
        let during = during.expect("it is taken once etcd is back");

        let newer = ControlPlane::start(&etcd);
        let after = eventually("a task at the newer one", || async { newer.submit().await.ok() }).await;
        for id in [&before, &during, &after] {
            assert!(newer.knows(id).await, "{id} is lost");
        }
        // The older one can't write any more, says so to nobody as if it could, and ends.
        assert!(older.submit().await.is_err());
        let ended = older.end().await.expect_err("it was deposed");
        assert!(format!("{ended:?}").contains("Fenced"), "{ended:?}");
        assert!(newer.knows(&after).await);

        newer.stop.cancel();
        newer.end().await.unwrap();
    }
}
