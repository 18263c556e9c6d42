//! Keeps one child process alive: starts it with a pipe on its standard input, restarts it when it
//! dies, and stops it when told. A child whose pipe closes stops by itself, so none outlives `hive`.

use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Pid, Signal};
use tokio::process::{Child, Command};
use tokio::sync::{mpsc, watch};
use tokio::time::MissedTickBehavior;

use super::logs::Log;
use super::restart::{Next, Restarts};
use crate::clock;

/// What a child is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// Be up.
    Run,
    /// Finish what you have, then go.
    Stop,
    /// Drop what you have, then go.
    Hurry,
    /// Go.
    Kill,
}

/// What to start.
#[derive(Clone)]
pub(crate) struct Program {
    /// For people.
    pub(crate) name: String,
    pub(crate) path: PathBuf,
    /// Asked for at every start: addresses become known after the first.
    pub(crate) args: Arc<dyn Fn() -> Vec<OsString> + Send + Sync>,
    pub(crate) log: PathBuf,
}

/// What happened to a child.
#[derive(Debug)]
pub(crate) enum Event {
    /// It runs.
    Started { name: String, pid: u32, again: bool },
    /// It died and will be started again.
    Died { name: String, pid: Option<u32>, how: String, restart_in: Duration, last: Vec<String> },
    /// It died too often; it stays down.
    GaveUp { name: String, how: String, last: Vec<String> },
    /// It warned of something.
    Said { name: String, text: String },
}

/// Runs until told to stop, or given up. Events nobody takes in time are dropped.
pub(crate) async fn supervise(
    program: Program,
    mut orders: watch::Receiver<Order>,
    ready: watch::Receiver<bool>,
    events: mpsc::Sender<Event>,
) {
    let name = program.name.clone();
    let mut log = Log::new(program.log.clone());
    let mut restarts = Restarts::default();
    let mut again = false;
    while *orders.borrow_and_update() == Order::Run {
        let started = clock::now();
        log.begin();
        let (pid, how) = match start(&program, &log) {
            Err(error) => (None, format!("cannot be started: {error}")),
            Ok(child) => {
                let pid = child.id();
                let _ = events.try_send(Event::Started { name: name.clone(), pid: pid.unwrap_or(0), again });
                (pid, until_dead(child, &name, &mut log, &mut orders, &events).await)
            }
        };
        if *orders.borrow() != Order::Run {
            return;
        }
        again = true;
        let last = log.last(3);
        let up = clock::now().duration_since(started);
        let next = restarts.died(up, *ready.borrow());
        let Next::RestartAfter(restart_in) = next else {
            let _ = events.try_send(Event::GaveUp { name, how, last });
            return;
        };
        let _ = events.try_send(Event::Died { name: name.clone(), pid, how, restart_in, last });
        tokio::select! {
            () = tokio::time::sleep(restart_in) => {}
            _ = orders.changed() => {}
        }
    }
}

/// Variables about certificates: a fleet on one machine speaks plain text on loopback.
pub(crate) const CERTIFICATES: &[&str] =
    &["HIVE_CA", "HIVE_CERT", "HIVE_KEY", "HIVE_TLS__CERT", "HIVE_TLS__KEY", "HIVE_TLS__CLIENT_CA"];

fn start(program: &Program, log: &Log) -> std::io::Result<Child> {
    let mut command = Command::new(&program.path);
    command.args((program.args)()).stdin(Stdio::piped()).stdout(log.writer()?).stderr(log.writer()?);
    // A group of its own: the terminal's Ctrl-C is for `hive`, which stops the children in order.
    command.process_group(0);
    // Options of this client are no settings of theirs.
    for name in ["HIVE_SERVER", "HIVE_NAMESPACE"].iter().chain(CERTIFICATES) {
        command.env_remove(name);
    }
    command.env("NO_COLOR", "1");
    command.spawn()
}

/// Obeys orders until the child is dead; says how it died.
async fn until_dead(
    mut child: Child,
    name: &str,
    log: &mut Log,
    orders: &mut watch::Receiver<Order>,
    events: &mpsc::Sender<Event>,
) -> String {
    // Taken out, because waiting closes what is left in.
    let mut stdin = child.stdin.take();
    let mut tick = tokio::time::interval(Duration::from_millis(500));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut owner_gone = false;
    loop {
        tokio::select! {
            status = child.wait() => {
                tell(log, name, stdin.is_none(), events);
                return match status {
                    Ok(status) => describe(status),
                    Err(error) => format!("was lost sight of: {error}"),
                };
            }
            changed = orders.changed(), if !owner_gone => {
                owner_gone = changed.is_err();
                let order = if owner_gone { Order::Stop } else { *orders.borrow_and_update() };
                match order {
                    Order::Run => {}
                    Order::Stop => drop(stdin.take()),
                    Order::Hurry => {
                        drop(stdin.take());
                        let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
                        // Already dead is hurried enough.
                        let _ = pid.map(|pid| rustix::process::kill_process(pid, Signal::TERM));
                    }
                    // Already dead is dead enough.
                    Order::Kill => drop(child.start_kill()),
                }
            }
            _ = tick.tick() => tell(log, name, stdin.is_none(), events),
        }
    }
}

