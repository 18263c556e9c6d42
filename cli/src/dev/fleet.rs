//! A fleet on this machine: one control plane and its sidecars as supervised children, from the
//! first start to an orderly stop. What to do with the fleet is left to `hive dev` and `hive demo`.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use hive_proto::v1;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::checks::{Patience, check_port, is_serving};
use super::child::{self, Event, Order, Program};
use super::folder::{Folder, write_atomically};
use super::ready::{Addresses, Process, Ready};
use super::signals::Signals;
use super::{binaries, config, leftovers};
use crate::connect::Client;
use crate::failure::Failure;
use crate::tasks::{self, Kind};
use crate::verbs;
use crate::{clock, output};

/// Most events kept for whoever shows them; beyond that they are dropped.
const EVENTS: usize = 256;
/// For sidecars to let their work finish.
const DRAIN_LIMIT: Duration = Duration::from_secs(30);
/// For the control plane to close its store.
const CLOSE_LIMIT: Duration = Duration::from_secs(10);
/// Time of sidecars to end what they run.
const HURRY_LIMIT: Duration = Duration::from_secs(8);

/// Shape of a fleet.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) listen: SocketAddr,
    pub(crate) ops_listen: SocketAddr,
    pub(crate) sidecars: u16,
    pub(crate) slots: u16,
    pub(crate) ready_file: Option<PathBuf>,
}

/// A fleet; dropping it closes the children's pipes, so that they stop by themselves.
pub(crate) struct Fleet {
    options: Options,
    folder: Folder,
    addresses: Arc<OnceLock<Addresses>>,
    pids: BTreeMap<String, u32>,
    events: mpsc::Receiver<Event>,
    sender: mpsc::Sender<Event>,
    is_ready: watch::Sender<bool>,
    control_plane: Group,
    sidecars: Group,
}

/// Children that get the same orders.
struct Group {
    orders: watch::Sender<Order>,
    running: Vec<JoinHandle<()>>,
}

impl Group {
    fn new() -> Self {
        Self { orders: watch::channel(Order::Run).0, running: Vec::new() }
    }

    fn order(&self, order: Order) {
        self.orders.send_replace(order);
    }

    fn left(&self) -> usize {
        self.running.iter().filter(|child| !child.is_finished()).count()
    }
}

const CONTROL_PLANE: &str = "control-plane";

impl Fleet {
    /// Takes the data folder and starts the control plane.
    pub(crate) async fn start(folder: Folder, options: Options) -> Result<Self, Failure> {
        let path = binaries::find("hive-control-plane")?;
        leftovers::wait(&folder).await?;
        for address in [options.listen, options.ops_listen] {
            check_port(address)?;
        }
        let _ = std::fs::remove_file(folder.control_plane_ready());
        let (sender, events) = mpsc::channel(EVENTS);
        let mut fleet = Self {
            options,
            folder,
            addresses: Arc::new(OnceLock::new()),
            pids: BTreeMap::new(),
            events,
            sender,
            is_ready: watch::channel(false).0,
            control_plane: Group::new(),
            sidecars: Group::new(),
        };
        let addresses = fleet.addresses.clone();
        let (listen, ops) = (fleet.options.listen.to_string(), fleet.options.ops_listen.to_string());
        let (store, ready) = (fleet.folder.store(), fleet.folder.control_plane_ready());
        let args = move || {
            // Once a free port was found, clients and sidecars know it: it stays.
            let known = addresses.get();
            let listen = known.map_or(&listen, |known| &known.listen);
            let ops = known.map_or(&ops, |known| &known.ops);
            [
                OsString::from("--data"),
                store.clone().into(),
                "--listen".into(),
                listen.into(),
                "--ops-listen".into(),
                ops.into(),
                "--stop-on-stdin-eof".into(),
                "--ready-file".into(),
                ready.clone().into(),
            ]
            .to_vec()
        };
        fleet.supervise(false, CONTROL_PLANE.to_owned(), path, Arc::new(args));
        Ok(fleet)
    }

