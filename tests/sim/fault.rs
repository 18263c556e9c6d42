//! What goes wrong, and how it all is mended at the end.

use hive_sidecar::session::Input;

use crate::client::Asked;
use crate::network::Dir;
use crate::options::{Doom, Fault, Mode};
use crate::plan::Strike;
use crate::rng::Rng;
use crate::sidecar::Disk;
use crate::world::{Event, World};

/// What is wrong now.
#[derive(Debug, Default)]
pub(crate) struct Weather {
    /// Something is broken at least until then.
    troubled_until: u64,
}

/// A fault's effects linger.
const AFTER: u64 = 2_000;

impl World {
    /// Something is broken, or was a moment ago.
    pub(crate) fn is_troubled(&self) -> bool {
        self.now < self.weather.troubled_until
            || !self.control.up
            || self.control.paused.is_some()
            || self.sides.iter().any(|s| s.session.is_none() || s.paused.is_some() || s.cut != (false, false))
    }

    fn trouble(&mut self, fault: Fault, lasts: u64) {
        *self.stats.faults.entry(fault).or_default() += 1;
        self.weather.troubled_until = self.weather.troubled_until.max(self.now + lasts + AFTER);
    }

    pub(crate) fn strike(&mut self, nth: usize) {
        let Strike { fault, side, lasts, salt, .. } = self.strikes[nth];
        let mut rng = Rng::new(salt);
        if self.healing && (fault.hits_core(side) || self.doom(side) != Doom::Struck) {
            return;
        }
        let name = self.sides[side].name.clone();
        let end = self.now + lasts;
        let running = self.sides[side].session.is_some();
        self.digest.add(fault as u64);
        match fault {
            Fault::ControlCrash if self.control.up => {
                self.control_crash();
                self.at(end, Event::ControlStart);
            }
            Fault::ControlPause if self.control.up && self.control.paused.is_none() => {
                self.say(|| format!("control plane STANDS STILL for {lasts} ms"));
                self.control.paused = Some(Vec::new());
                self.control.paused_at = self.now;
                for stream in 0..self.streams.len() {
                    if self.streams[stream].client_open {
                        self.keepalive(stream, Dir::Down);
                    }
                }
                self.at(end, Event::ControlResume(self.control.life));
            }
            Fault::Zombie
                if self.control.up && self.control.paused.is_none() && self.zombie.is_none() && self.store.open =>
            {
                self.say(|| format!("control plane STANDS STILL for {lasts} ms and is REPLACED"));
                self.control_replaced();
                let (old, start) = (self.lives - 1, rng.between(50, 3_000));
                self.at(self.now + start, Event::ControlStart);
                self.at(end, Event::ControlResume(old));
                self.at(end + rng.between(500, 20_000), Event::ControlEnds(old));
            }
            Fault::ClockJump => {
                let by = rng.between(0, 7_200_000) as i64 - 3_600_000;
                if rng.chance(500) {
                    self.say(|| format!("{name}'s wall clock JUMPS by {by} ms"));
                    self.sides[side].wall += by;
                } else {
                    self.say(|| format!("the control plane's wall clock JUMPS by {by} ms"));
                    self.wall_offset = by;
                }
            }
            Fault::AgentMoves | Fault::AgentTwice if self.sides.len() > 1 && !self.sides[side].agents.is_empty() => {
                let nth = rng.index(self.sides[side].agents.len());
                let id = self.sides[side].agents[nth].id.clone();
                let to = (side + 1 + rng.index(self.sides.len() - 1)) % self.sides.len();
                let Some(spec) = self.sides[side].spec(&id) else { return };
                if id == crate::liveness::CORE || self.sides[to].spec(&id).is_some() {
                    return;
                }
                let twice = fault == Fault::AgentTwice;
                let other = self.sides[to].name.clone();
                self.say(|| {
                    format!("agent {id} of {name} is declared by {other}{}", if twice { " TOO" } else { ", it MOVES" })
                });
                self.reconfigure(to, &id, Some(spec));
                if twice {
                    self.at(end, Event::Once(to, id));
                } else {
                    self.reconfigure(side, &id, None);
                }
            }
            Fault::StoreUnknown => self.store.doubt = true,
            Fault::StoreFull => {
                self.say(|| format!("store is FULL for {lasts} ms"));
                self.store.full_until = end;
            }
            Fault::StoreSlow => {
                self.say(|| format!("store is SLOW for {lasts} ms"));
                self.store.slow_until = end;
            }
            Fault::SidecarCrash if running => {
                let programs = rng.chance(700);
                self.sidecar_crash(side, programs);
                self.at(end, Event::SidecarStart(side));
            }
            Fault::SidecarStop if running && self.sides[side].paused.is_none() => {
                self.say(|| format!("{name} is asked to stop"));
                self.session(side, Input::Shutdown);
            }
            Fault::SidecarPause if running && self.sides[side].paused.is_none() => {
                self.say(|| format!("{name} STANDS STILL for {lasts} ms"));
                self.sides[side].paused = Some(Vec::new());
                if let Some(stream) = self.stream_of(side) {
                    self.keepalive(stream, Dir::Up);
                }
                self.at(end, Event::SidecarResume(side));
            }
            Fault::HostBoot | Fault::DiskLost => {
                self.host_boot(side, fault == Fault::DiskLost);
                self.at(end, Event::SidecarStart(side));
            }
            Fault::JournalSick => {
                self.sides[side].disk = *rng.pick(&[Disk::Full, Disk::Fails]);
                let disk = self.sides[side].disk;
                self.say(|| format!("{name}'s journal: {disk:?} for {lasts} ms"));
                self.at(end, Event::DiskWell(side));
            }
            Fault::Reset => {
                if let Some(stream) = self.stream_of(side) {
                    self.say(|| format!("stream {stream} of {name} is RESET"));
                    self.reset(stream);
                }
            }
            Fault::Partition if self.sides[side].cut == (false, false) => {
                let cut = *rng.pick(&[(true, true), (true, false), (false, true)]);
                self.cut_off(side, cut);
                let cuts = self.sides[side].cuts;
                self.at(end, Event::Healed(side, cuts));
            }
            Fault::AgentDown => {
                if self.sides[side].agents.is_empty() {
                    return;
                }
                let nth = rng.index(self.sides[side].agents.len());
                self.agent_up(side, nth, false);
                self.at(end, Event::AgentUp(side, nth));
            }
            // It is broken already.
            _ => return,
        }
        self.trouble(fault, lasts);
    }

