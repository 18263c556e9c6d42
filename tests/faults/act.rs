//! Doing a fault and mending it.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, Signal};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::attack;
use crate::fault::{Fault, Kind, Place};
use crate::fleet::{Fleet, Size, command_id, sdk_id, set_clock, sidecar_id};
use crate::harness::{LONG, Proc, Rng, eventually, processes_with, signal};
use crate::tools::Tools;

/// Shorter than the time after which an agent is LOST: nothing may be restarted.
const WELL_WITHIN_GRACE: Duration = Duration::from_secs(8);

/// A fault that was done.
pub(crate) struct Active {
    heal: Heal,
    /// Agents whose work may be tried again, whatever the time.
    disturbed: BTreeSet<String>,
    /// Agents whose work may be tried again if it lasted longer than the grace.
    silenced: BTreeSet<String>,
    /// Agents that show that all is well again.
    pub(crate) probes: BTreeSet<String>,
}

enum Heal {
    Nothing,
    StartControlPlane,
    ContinueControlPlane,
    StartSidecars(Vec<usize>),
    ContinueSidecar(usize),
    ContinueProcess(u32),
    Kill(u32),
    Reset(usize),
    Mend(usize),
    Detach(Proc),
    Free(PathBuf),
    Descriptors(Rlimit, Vec<TcpStream>),
    Attack(JoinSet<()>),
    SetClock,
    SetClockAndStart,
}