    /// For clients and sidecars; empty before [`Fleet::ready`] is done.
    pub(crate) fn endpoint(&self) -> String {
        self.addresses.get().map(|a| format!("http://{}", a.listen)).unwrap_or_default()
    }

    /// Health and metrics; empty before [`Fleet::ready`] is done.
    pub(crate) fn ops(&self) -> String {
        self.addresses.get().map(|a| format!("http://{}", a.ops)).unwrap_or_default()
    }

    pub(crate) fn root(&self) -> &std::path::Path {
        &self.folder.root
    }

    /// Sidecars and agents.
    pub(crate) fn size(&self) -> (u16, u16) {
        (self.options.sidecars, self.options.sidecars * 2)
    }

    fn supervise(
        &mut self,
        sidecar: bool,
        name: String,
        path: PathBuf,
        args: Arc<dyn Fn() -> Vec<OsString> + Send + Sync>,
    ) {
        let log = self.folder.log(&name);
        let program = Program { name, path, args, log };
        let group = if sidecar { &mut self.sidecars } else { &mut self.control_plane };
        let work = child::supervise(program, group.orders.subscribe(), self.is_ready.subscribe(), self.sender.clone());
        group.running.push(tasks::spawn(Kind::Supervisor, work));
    }

    /// Waits until the control plane serves, starts the sidecars, waits until all agents are ready.
    /// `say` is told what happens meanwhile.
    pub(crate) async fn ready(&mut self, say: &mut impl FnMut(String)) -> Result<(), Failure> {
        let mut patience = Patience::new();
        let path = self.folder.control_plane_ready();
        loop {
            let written = std::fs::read(&path).ok().and_then(|text| serde_json::from_slice::<Addresses>(&text).ok());
            if let Some(addresses) = written {
                let _ = self.addresses.set(addresses);
                break;
            }
            patience.check(say, || "waiting for the control plane to serve".to_owned())?;
            self.pause(say).await?;
        }
        let client = Client::new(&self.endpoint(), "", Duration::from_secs(2))?;
        while !is_serving(&client).await {
            patience.check(say, || "waiting for the control plane's health to be SERVING".to_owned())?;
            self.pause(say).await?;
        }
        self.start_sidecars()?;
        let mut patience = Patience::new();
        loop {
            let waiting = self.not_ready(&client).await;
            if waiting.as_ref().is_some_and(Vec::is_empty) {
                break;
            }
            patience.check(say, || match &waiting {
                Some(waiting) => format!(
                    "waiting for agents: {} of {} ready; not yet: {}",
                    usize::from(self.size().1) - waiting.len(),
                    self.size().1,
                    waiting.join(", ")
                ),
                None => "waiting for the control plane to answer".to_owned(),
            })?;
            self.pause(say).await?;
        }
        self.is_ready.send_replace(true);
        self.write_ready();
        Ok(())
    }

    fn start_sidecars(&mut self) -> Result<(), Failure> {
        let path = binaries::find("hive-sidecar")?;
        let hive = std::env::current_exe().map_err(|e| Failure::error("cannot find this program's own file", e))?;
        let Some(hive) = hive.to_str() else {
            return Err(Failure::error("cannot declare agents", format!("{} is not UTF-8", hive.display())));
        };
        let server = self.endpoint();
        // Relative paths in payloads mean what they mean to whoever started the fleet.
        let here = std::env::current_dir().unwrap_or_default();
        for number in 1..=self.options.sidecars {
            let id = config::sidecar_id(number);
            let fail = |e| Failure::error(format!("cannot prepare {id}"), e);
            let own = self.folder.sidecar(&id).map_err(fail)?;
            let sockets = self.folder.sockets(number).map_err(fail)?;
            let file = own.join("sidecar.toml");
            let text = config::sidecar_toml(number, self.options.slots, hive, here.to_str());
            write_atomically(&file, text.as_bytes()).map_err(fail)?;
            let args: Vec<OsString> = vec![
                "--config".into(),
                file.into(),
                "--server".into(),
                server.clone().into(),
                "--id".into(),
                id.clone().into(),
                "--state-dir".into(),
                own.join("state").into(),
                "--socket-dir".into(),
                sockets.into(),
                "--stop-on-stdin-eof".into(),
            ];
            self.supervise(true, id, path.clone(), Arc::new(move || args.clone()));
        }
        Ok(())
    }