/// Tells what the child warned of; while it stops only errors, for agents that go are no news then.
fn tell(log: &mut Log, name: &str, stopping: bool, events: &mpsc::Sender<Event>) {
    for text in log.news(clock::now()) {
        if !stopping || text.starts_with("ERROR") {
            let _ = events.try_send(Event::Said { name: name.to_owned(), text });
        }
    }
}

/// How a process ended, as half a sentence.
fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (_, Some(9)) => "was killed by signal 9 (KILL)".to_owned(),
        (_, Some(signal)) => format!("was ended by signal {signal}"),
        (Some(code), _) => format!("exited with code {code}"),
        _ => "ended".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Run {
        orders: watch::Sender<Order>,
        events: mpsc::Receiver<Event>,
        done: tokio::task::JoinHandle<()>,
        _ready: watch::Sender<bool>,
        _dir: tempfile::TempDir,
    }

    fn run(script: &str, ready: bool) -> Run {
        let dir = tempfile::tempdir().unwrap();
        let script = script.to_owned();
        let program = Program {
            name: "child".into(),
            path: "/bin/sh".into(),
            args: Arc::new(move || vec!["-c".into(), script.clone().into()]),
            log: dir.path().join("child.log"),
        };
        let (orders, receiver) = watch::channel(Order::Run);
        let (sender, events) = mpsc::channel(64);
        let (ready, is_ready) = watch::channel(ready);
        let done = crate::tasks::spawn(crate::tasks::Kind::Supervisor, supervise(program, receiver, is_ready, sender));
        Run { orders, events, done, _ready: ready, _dir: dir }
    }

    async fn next(run: &mut Run) -> Event {
        tokio::time::timeout(Duration::from_secs(20), run.events.recv()).await.expect("in time").expect("an event")
    }

    #[tokio::test]
    async fn a_dead_child_is_started_again_and_said_to_be() {
        let mut run = run("echo ERROR gone; exit 3", true);
        assert!(matches!(next(&mut run).await, Event::Started { again: false, .. }));
        let Event::Said { text, .. } = next(&mut run).await else { panic!("its error") };
        assert_eq!(text, "ERROR gone");
        let Event::Died { how, last, .. } = next(&mut run).await else { panic!("died") };
        assert_eq!(how, "exited with code 3");
        assert_eq!(last, ["ERROR gone"]);
        assert!(matches!(next(&mut run).await, Event::Started { again: true, .. }));
        run.orders.send(Order::Stop).unwrap();
        run.done.await.unwrap();
    }

    #[tokio::test]
    async fn a_killed_child_is_said_to_be_killed() {
        let mut run = run("cat >/dev/null", true);
        let Event::Started { pid, .. } = next(&mut run).await else { panic!("started") };
        let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        let Event::Died { how, .. } = next(&mut run).await else { panic!("died") };
        assert!(how.contains("signal 9"), "{how}");
        run.orders.send(Order::Kill).unwrap();
        run.done.await.unwrap();
    }

    #[tokio::test]
    async fn stop_closes_the_pipe_and_kill_kills() {
        let mut polite = run("cat >/dev/null", true);
        next(&mut polite).await;
        polite.orders.send(Order::Stop).unwrap();
        polite.done.await.unwrap();

        let mut deaf = run("exec sleep 60", true);
        next(&mut deaf).await;
        deaf.orders.send(Order::Stop).unwrap();
        deaf.orders.send(Order::Kill).unwrap();
        deaf.done.await.unwrap();
    }

    #[tokio::test]
    async fn before_ready_it_is_given_up() {
        let mut run = run("exit 1", false);
        loop {
            match next(&mut run).await {
                Event::GaveUp { how, .. } => break assert_eq!(how, "exited with code 1"),
                Event::Started { .. } | Event::Died { .. } => {}
                Event::Said { .. } => panic!("it says nothing"),
            }
        }
        run.done.await.unwrap();
    }
}
