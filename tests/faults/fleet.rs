//! A fleet under load: one control plane, its sidecars with real agents, clients that never rest,
//! and everything that is written down about them.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use futures_util::TryStreamExt as _;
use hive_sdk::client::{TaskFilter, TaskView};
use hive_sdk::proto::{AgentPhase, Task};

use crate::agent;
use crate::checker::{Finding, Kind as Fault, judge};
use crate::clients::{self, Caller};
use crate::harness::{LONG, MIB, Proxy, Rig, Small, eventually, spawn, uptime_us};
use crate::recorder::{Recorder, view};
use crate::tools::Tools;

/// Which faults it is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Size {
    /// Six sidecars behind wires that can be cut.
    Six,
    /// Four, whose control plane has a small disk of its own.
    Disk,
    /// Four, that see the wall clock we show them.
    Clock,
    /// Many.
    Hundred,
}

/// Sidecars of the large one.
const MANY: usize = 104;

impl Size {
    fn sidecars(self) -> usize {
        match self {
            Self::Six => 6,
            Self::Disk | Self::Clock => 4,
            Self::Hundred => MANY,
        }
    }

    /// Clients, and how long each rests between tasks.
    fn load(self) -> (u64, (u64, u64)) {
        match self {
            Self::Six => (8, (20, 140)),
            Self::Clock => (4, (20, 140)),
            // Its records must grow old before its disk is filled; they need not be many.
            Self::Disk => (2, (50, 250)),
            Self::Hundred => (6, (20, 140)),
        }
    }

    fn settings(self) -> &'static [(&'static str, &'static str)] {
        match self {
            // Longer than a sidecar may wait before it dials again, which is 10 s.
            Self::Six | Self::Clock => &[("session.lost", "12s"), ("session.beat", "1s")],
            Self::Disk => &[
                ("session.lost", "12s"),
                ("store.min_free", "8MiB"),
                ("store.ballast", "2MiB"),
                ("retention.age", "1m"),
                ("retention.at_least", "1m"),
                ("limits.id_ahead", "1s"),
            ],
            // With so many processes on a small machine one may well be late.
            Self::Hundred => &[("session.lost", "30s"), ("session.beat", "1s")],
        }
    }
}

pub(crate) struct Fleet {
    pub(crate) size: Size,
    pub(crate) rig: Rig,
    pub(crate) wires: Vec<Proxy>,
    pub(crate) recorder: Arc<Recorder>,
    pub(crate) caller: Caller,
    pub(crate) stop: Arc<AtomicBool>,
    pub(crate) begun: u64,
    /// Of the control plane, where it is small.
    pub(crate) disk: Option<Small>,
    /// Of the first sidecar, where it is small.
    pub(crate) sidecar_disk: Option<Small>,
    /// Tells libfaketime how far off the wall clock is.
    pub(crate) clock: Option<PathBuf>,
    pub(crate) peak: Arc<Peak>,
    load: Vec<tokio::task::JoinHandle<()>>,
    lists: Vec<PathBuf>,
}

/// The most memory the control plane had, in bytes.
#[derive(Debug, Default)]
pub(crate) struct Peak {
    pid: AtomicU32,
    bytes: AtomicU64,
    /// Since it was last asked for.
    recent: AtomicU64,
}

impl Peak {
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    pub(crate) fn take_recent(&self) -> u64 {
        self.recent.swap(0, Ordering::Relaxed)
    }

    fn look(&self) {
        let pid = self.pid.load(Ordering::Relaxed);
        let text = std::fs::read_to_string(format!("/proc/{pid}/statm")).unwrap_or_default();
        let pages: u64 = text.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0);
        self.bytes.fetch_max(pages * 4_096, Ordering::Relaxed);
        self.recent.fetch_max(pages * 4_096, Ordering::Relaxed);
    }
}

/// What a fleet's history was worth.
pub(crate) struct Judged {
    pub(crate) found: Vec<Finding>,
    pub(crate) accepted: usize,
    pub(crate) attempts: usize,
}