    /// Agents of this fleet that are not READY, with their phases; `None` without an answer.
    async fn not_ready(&self, client: &Client) -> Option<Vec<String>> {
        let mut phases = BTreeMap::new();
        let mut page_token = String::new();
        loop {
            let request = v1::ListAgentsRequest { page_size: 1_000, page_token, ..Default::default() };
            let response =
                client.attempt(request, |mut s, r| async move { s.agents.list_agents(r).await }, true).await.ok()?;
            phases.extend(response.agents.into_iter().map(|agent| (agent.id.clone(), agent.phase())));
            page_token = response.next_page_token;
            if page_token.is_empty() {
                break;
            }
        }
        let expected = (1..=self.options.sidecars).flat_map(config::agents_of);
        let waiting = expected.filter_map(|id| match phases.get(&id) {
            // One drained by hand in an earlier run stays drained: it is as ready as it gets.
            Some(v1::AgentPhase::Ready | v1::AgentPhase::Draining | v1::AgentPhase::Drained) => None,
            Some(phase) => Some(format!("{id} {}", verbs::phase_name(*phase))),
            None => Some(format!("{id} not registered")),
        });
        Some(waiting.collect())
    }

    /// A short wait in which events are told; fails if a child was given up.
    async fn pause(&mut self, say: &mut impl FnMut(String)) -> Result<(), Failure> {
        let wait = tokio::time::sleep(Duration::from_millis(50));
        tokio::pin!(wait);
        loop {
            tokio::select! {
                () = &mut wait => return Ok(()),
                event = self.events.recv() => {
                    let Some(event) = event else { return Ok(()) };
                    if let Event::GaveUp { name, how, last } = &event {
                        let why = format!("it {how}, several times in a row{}", quote(last));
                        let failure = Failure::error(format!("{name} does not stay up"), why);
                        return Err(match self.folder.is_ephemeral() {
                            true => failure.next("keep the logs with --data DIR in place of --ephemeral"),
                            false => failure.next(format!("read {}", self.folder.log(name).display())),
                        });
                    }
                    if let Some(text) = self.notice(event) {
                        say(text);
                    }
                }
            }
        }
    }

    /// The next thing worth telling; pending while all is well.
    pub(crate) async fn next(&mut self) -> String {
        loop {
            match self.events.recv().await {
                Some(event) => {
                    if let Some(text) = self.notice(event) {
                        return text;
                    }
                }
                None => std::future::pending().await,
            }
        }
    }

    /// Takes note of an event; its text, if a person should know.
    fn notice(&mut self, event: Event) -> Option<String> {
        match event {
            Event::Started { name, pid, again } => {
                let text = format!("{name} restarted as pid {pid}");
                self.pids.insert(name, pid);
                if *self.is_ready.borrow() {
                    self.write_ready();
                } else {
                    self.write_record();
                }
                again.then_some(text)
            }
            Event::Died { name, pid, how, restart_in, last } => {
                let pid = pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default();
                // Killed from outside, the log has nothing to add; warnings and errors were told.
                let told = |line: &String| line.contains("ERROR") || line.contains("WARN");
                let silent = how.contains("signal 9") || last.iter().any(told);
                let last = if silent { String::new() } else { quote(&last) };
                Some(format!("{name}{pid} {how}; restarting in {:.2} s{last}", restart_in.as_secs_f64()))
            }
            Event::GaveUp { name, how, last } => Some(format!("{name} {how}; giving up{}", quote(&last))),
            Event::Said { name, text } => Some(format!("{name}: {text}")),
        }
    }