    /// The process at the stream's other end stands still.
    fn server_stands(&self, stream: usize) -> bool {
        let server = self.streams[stream].server;
        let mut processes = self.zombie.iter().chain([&self.control]);
        processes.any(|control| control.life == server && control.paused.is_some())
    }

    /// Every agent is declared by one sidecar: by the core, or by the first that does.
    fn declare_once(&mut self) {
        let mut known = std::collections::BTreeSet::new();
        for side in 0..self.sides.len() {
            for id in self.sides[side].declared() {
                if !known.insert(id.clone()) {
                    self.reconfigure(side, &id, None);
                }
            }
        }
    }

    /// Nothing passes from here on: up, down.
    fn cut_off(&mut self, side: usize, cut: (bool, bool)) {
        let name = self.sides[side].name.clone();
        self.say(|| format!("{name} is CUT OFF (up {}, down {})", cut.0, cut.1));
        self.sides[side].cut = cut;
        self.sides[side].cuts += 1;
        for stream in 0..self.streams.len() {
            if self.streams[stream].side == side {
                // Pings need both ways.
                self.keepalive(stream, Dir::Up);
                self.keepalive(stream, Dir::Down);
            }
        }
    }

    /// A keepalive has gone unanswered, if what kept it from being answered still lasts.
    pub(crate) fn unanswered(&mut self, stream: usize, dir: Dir) {
        let side = self.streams[stream].side;
        let cut = self.sides[side].cut != (false, false);
        match dir {
            Dir::Up if cut || self.sides[side].paused.is_some() => self.at(self.now, Event::Broken(stream, dir)),
            Dir::Down if cut || self.server_stands(stream) => self.at(self.now, Event::Broken(stream, dir)),
            _ => {}
        }
    }

