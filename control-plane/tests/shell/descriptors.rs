//! Out of file descriptors: the accept loop pauses instead of spinning, and recovers.

use std::cell::RefCell;
use std::fs::File;
use std::time::Duration;

use hive_control_plane::clock;
use rustix::process::{Resource, Rlimit, setrlimit};
use tokio::net::TcpSocket;

use super::child;
use super::support::{Server, channel, eventually, within};

#[test]
fn without_descriptors_the_loop_pauses_and_then_recovers() {
    let home = tempfile::tempdir().expect("folder");
    let ended = child::command("descriptors", &[], home.path()).output().expect("run");
    let (out, err) = (String::from_utf8_lossy(&ended.stdout), String::from_utf8_lossy(&ended.stderr));
    assert!(ended.status.success() && out.contains("recovered"), "{out}\n{err}");
}

/// In a process of its own, for the limit is the process's.
pub(crate) fn inside() {
    let limit = Rlimit { current: Some(96), maximum: Some(96) };
    setrlimit(Resource::Nofile, limit).expect("lower the limit");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("runtime");
    runtime.block_on(async {
        let server = Server::start(&[]);
        let metrics = hive_control_plane::metrics::install().expect("metrics");
        // The clients' own descriptors are taken first, then all the others.
        let waiting: Vec<_> = (0..4).map(|_| TcpSocket::new_v4().expect("socket")).collect();
        let hoard = RefCell::new(Vec::new());
        let take_all = || hoard.borrow_mut().extend(std::iter::from_fn(|| File::open("/dev/null").ok()));
        take_all();
        let connected = clock::monotonic();
        let mut clients = Vec::new();
        for socket in waiting {
            clients.push(within("connect", socket.connect(server.main)).await.expect("the backlog takes it"));
        }
        let failed = || {
            // Whatever the server gave back meanwhile is taken as well.
            take_all();
            let text = metrics.render();
            let line = text.lines().find(|line| line.starts_with("hive_accept_errors_total{port=\"main\"}"));
            line.and_then(|line| line.rsplit(' ').next()?.parse::<u32>().ok()).unwrap_or(0)
        };
        let count = eventually("failures to accept", || async { Some(failed()).filter(|count| *count >= 6) }).await;
        let took = clock::monotonic() - connected;
        let shortest = Duration::from_millis(10) * (count - 1);
        assert!(took >= shortest, "{count} failures within {took:?}: the loop spins");
        drop(hoard.take());
        drop(channel(server.main).await);
        drop(clients);
        server.stop.cancel();
        within("the stop", server.ended).await.expect("join").expect("orderly");
    });
    println!("recovered");
}