    fn description(&self) -> Ready {
        let pid = |name: &str| self.pids.get(name).copied().unwrap_or(0);
        let sidecar = |number| {
            let id = config::sidecar_id(number);
            Process { pid: pid(&id), id, agents: config::agents_of(number).to_vec() }
        };
        Ready {
            endpoint: self.endpoint(),
            ops: self.ops(),
            data: self.folder.root.display().to_string(),
            pid: std::process::id(),
            control_plane: Process { id: CONTROL_PLANE.to_owned(), pid: pid(CONTROL_PLANE), agents: Vec::new() },
            sidecars: (1..=self.options.sidecars).map(sidecar).collect(),
        }
    }

    /// What runs, for the next run to find should this one end uncleanly.
    fn write_record(&self) {
        if let Ok(text) = serde_json::to_vec_pretty(&self.description()) {
            let _ = write_atomically(&self.folder.record(), &text);
        }
    }

    fn write_ready(&self) {
        self.write_record();
        let Some(path) = &self.options.ready_file else { return };
        let text = serde_json::to_vec_pretty(&self.description()).unwrap_or_default();
        if let Err(error) = write_atomically(path, &text) {
            output::say(&format!("cannot write {}: {error}", path.display()));
        }
    }

    /// Stops the sidecars, then the control plane; a signal meanwhile cuts it short.
    pub(crate) async fn stop(mut self, signals: &mut Signals, say: &mut impl FnMut(String)) {
        self.sidecars.order(Order::Stop);
        let drained = self.wait_for(true, DRAIN_LIMIT, signals, say).await;
        if !drained {
            say("stopping the hard way".to_owned());
            // Asked a second time, a sidecar ends what it runs before it goes; killed, it could not.
            self.sidecars.order(Order::Hurry);
            self.wait_for(true, HURRY_LIMIT, signals, say).await;
            self.sidecars.order(Order::Kill);
        }
        self.control_plane.order(Order::Stop);
        let limit = if drained { CLOSE_LIMIT } else { Duration::from_secs(3) };
        if !self.wait_for(false, limit, signals, say).await {
            self.control_plane.order(Order::Kill);
        }
        self.sidecars.order(Order::Kill);
        for child in self.sidecars.running.drain(..).chain(self.control_plane.running.drain(..)) {
            let _ = tokio::time::timeout(Duration::from_secs(5), child).await;
        }
        if let Some(path) = &self.options.ready_file {
            let _ = std::fs::remove_file(path);
        }
        self.folder.close();
    }

    /// Waits for a group to end; false when time ran out or a signal came.
    async fn wait_for(
        &mut self,
        sidecars: bool,
        limit: Duration,
        signals: &mut Signals,
        say: &mut impl FnMut(String),
    ) -> bool {
        let started = clock::now();
        let mut told = 0;
        loop {
            let group = if sidecars { &self.sidecars } else { &self.control_plane };
            let left = group.left();
            let waited = clock::now().duration_since(started);
            if left == 0 || waited >= limit {
                return left == 0;
            }
            if waited.as_secs() / 2 > told {
                told = waited.as_secs() / 2;
                let who = if sidecars {
                    format!("sidecars that finish their work: {left}")
                } else {
                    "the control plane closes".to_owned()
                };
                say(format!(
                    "stopping: {who} ({} s of at most {}; Ctrl-C again to end at once)",
                    waited.as_secs(),
                    limit.as_secs()
                ));
            }
            tokio::select! {
                () = tokio::time::sleep(Duration::from_millis(20)) => {}
                () = signals.next() => return false,
                event = self.events.recv() => {
                    if let Some(text) = event.and_then(|event| self.notice(event)) {
                        say(text);
                    }
                }
            }
        }
    }
}

fn quote(last: &[String]) -> String {
    last.iter().map(|line| format!("\n    | {line}")).collect()
}