/// Does the fault to the fleet.
pub(crate) async fn begin(fault: &'static Fault, fleet: &mut Fleet, rng: &mut Rng, tools: &Tools) -> Active {
    let number = rng.within(1, fleet.sidecars() as u64) as usize;
    let mut active = Active {
        heal: Heal::Nothing,
        disturbed: BTreeSet::new(),
        silenced: BTreeSet::new(),
        probes: (1..=fleet.sidecars()).map(sdk_id).collect(),
    };
    if fault.place == Place::Sidecar && fault.kind != Kind::HerdSidecarsKill {
        active.probes = fleet.agents_of(number).into_iter().collect();
    }
    let agents = || -> BTreeSet<String> { fleet.agents_of(number).into_iter().collect() };
    match fault.kind {
        Kind::ControlPlaneKill | Kind::ControlPlaneOutage | Kind::HerdControlPlaneKill => {
            fleet.rig.control_plane().kill9();
            active.heal = Heal::StartControlPlane;
        }
        Kind::ControlPlaneKillAtStart => {
            fleet.rig.control_plane().kill9();
            for _ in 0..3 {
                fleet.rig.launch_control_plane();
                tokio::time::sleep(rng.millis(0, 120)).await;
                fleet.rig.control_plane().kill9();
            }
            active.heal = Heal::StartControlPlane;
        }
        Kind::ControlPlaneRestart => {
            let status = fleet.rig.control_plane().terminate(LONG).await;
            assert!(status.success(), "the control plane was told to stop and ended with {status}");
            active.heal = Heal::StartControlPlane;
        }
        Kind::ControlPlanePause | Kind::HerdControlPlanePause => {
            fleet.rig.control_plane().pause();
            active.heal = Heal::ContinueControlPlane;
        }
        Kind::ControlPlaneEio => {
            active.heal = Heal::Detach(inject(fleet, tools, "fdatasync,fsync:error=EIO").await);
        }
        Kind::ControlPlaneSlowFsync => {
            active.heal = Heal::Detach(inject(fleet, tools, "fdatasync,fsync:delay_enter=400000").await);
        }
        Kind::ControlPlaneDescriptors => active.heal = exhaust(fleet).await,
        Kind::ControlPlaneDiskFull => {
            active.heal = fleet.fill_disk(0).map_or(Heal::Nothing, Heal::Free);
        }
        Kind::ControlPlaneDiskNoReserve => {
            let filler = fleet.fill_disk(0);
            // The reserve is given up when a write fails; what that frees is taken too.
            for _ in 0..20 {
                tokio::time::sleep(Duration::from_millis(100)).await;
                fleet.fill_disk(0);
            }
            active.heal = filler.map_or(Heal::Nothing, Heal::Free);
        }
        Kind::ConnectionFlood
        | Kind::ResetFlood
        | Kind::OpenFlood
        | Kind::SlowLoris
        | Kind::StalledReaders
        | Kind::Malformed => active.heal = Heal::Attack(attack::begin(fault.kind, fleet.rig.address())),
        Kind::SidecarKill => {
            active.disturbed = [sdk_id(number)].into();
            fleet.rig.sidecar_process(&sidecar_id(number)).kill9();
            active.heal = Heal::StartSidecars(vec![number]);
        }
        Kind::HerdSidecarsKill => {
            let numbers: Vec<usize> = (0..30).map(|n| (number + n) % fleet.sidecars() + 1).collect();
            active.disturbed = numbers.iter().map(|number| sdk_id(*number)).collect();
            active.probes = active.disturbed.clone();
            for number in &numbers {
                fleet.rig.sidecar_process(&sidecar_id(*number)).kill9();
            }
            active.heal = Heal::StartSidecars(numbers);
        }
        Kind::SidecarRestart => {
            let status = fleet.rig.sidecar_process(&sidecar_id(number)).terminate(LONG).await;
            assert!(status.success(), "sidecar-{number} was told to stop and ended with {status}");
            active.heal = Heal::StartSidecars(vec![number]);
        }
        Kind::SidecarPause => {
            active.silenced = agents();
            fleet.rig.sidecar_process(&sidecar_id(number)).pause();
            active.heal = Heal::ContinueSidecar(number);
        }
        Kind::SidecarDiskFull => {
            active.probes = fleet.agents_of(1).into_iter().collect();
            active.heal = fleet.fill_sidecar_disk().map_or(Heal::Nothing, Heal::Free);
        }
        Kind::ShimKill => {
            let program = program_of(fleet, &command_id(number), 5).await;
            let (agent, program) = match program {
                Some(program) if rng.within(0, 1) == 0 => (command_id(number), Some(program)),
                _ => (sdk_id(number), fleet.rig.agent_process(&sdk_id(number))),
            };
            active.disturbed = [agent].into();
            if let Some(shim) = program.and_then(parent).filter(|pid| command_line(*pid).contains(" shim ")) {
                active.heal = Heal::Kill(shim);
            }
        }
        Kind::AgentKill => {
            active.disturbed = [sdk_id(number)].into();
            active.heal = fleet.rig.agent_process(&sdk_id(number)).map_or(Heal::Nothing, Heal::Kill);
        }
        Kind::AgentPause => {
            active.disturbed = [sdk_id(number)].into();
            if let Some(pid) = fleet.rig.agent_process(&sdk_id(number)) {
                signal(pid, Signal::STOP);
                active.heal = Heal::ContinueProcess(pid);
            }
        }
        Kind::WireCut | Kind::WireCutUp | Kind::WireCutDown => {
            active.silenced = agents();
            let wire = &fleet.wires[number - 1];
            match fault.kind {
                Kind::WireCutUp => wire.cut_up(),
                Kind::WireCutDown => wire.cut_down(),
                _ => wire.cut(),
            }
            active.heal = Heal::Mend(number);
        }
        Kind::WireReset => active.heal = Heal::Reset(number),
        Kind::ClockForward | Kind::ClockBack => {
            set_wall(fleet, if fault.kind == Kind::ClockForward { 3_600 } else { -3_600 });
            active.heal = Heal::SetClock;
        }
        Kind::ClockBackAndKill => {
            set_wall(fleet, if rng.within(0, 1) == 0 { 3_600 } else { -3_600 });
            fleet.rig.control_plane().kill9();
            fleet.rig.start_control_plane().await;
            fleet.note_pid();
            fleet.rig.control_plane().kill9();
            active.heal = Heal::SetClockAndStart;
        }
    }
    active
}

