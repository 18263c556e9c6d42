//! How long `hive dev` takes from nothing to a first assignment: its process is started on an empty
//! folder with its defaults, a task is sent as soon as its port answers, and a watch of that task says
//! when an agent has it.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use hive_sdk::Client;
use hive_sdk::client::{Event, TaskSpec};
use hive_sdk::proto::TaskState;

use crate::child::Child;
use crate::hive::{HIVE, wait};

/// Milliseconds of so many cold starts, one after the other.
pub fn starts(count: usize) -> Vec<f64> {
    (0..count).map(|_| start().as_secs_f64() * 1000.0).collect()
}

fn start() -> Duration {
    let folder = tempfile::tempdir().expect("a folder");
    let port = free_port();
    let mut command = Command::new(HIVE);
    command.args(["dev", "--port", &port.to_string(), "--ops-listen", "127.0.0.1:0"]);
    command.env("XDG_STATE_HOME", folder.path()).current_dir(folder.path()).stderr(Stdio::null());
    let begun = Instant::now();
    let mut dev = Child::start(&mut command);
    let took = crate::runtime().block_on(assigned(port, begun));
    // It gives its children time to end, so that the next start has the machine to itself.
    dev.interrupt();
    wait("hive dev to end", || dev.has_ended().then_some(()));
    took
}

/// Chosen before the start: who waits to be told it has let the fleet come up first. Below the ports that
/// outgoing connections get, one of which could otherwise reach itself.
fn free_port() -> u16 {
    let first = 10_000 + (std::process::id() % 10_000) as u16;
    let free = |port: &u16| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok();
    (first..30_000).find(free).expect("a port")
}

async fn assigned(port: u16, begun: Instant) -> Duration {
    let limit = begun + Duration::from_secs(60);
    while tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_err() {
        assert!(Instant::now() < limit, "hive dev never answered");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let client = Client::builder().endpoint(format!("http://127.0.0.1:{port}")).connect_lazy().expect("an address");
    let task = client.submit(TaskSpec::new("echo").payload(r#"{"sleep_ms": 100}"#)).await.expect("accepted");
    let mut watch = task.watch();
    loop {
        let event = tokio::time::timeout_at(limit.into(), watch.next()).await.expect("an assignment in time");
        if let Event::Changed { item, .. } = event.expect("the watch goes on").expect("the watch goes on")
            && item.state() != TaskState::Pending
        {
            return begun.elapsed();
        }
    }
}