    pub(crate) fn mend(&mut self, side: usize, cut: u64) {
        if self.sides[side].cuts != cut || self.sides[side].cut == (false, false) {
            return;
        }
        let name = self.sides[side].name.clone();
        self.say(|| format!("{name} is reachable again"));
        self.sides[side].cut = (false, false);
        self.unblock(side);
    }

    pub(crate) fn hold_control(&mut self, event: Event) {
        if let Some(waiting) = &mut self.control.paused {
            // Ticks don't add up.
            let tick = |e: &Event| matches!(e, Event::Tick(_));
            if !tick(&event) || !waiting.iter().any(tick) {
                waiting.push(event);
            }
        }
    }

    pub(crate) fn hold_sidecar(&mut self, side: usize, event: Event) {
        if let Some(waiting) = &mut self.sides[side].paused {
            waiting.push(event);
        }
    }

    pub(crate) fn control_resume(&mut self) {
        if let Some(waiting) = self.control.paused.take() {
            self.say(|| "control plane goes on".into());
            if self.now >= self.control.paused_at + 2_200 {
                // It notices by its next tick. What did not fit into a batch was found before.
                let left_over = self.control.machine.as_ref().is_some_and(|machine| !machine.leader().is_idle());
                (self.control.office, self.control.settled) = (self.cluster(), if left_over { 0 } else { 2 });
            }
            waiting.into_iter().for_each(|event| self.at(self.now, event));
        }
    }

    pub(crate) fn sidecar_resume(&mut self, side: usize) {
        if let Some(waiting) = self.sides[side].paused.take() {
            let name = self.sides[side].name.clone();
            self.say(|| format!("{name} goes on"));
            waiting.into_iter().for_each(|event| self.at(self.now, event));
        }
    }

    /// What becomes of a sidecar for good.
    pub(crate) fn doom(&self, side: usize) -> Doom {
        match self.options.mode {
            Mode::Liveness if self.healing && side > 0 => self.options.dooms[side - 1],
            _ => Doom::Well,
        }
    }

    /// From here on nothing is broken, or nothing of the core.
    pub(crate) fn heal(&mut self) {
        let mode = self.options.mode;
        self.say(|| format!("HEALED ({mode:?} mode)"));
        self.healing = true;
        self.healed_at = self.now;
        (self.store.full_until, self.store.slow_until, self.store.doubt) = (0, 0, false);
        self.haunt(Self::control_crash);
        self.wall_offset = 0;
        self.control_resume();
        self.at(self.now, Event::ControlStart);
        self.declare_once();
        for side in 0..self.sides.len() {
            match self.doom(side) {
                Doom::Well | Doom::Struck => self.make_well(side),
                Doom::Dead => {
                    if self.sides[side].session.is_some() {
                        self.sidecar_crash(side, true);
                    }
                }
                Doom::Still => {
                    let name = self.sides[side].name.clone();
                    self.say(|| format!("{name} STANDS STILL for good"));
                    if self.sides[side].session.is_some() && self.sides[side].paused.is_none() {
                        self.sides[side].paused = Some(Vec::new());
                        if let Some(stream) = self.stream_of(side) {
                            self.keepalive(stream, Dir::Up);
                        }
                    }
                }
                Doom::Cut(up, down) => {
                    self.make_well(side);
                    self.cut_off(side, (up, down));
                }
                Doom::Sick => {
                    self.make_well(side);
                    self.sides[side].disk = Disk::Fails;
                }
            }
        }
        for agent in std::mem::take(&mut self.ledger.drained) {
            self.ask(Asked::Drain(agent.clone(), true));
            // An undo may have been overtaken by its drain.
            self.at(self.now + 20_000, Event::Call(Asked::Drain(agent, true)));
        }
        if mode == Mode::Liveness {
            for _ in 0..self.rng.between(1, 4) {
                self.submit();
            }
        }
    }

    fn make_well(&mut self, side: usize) {
        self.sides[side].disk = Disk::Writes;
        self.mend(side, self.sides[side].cuts);
        self.sidecar_resume(side);
        self.at(self.now, Event::SidecarStart(side));
        for nth in 0..self.sides[side].agents.len() {
            self.agent_up(side, nth, true);
        }
    }
}