/// Mends it. What lasted so long may excuse restarts of what these agents ran.
pub(crate) async fn heal(active: &mut Active, fleet: &mut Fleet, lasted: Duration) -> BTreeSet<String> {
    match std::mem::replace(&mut active.heal, Heal::Nothing) {
        Heal::Nothing => {}
        Heal::StartControlPlane => start(fleet).await,
        Heal::ContinueControlPlane => fleet.rig.control_plane().resume(),
        Heal::StartSidecars(numbers) => {
            numbers.into_iter().for_each(|number| fleet.rig.start_sidecar(&sidecar_id(number)));
        }
        Heal::ContinueSidecar(number) => fleet.rig.sidecar_process(&sidecar_id(number)).resume(),
        Heal::ContinueProcess(pid) => signal(pid, Signal::CONT),
        Heal::Kill(pid) => signal(pid, Signal::KILL),
        Heal::Reset(number) => fleet.wires[number - 1].reset(),
        Heal::Mend(number) => fleet.wires[number - 1].mend(),
        // It lets go of what it traces when it is told to end.
        Heal::Detach(mut tracer) => drop(tracer.terminate(LONG).await),
        Heal::Free(filler) => std::fs::remove_file(filler).expect("free the disk"),
        Heal::Descriptors(before, held) => {
            limit_descriptors(fleet.rig.control_plane().pid(), before);
            drop(held);
        }
        Heal::Attack(mut attackers) => attackers.shutdown().await,
        Heal::SetClock => set_wall(fleet, 0),
        Heal::SetClockAndStart => {
            set_wall(fleet, 0);
            start(fleet).await;
        }
    }
    let mut excused = active.disturbed.clone();
    if lasted > WELL_WITHIN_GRACE {
        excused.extend(active.silenced.clone());
    }
    excused
}

async fn start(fleet: &mut Fleet) {
    fleet.rig.start_control_plane().await;
    fleet.note_pid();
}

fn set_wall(fleet: &Fleet, seconds: i64) {
    if let Some(clock) = &fleet.clock {
        set_clock(clock, seconds);
    }
}

/// Tampers with system calls of the control plane until it is told to end.
async fn inject(fleet: &mut Fleet, tools: &Tools, what: &str) -> Proc {
    let pid = fleet.rig.control_plane().pid();
    let mut command = Command::new(tools.strace.as_ref().expect("strace, as found before"));
    command.args(["-f", "-o", "/dev/null", "-e", "trace=fdatasync,fsync", "-e", &format!("inject={what}")]);
    command.args(["-p", &pid.to_string()]);
    let log = fleet.rig.path().join("strace.log");
    let _absent = std::fs::remove_file(&log);
    let mut tracer = Proc::start("strace", command, &log);
    eventually("strace has attached", LONG, || {
        let (ended, said) = (tracer.ended(), tracer.log());
        assert!(ended.is_none(), "strace ended: {said}");
        async move { if said.contains("attached") { Ok(()) } else { Err(said) } }
    })
    .await;
    tracer
}

/// Leaves the control plane no file descriptor, and has connections ask for one.
async fn exhaust(fleet: &mut Fleet) -> Heal {
    let pid = fleet.rig.control_plane().pid();
    let open = std::fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count) as u64;
    let before = rustix::process::getrlimit(Resource::Nofile);
    limit_descriptors(pid, Rlimit { current: Some(open + 2), maximum: before.maximum });
    let mut dials = JoinSet::new();
    for _ in 0..100 {
        let address = fleet.rig.address();
        dials.spawn(tokio::time::timeout(Duration::from_millis(300), TcpStream::connect(address)));
    }
    let held = dials.join_all().await.into_iter().filter_map(|dialled| dialled.ok()?.ok()).collect();
    Heal::Descriptors(before, held)
}

fn limit_descriptors(pid: u32, limit: Rlimit) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let _before = rustix::process::prlimit(pid, Resource::Nofile, limit).expect("set a limit as root");
}

/// The program an agent runs just now, looked for a few times.
async fn program_of(fleet: &Fleet, agent: &str, times: usize) -> Option<u32> {
    for _ in 0..times {
        let ours = fleet.rig.processes();
        let found = processes_with(&format!("HIVE_AGENT_ID={agent}\0"));
        if let Some((pid, _)) = found.into_iter().find(|(pid, _)| ours.iter().any(|(own, _)| own == pid)) {
            return Some(pid);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    None
}

fn parent(pid: u32) -> Option<u32> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    text.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

fn command_line(pid: u32) -> String {
    let bytes = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&bytes).replace('\0', " ")
}

/// How long each fault of a fleet may last in all, beyond which the lab gives the round up.
pub(crate) fn patience(size: Size) -> Duration {
    if size == Size::Hundred { 3 * LONG } else { 2 * LONG }
}
