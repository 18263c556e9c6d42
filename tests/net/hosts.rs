//! The hosts: the real control plane and the real sidecar, on the simulated network and time.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use clap::Parser as _;
use hive_control_plane::assemble::Sources;
use hive_control_plane::clock::ClusterClock;
use hive_control_plane::config::{self, Config, Program};
use hive_control_plane::driver;
use hive_control_plane::run::{self, Listeners};
use hive_control_plane::store::embedded::ClusterId;
use hive_core::time::Time;
use hive_sidecar::clock::Clock;
use hive_sidecar::config::{AgentConfig, RuntimeKind, SidecarConfig};
use hive_sidecar::journal::{Limits, Syncing};
use hive_sidecar::session::{ExitReason, Now};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::agent::Agents;
use crate::lab::{EPOCH_MS, Lab, now};
use crate::rng::Rng;
use crate::wire::{OPS, PLANE, PORT, Port, Wire};

/// What every agent can do.
pub(crate) const CAPABILITY: &str = "work";

/// The defaults but for these settings, by their names in docs/settings.md.
pub(crate) fn settings(changed: &[(&str, &str)]) -> Config {
    let variable = |name: &str| format!("HIVE_{}", name.to_uppercase().replace('.', "__"));
    let own = [("data", "unused"), ("insecure", "true"), ("listen", "0.0.0.0:7070"), ("ops_listen", "0.0.0.0:7071")];
    let environment = own.iter().chain(changed).map(|(name, value)| (variable(name), (*value).to_owned())).collect();
    let flags = Program::try_parse_from(["hive-control-plane"]).expect("flags").flags;
    config::load(&config::Sources::new(&flags, environment)).unwrap_or_else(|faults| panic!("{faults}")).config
}

/// Longest time from a stop to the end, for a drain of 2 s.
const STOPS: u64 = 12_000;

impl Lab {
    /// Whether the control plane has stopped because it was asked to, `took` ms ago. A failure without
    /// a cause outside is a fault.
    fn judge_stop(&self, ended: Result<(), run::Error>, took: Option<u64>) -> bool {
        let mut book = self.book();
        book.say(|| format!("the control plane has stopped: {ended:?}"));
        if let Some(took) = took.filter(|took| *took > STOPS) {
            book.fault(format!("the control plane took {took} ms to stop"));
        }
        match ended {
            Ok(()) => return true,
            Err(run::Error::Driver(driver::Error::Open(_))) if self.store.is_away() => {}
            Err(run::Error::Failed(_)) if book.usurped => {}
            Err(error) => book.fault(format!("the control plane failed: {error:?}")),
        }
        false
    }
}

/// Serves until `stop`, and is started anew when it ends by itself; a crash drops it anywhere.
pub(crate) async fn control_plane(lab: Arc<Lab>, config: Config, stop: CancellationToken) -> turmoil::Result {
    while !stop.is_cancelled() {
        let asked = Arc::new(AtomicU64::new(0));
        let noted = Arc::clone(&asked);
        let token = stop.clone();
        let watch = async move {
            token.cancelled().await;
            noted.store(now(), Ordering::Relaxed);
            std::future::pending::<()>().await;
        };
        let ended = tokio::select! {
            biased;
            () = watch => Ok(()),
            ended = serve(&lab, config.clone(), stop.child_token()) => ended,
        };
        let asked = asked.load(Ordering::Relaxed);
        let ended_well = lab.judge_stop(ended, (asked > 0).then(|| now() - asked));
        if ended_well {
            return Ok(());
        }
        // Whoever runs it starts it again, as long as it takes.
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    Ok(())
}

async fn serve(lab: &Arc<Lab>, config: Config, stop: CancellationToken) -> Result<(), run::Error> {
    let listeners =
        Listeners { main: Port::bind(PORT).await.expect("free"), ops: Port::bind(OPS).await.expect("free") };
    lab.book().say(|| "the control plane starts".into());
    let clock = |stamp: Time| ClusterClock::simulated(stamp.max(Time(now())));
    let sources = Sources { clock, seed: lab.seed ^ now() };
    run::run_with(config, listeners, lab.store.clone(), ClusterId(1), sources, stop).await
}

/// One agent under one sidecar, both of this name.
pub(crate) async fn sidecar(lab: Arc<Lab>, name: String, folder: Arc<Path>, slots: u32) -> turmoil::Result {
    let agent = AgentConfig { slots, ..AgentConfig::new(&name, RuntimeKind::Command, &[CAPABILITY], &["none"]) };
    let state_dir = folder.join(&name);
    let config = SidecarConfig {
        namespace: "default".into(),
        id: name.clone(),
        server: format!("http://{PLANE}:{PORT}"),
        socket_dir: state_dir.join("s"),
        state_dir,
        stop_on_stdin_eof: false,
        tls: None,
        agents: vec![agent],
    };
    let mut rng = Rng::new(lab.seed ^ now() ^ name.bytes().fold(0, |hash, byte| hash * 31 + u64::from(byte)));
    let clock = Clock::simulated(|| Now { mono_ms: now() - EPOCH_MS + 1, wall_ms: now() });
    let sources = hive_sidecar::Sources { clock, rng: Box::new(move || rng.next()), syncing: Syncing::Never };
    let limits = Limits { min_free: 0, ..Limits::default() };
    let wire = Wire { lab: Arc::clone(&lab), host: name.clone() };
    // Nobody asks it to stop: it crashes, or runs on.
    let (_stop, stopped) = mpsc::channel(1);
    lab.book().say(|| format!("{name} starts"));
    let ended = hive_sidecar::run_from(config, wire, Agents(Arc::clone(&lab)), limits, sources, stopped).await;
    match ended {
        Ok(ExitReason::Stopped) => Ok(()),
        other => {
            lab.book().fault(format!("{name} has ended: {other:?}"));
            Ok(())
        }
    }
}

/// A simulation whose network is calm.
pub(crate) fn simulation(seed: u64, tick_ms: u64) -> turmoil::Builder {
    let mut builder = turmoil::Builder::new();
    builder
        .rng_seed(seed)
        .epoch(std::time::UNIX_EPOCH + Duration::from_millis(EPOCH_MS))
        .tick_duration(Duration::from_millis(tick_ms))
        .min_message_latency(Duration::from_millis(1))
        .max_message_latency(Duration::from_millis(20))
        .simulation_duration(Duration::from_secs(3_600))
        .tcp_capacity(256);
    builder
}
