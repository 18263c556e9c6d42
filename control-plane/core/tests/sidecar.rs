//! A model sidecar: it keeps intents and results in a journal, answers offers and may lose anything
//! but the journal, or that as well.

use std::collections::{BTreeMap, BTreeSet};

use hive_core::command::{Delivered, Outcome, StopReason};
use hive_core::id::{AgentId, AssignNumber, AttemptId, BootId, ConnectionNumber, Generation, LeaderEpoch, SidecarId};
use hive_core::leader::{Beat, Connection, Credit, Declared, FromSidecar, Hello, Listed, ToSidecar};
use hive_core::record::{AgentSpec, DisconnectPolicy};
use hive_core::time::Time;
use std::time::Duration;

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Held {
    /// Taken in, not started.
    Accepted,
    /// Runs, since then.
    Running(Time),
    /// Runs and waits for the answer to a question.
    Waiting(Time, u32),
    /// Ended; kept until released.
    Finished(Outcome),
    /// The intent is there, the process is not.
    Lost,
}

#[derive(Clone, Debug)]
pub(crate) struct Work {
    pub(crate) agent: AgentId,
    pub(crate) held: Held,
    pub(crate) policy: DisconnectPolicy,
    /// Number of the next question.
    pub(crate) question: u32,
    pub(crate) stopping: bool,
}

pub(crate) struct Sidecar {
    pub(crate) id: SidecarId,
    pub(crate) boot: BootId,
    pub(crate) generation: Generation,
    pub(crate) dial: u64,
    pub(crate) agents: BTreeMap<AgentId, AgentSpec>,
    pub(crate) journal: BTreeMap<AttemptId, Work>,
    pub(crate) connection: Option<Connection>,
    pub(crate) open: bool,
    /// The leader it answers to.
    pub(crate) leader: LeaderEpoch,
    pub(crate) seen: u64,
    pub(crate) beat: u64,
    beats: BTreeMap<u64, Time>,
    /// Send time of the last sign of life that was acknowledged.
    pub(crate) heard: Time,
    pub(crate) kill_after: Duration,
    /// Agents that take nothing: their slots are told as 0.
    pub(crate) unready: BTreeSet<AgentId>,
    /// It does not stop what it is told to.
    pub(crate) stubborn: bool,
    /// It drops assignments without a word.
    pub(crate) deaf: bool,
}

impl Sidecar {
    pub(crate) fn new(id: &str, boot: u128) -> Self {
        Self {
            id: SidecarId::parse(id).unwrap(),
            boot: BootId(boot),
            generation: Generation(0),
            dial: 0,
            agents: BTreeMap::new(),
            journal: BTreeMap::new(),
            connection: None,
            open: false,
            leader: LeaderEpoch::default(),
            seen: 0,
            beat: 0,
            beats: BTreeMap::new(),
            heard: Time::ZERO,
            kill_after: Duration::from_secs(25),
            unready: BTreeSet::new(),
            stubborn: false,
            deaf: false,
        }
    }

    fn busy(&self, agent: &AgentId) -> u32 {
        let takes = |w: &&Work| w.agent == *agent && !matches!(w.held, Held::Finished(_) | Held::Lost);
        u32::try_from(self.journal.values().filter(takes).count()).unwrap()
    }

    pub(crate) fn credit_of(&self, agent: &AgentId) -> Credit {
        let slots = self.agents.get(agent).map_or(0, |spec| spec.slots);
        Credit {
            agent: agent.clone(),
            free: slots.saturating_sub(self.busy(agent)),
            ready: !self.unready.contains(agent),
        }
    }

    fn inventory(&self) -> Vec<Listed> {
        let listed = self.journal.iter().filter_map(|(token, work)| {
            let (started, finished, input) = match &work.held {
                Held::Accepted => (None, false, None),
                Held::Running(since) => (Some(*since), false, None),
                Held::Waiting(since, number) => (Some(*since), false, Some(*number)),
                Held::Finished(_) => (None, true, None),
                Held::Lost => return None,
            };
            Some(Listed { token: *token, agent: work.agent.clone(), started, finished, input })
        });
        listed.collect()
    }

    pub(crate) fn dial(&mut self, connection: Connection, leader: LeaderEpoch, now: Time) -> FromSidecar {
        self.dial += 1;
        self.connection = Some(connection);
        self.leader = leader;
        self.hello(now)
    }

    pub(crate) fn hello(&mut self, now: Time) -> FromSidecar {
        self.open = false;
        self.seen = 0;
        self.beats.clear();
        self.beats.insert(0, now);
        let declared = self.agents.iter().map(|(id, spec)| Declared {
            spec: spec.clone(),
            digest: [u8::try_from(spec.slots).unwrap(); 16],
            credit: self.credit_of(id),
            removed: false,
        });
        FromSidecar::Hello(Box::new(Hello {
            namespace: hive_core::id::Namespace::parse("default").unwrap(),
            sidecar: self.id.clone(),
            boot: self.boot,
            generation: self.generation,
            connection: ConnectionNumber(self.dial),
            agents: declared.collect(),
            attempts: self.inventory(),
        }))
    }

    pub(crate) fn hang_up(&mut self) -> Option<Connection> {
        self.open = false;
        self.connection.take()
    }