pub(crate) fn sidecar_id(number: usize) -> String {
    format!("sidecar-{number}")
}

pub(crate) fn sdk_id(number: usize) -> String {
    format!("sdk-{number}")
}

pub(crate) fn command_id(number: usize) -> String {
    format!("cmd-{number}")
}

impl Fleet {
    pub(crate) async fn start(size: Size, seed: u64, tools: &Tools) -> Self {
        let mut rig = Rig::folder(&[("task.max_failures", "1000")]);
        for (name, value) in size.settings() {
            rig.set(name, value);
        }
        let disk = (size == Size::Disk).then(|| Small::mount(&rig.data(), 48).expect("a tmpfs, as tried before"));
        let clock = (size == Size::Clock).then(|| rig.path().join("clock"));
        if let (Some(clock), Some(library)) = (&clock, &tools.faketime) {
            set_clock(clock, 0);
            for (name, value) in [
                ("LD_PRELOAD", library.as_path()),
                ("FAKETIME_TIMESTAMP_FILE", clock),
                ("FAKETIME_NO_CACHE", Path::new("1")),
                ("FAKETIME_DONT_FAKE_MONOTONIC", Path::new("1")),
            ] {
                rig.set_env(name, value.to_str().expect("UTF-8"));
            }
        }
        rig.start_control_plane().await;
        let recorder = Arc::new(Recorder::default());
        let mut fleet = Self {
            size,
            wires: Vec::new(),
            caller: Caller::new(&rig.endpoint(), &recorder),
            recorder,
            stop: Arc::default(),
            begun: uptime_us(),
            disk,
            sidecar_disk: None,
            clock,
            peak: Arc::default(),
            load: Vec::new(),
            lists: Vec::new(),
            rig,
        };
        fleet.start_sidecars(tools).await;
        fleet.start_load(seed);
        fleet
    }

    async fn start_sidecars(&mut self, tools: &Tools) {
        if self.size == Size::Six && tools.mounts {
            let state = self.rig.sidecar_folder(&sidecar_id(1)).join("state");
            self.sidecar_disk = Small::mount(&state, 256);
        }
        for number in 1..=self.size.sidecars() {
            let (id, list) = (sidecar_id(number), self.rig.path().join(format!("ran-{number}")));
            let mut agents = vec![agent::sdk(&sdk_id(number), &list)];
            if self.size != Size::Hundred {
                agents.push(agent::command(&command_id(number), &list));
            }
            self.lists.push(list);
            if self.size == Size::Six {
                let wire = self.rig.wire(&id).await;
                self.wires.push(wire);
            }
            self.rig.declare_sidecar(&id, &agents);
            self.rig.start_sidecar(&id);
        }
        self.all_ready().await;
    }

    /// Waits until every agent takes work.
    pub(crate) async fn all_ready(&self) {
        let per_sidecar = if self.size == Size::Hundred { 1 } else { 2 };
        let wanted = self.size.sidecars() * per_sidecar;
        let client = self.rig.client_within(Duration::from_secs(5));
        eventually(&format!("{wanted} agents are ready"), 2 * LONG, || async {
            let agents: Vec<_> =
                client.list_agents("", false).try_collect().await.map_err(|error| error.to_string())?;
            let ready = agents.iter().filter(|agent| agent.phase() == AgentPhase::Ready).count();
            if ready == wanted { Ok(()) } else { Err(format!("{ready} are")) }
        })
        .await;
    }