    pub(crate) fn credit(&self) -> FromSidecar {
        let agents = self.agents.keys().map(|agent| self.credit_of(agent)).collect();
        FromSidecar::Credit { seen: AssignNumber(self.seen), agents }
    }

    pub(crate) fn beat(&mut self, now: Time) -> FromSidecar {
        self.beat += 1;
        self.beats.insert(self.beat, now);
        let agents = self.agents.keys().map(|agent| self.credit_of(agent)).collect();
        let attempts = self.inventory();
        FromSidecar::Beat(Box::new(Beat { number: self.beat, seen: AssignNumber(self.seen), agents, attempts }))
    }

    /// Everything but the journal is gone: what ran is lost.
    pub(crate) fn lose_processes(&mut self) {
        for work in self.journal.values_mut() {
            if !matches!(work.held, Held::Finished(_)) {
                work.held = Held::Lost;
            }
        }
    }

    /// The journal is gone as well.
    pub(crate) fn reboot(&mut self, boot: u128) {
        self.boot = BootId(boot);
        self.generation = Generation(0);
        self.journal.clear();
        self.dial = 0;
    }

    /// Ends STOP attempts that have been out of contact for too long.
    pub(crate) fn guard(&mut self, now: Time) {
        if now < self.heard + self.kill_after {
            return;
        }
        for work in self.journal.values_mut() {
            if work.policy == DisconnectPolicy::Stop && !matches!(work.held, Held::Finished(_) | Held::Lost) {
                work.held = Held::Finished(Outcome::Cancelled);
            }
        }
    }

    pub(crate) fn finish(&mut self, token: AttemptId, outcome: Outcome) -> Vec<FromSidecar> {
        let Some(work) = self.journal.get_mut(&token) else { return Vec::new() };
        work.held = Held::Finished(outcome.clone());
        vec![FromSidecar::Result { token, outcome }, self.credit()]
    }

    /// Takes a message in and answers it.
    pub(crate) fn hear(&mut self, message: ToSidecar, leader: LeaderEpoch, now: Time) -> Vec<FromSidecar> {
        match message {
            ToSidecar::Welcome(welcome) => {
                self.open = true;
                self.leader = leader;
                self.generation = welcome.generation;
                self.kill_after = welcome.kill_after;
                self.heard = self.beats.get(&0).copied().unwrap_or(self.heard);
                let mut replies = Vec::new();
                for verdict in &welcome.verdicts {
                    match (verdict.over, self.journal.get(&verdict.token).map(|w| w.held.clone())) {
                        (Some(_), _) => drop(self.journal.remove(&verdict.token)),
                        (None, Some(Held::Finished(outcome))) => {
                            replies.push(FromSidecar::Result { token: verdict.token, outcome });
                        }
                        (None, Some(Held::Waiting(_, number))) => {
                            replies.push(question(verdict.token, number));
                        }
                        (None, _) => {}
                    }
                }
                replies.push(self.credit());
                replies
            }
            // Numbered by a session that is over.
            ToSidecar::Assign(_) if !self.open => Vec::new(),
            ToSidecar::Assign(assignment) => {
                if self.deaf {
                    return Vec::new();
                }
                self.seen = assignment.number.0;
                let (token, task) = (assignment.task.token(), &assignment.task);
                let Some(run) = task.run() else { panic!("offered without a run") };
                let mut replies = vec![FromSidecar::Receipt(assignment.number)];
                match self.journal.get(&token).map(|w| w.held.clone()) {
                    Some(Held::Lost) => replies.push(FromSidecar::AttemptLost(token)),
                    Some(_) => {}
                    None => {
                        let credit = self.credit_of(&run.agent);
                        if credit.free == 0 || !credit.ready || !self.agents.contains_key(&run.agent) {
                            replies.push(FromSidecar::Declined(token));
                        } else {
                            let question = task.questions + 1;
                            let policy = task.spec.disconnect;
                            let agent = run.agent.clone();
                            let work = Work { agent, held: Held::Accepted, policy, question, stopping: false };
                            self.journal.insert(token, work);
                        }
                    }
                }
                replies.push(self.credit());
                replies
            }
            ToSidecar::ResultAck { token, .. } => {
                self.journal.remove(&token);
                vec![self.credit()]
            }
            ToSidecar::Stop { token, reason, .. } => {
                let Some(work) = self.journal.get_mut(&token) else { return Vec::new() };
                work.stopping = true;
                if matches!(work.held, Held::Finished(_) | Held::Lost)
                    || (self.stubborn && reason == StopReason::Requested)
                {
                    return Vec::new();
                }
                self.finish(token, Outcome::Cancelled)
            }
            ToSidecar::Answer { token, number, .. } => {
                if let Some(work) = self.journal.get_mut(&token)
                    && let Held::Waiting(since, asked) = work.held
                    && asked == number
                {
                    work.held = Held::Running(since);
                    work.question = number + 1;
                }
                Vec::new()
            }
            ToSidecar::Desire { .. } => Vec::new(),
            ToSidecar::BeatAck { number, .. } => {
                if let Some(sent) = self.beats.remove(&number) {
                    self.heard = self.heard.max(sent);
                }
                Vec::new()
            }
            ToSidecar::Resync => {
                self.leader = leader;
                vec![self.hello(now)]
            }
        }
    }
}

pub(crate) fn question(token: AttemptId, number: u32) -> FromSidecar {
    FromSidecar::InputRequired { token, number, prompt: Delivered::default() }
}