    fn start_load(&mut self, seed: u64) {
        let (count, pace) = self.size.load();
        let commands = self.size != Size::Hundred;
        self.load.push(clients::watch(&self.rig.endpoint(), &self.recorder));
        for number in 0..count {
            let caller = Caller::new(&self.rig.endpoint(), &self.recorder);
            self.load.push(spawn(clients::load(caller, seed ^ number, pace, commands, Arc::clone(&self.stop))));
        }
        self.note_pid();
        let (peak, stop) = (Arc::clone(&self.peak), Arc::clone(&self.stop));
        self.load.push(spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                peak.look();
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }));
    }

    /// To be called when the control plane was started.
    pub(crate) fn note_pid(&mut self) {
        let pid = self.rig.control_plane().pid();
        self.peak.pid.store(pid, Ordering::Relaxed);
    }

    pub(crate) fn sidecars(&self) -> usize {
        self.size.sidecars()
    }

    /// The agents of one sidecar.
    pub(crate) fn agents_of(&self, number: usize) -> Vec<String> {
        if self.size == Size::Hundred { vec![sdk_id(number)] } else { vec![sdk_id(number), command_id(number)] }
    }

    /// Waits until everything accepted before `then` has ended. What has not is given back.
    pub(crate) async fn settle(&self, then: u64, limit: Duration) -> Vec<String> {
        let end = crate::harness::now() + limit;
        loop {
            let open = self.recorder.open_since(then);
            if open.is_empty() || crate::harness::now() > end {
                return open;
            }
            // The watch tells most ends; it may have been cut just then.
            for task in open.iter().take(20) {
                drop(self.caller.get(task).await);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Ends the load, waits for every end, and judges.
    pub(crate) async fn finish(mut self) -> Judged {
        // Under load a last time, then what is left.
        let late = self.settle(uptime_us(), LONG).await;
        late.iter().for_each(|task| self.recorder.write_off(task));
        self.stop.store(true, Ordering::Relaxed);
        let watch = self.load.remove(0);
        for client in self.load.drain(..) {
            client.await.expect("a client");
        }
        let rest = self.settle(u64::MAX, LONG).await;
        let client = self.rig.client();
        let stored: Result<Vec<Task>, _> =
            client.list_view(TaskFilter::default(), TaskView::Full, 500).try_collect().await;
        watch.abort();
        let mut history = self.recorder.take();
        let mut found = Vec::new();
        match stored {
            Ok(stored) => history.listed = stored.iter().map(|task| view(task, None, true)).collect(),
            Err(error) => found.push(Finding {
                kind: Fault::Broken,
                at: u64::MAX,
                what: format!("the tasks cannot be listed: {error}"),
            }),
        }
        history.runs = self.lists.iter().flat_map(|list| agent::runs(list)).collect();
        history.forgets = self.size == Size::Disk;
        found.extend(judge(&history));
        for task in rest.into_iter().chain(late) {
            if !found.iter().any(|finding| finding.what.starts_with(&task)) {
                found.push(Finding { kind: Fault::Lost, at: u64::MAX, what: format!("{task}: its end was not told") });
            }
        }
        Judged { found, accepted: self.recorder.counts().0, attempts: history.runs.len() }
    }

    /// Bytes the control plane has written to its log.
    pub(crate) fn logged(&self) -> u64 {
        std::fs::metadata(self.rig.path().join("control-plane.log")).map_or(0, |meta| meta.len())
    }

    /// The last lines of a log, to explain a failure.
    pub(crate) fn log_tail(&self, name: &str, lines: usize) -> String {
        let text = std::fs::read(self.rig.path().join(format!("{name}.log"))).unwrap_or_default();
        let text = String::from_utf8_lossy(&text).into_owned();
        let all: Vec<_> = text.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }

    /// Bytes free on the small disk of the control plane.
    pub(crate) fn fill_disk(&self, leave: u64) -> Option<PathBuf> {
        self.disk.as_ref().map(|disk| disk.fill(leave))
    }

    pub(crate) fn fill_sidecar_disk(&self) -> Option<PathBuf> {
        self.sidecar_disk.as_ref().map(|disk| disk.fill(MIB / 4))
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.load.iter().for_each(tokio::task::JoinHandle::abort);
    }
}

/// Shows the fleet a wall clock that is so many seconds off.
pub(crate) fn set_clock(file: &Path, seconds: i64) {
    // Replaced whole: it is read at any time.
    let new = file.with_extension("new");
    std::fs::write(&new, format!("{seconds:+}s\n")).expect("write the clock");
    std::fs::rename(&new, file).expect("set the clock");
}
