//! Sidecars as the leader knows them: their sessions and when they were last heard.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::message::{Hello, Welcome};
use super::{Connection, Leader, Output, ToSidecar};
use crate::command::StopReason;
use crate::id::{AgentId, AssignNumber, AttemptId, Namespace, SessionEpoch, SidecarId};
use crate::record::{Key, TaskRecord};
use crate::state::{Contact, Offer};
use crate::time::Time;

/// A live stream.
#[derive(Debug)]
pub(super) struct Session {
    pub connection: Connection,
    pub epoch: SessionEpoch,
    /// Its welcome has been told; before that nothing else is.
    pub open: bool,
    pub hello: Option<Box<Hello>>,
    /// Agents it declared and another sidecar hosts.
    pub in_use: Vec<(AgentId, SidecarId)>,
    pub sent: AssignNumber,
    /// What its welcome says: after so much silence it ends its STOP attempts.
    pub kill_after: Duration,
    /// Offers without receipt, oldest first.
    pub unreceipted: VecDeque<(AssignNumber, Time, AgentId, AttemptId)>,
}

/// A sidecar, with or without a session.
#[derive(Debug)]
pub(super) struct Host {
    /// Its last acknowledged beat, or when the leader took office.
    pub heard: Time,
    /// It said goodbye.
    pub left: bool,
    /// The longest [`Session::kill_after`] it may go by.
    pub kill_after: Duration,
    pub session: Option<Session>,
}

impl Host {
    pub(super) fn unheard(now: Time, kill_after: Duration) -> Self {
        Self { heard: now, left: false, kill_after, session: None }
    }
}

type HostKey = (Namespace, SidecarId);

#[derive(Debug)]
pub(super) struct Hosts {
    by_key: BTreeMap<HostKey, Host>,
    connections: BTreeMap<Connection, HostKey>,
}

impl Hosts {
    pub(super) fn new(by_key: BTreeMap<HostKey, Host>) -> Self {
        Self { by_key, connections: BTreeMap::new() }
    }

    pub(super) fn sessions(&self) -> usize {
        self.connections.len()
    }

    pub(super) fn connections(&self) -> Vec<Connection> {
        self.connections.keys().copied().collect()
    }

    /// Sessions whose oldest offer without receipt was sent then or earlier.
    pub(super) fn unreceipted(&self, sent: Time) -> Vec<Connection> {
        let sessions = self.by_key.values().filter_map(|host| host.session.as_ref());
        let overdue = sessions.filter(|s| s.unreceipted.front().is_some_and(|(_, at, ..)| *at <= sent));
        overdue.map(|session| session.connection).collect()
    }

    /// Sessions that were refused some of their agents.
    pub(super) fn refused(&self) -> impl Iterator<Item = (&HostKey, &Session)> {
        let sessions = self.by_key.iter().filter_map(|(key, host)| Some((key, host.session.as_ref()?)));
        sessions.filter(|(_, session)| !session.in_use.is_empty())
    }

    pub(super) fn by_connection(&self, connection: Connection) -> Option<&HostKey> {
        self.connections.get(&connection)
    }

    pub(super) fn get(&self, key: &HostKey) -> Option<&Host> {
        self.by_key.get(key)
    }

    pub(super) fn get_mut(&mut self, key: &HostKey) -> Option<&mut Host> {
        self.by_key.get_mut(key)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&HostKey, &Host)> {
        self.by_key.iter()
    }

    pub(super) fn session_mut(&mut self, connection: Connection) -> Option<&mut Session> {
        let key = self.connections.get(&connection)?;
        self.by_key.get_mut(key)?.session.as_mut()
    }

    /// Puts a session in place and returns the one it replaces.
    pub(super) fn open(&mut self, key: HostKey, session: Session, now: Time) -> Option<Connection> {
        self.connections.insert(session.connection, key.clone());
        let host = self.by_key.entry(key).or_insert_with(|| Host::unheard(now, Duration::ZERO));
        host.heard = now;
        host.left = false;
        let replaced = host.session.replace(session)?.connection;
        let now_open = host.session.as_ref().map(|s| s.connection);
        if Some(replaced) == now_open {
            return None;
        }
        self.connections.remove(&replaced);
        Some(replaced)
    }

    /// Takes a session away.
    pub(super) fn close(&mut self, connection: Connection) -> Option<HostKey> {
        let key = self.connections.remove(&connection)?;
        if let Some(host) = self.by_key.get_mut(&key)
            && host.session.as_ref().is_some_and(|s| s.connection == connection)
        {
            host.session = None;
        }
        Some(key)
    }

    /// Every silence counts from now on, except that of those who said goodbye.
    fn hear_all(&mut self, now: Time) {
        for host in self.by_key.values_mut().filter(|host| !host.left) {
            host.heard = now;
        }
    }

    /// Forgets a sidecar that hosts nothing and has no session.
    pub(super) fn forget(&mut self, key: &HostKey) {
        if self.by_key.get(key).is_some_and(|host| host.session.is_none()) {
            self.by_key.remove(key);
        }
    }
}

impl Leader {
    /// The driver did not run for a while: stopped, or asleep with its machine. It could hear nobody
    /// meanwhile, so every grace starts anew, as in [`Leader::new`]. To be called before the first
    /// step after the gap.
    pub fn resume(&mut self, now: Time) {
        self.took_office = now;
        self.hosts.hear_all(now);
    }

    /// A stream has ended without goodbye: its agents are suspect at once, and lost only after the
    /// grace.
    pub(super) fn hang_up(&mut self, connection: Connection, out: &mut Vec<Output>) {
        if let Some(key) = self.hosts.close(connection) {
            self.set_contact(&key, Contact::Suspect, out);
        }
    }

    /// Changes the contact of all agents of a sidecar.
    pub(super) fn set_contact(&mut self, key: &HostKey, contact: Contact, out: &mut Vec<Output>) {
        let heard = self.hosts.get(key).map(|host| host.heard);
        let Some(space) = self.state.spaces.get_mut(&key.0) else { return };
        let agents: Vec<AgentId> = space.hosted(&key.1).cloned().collect();
        for agent in agents {
            let changed = space.agent_entry(&agent).is_some_and(|entry| entry.soft.contact != contact);
            space.soften(&agent, |entry| {
                entry.soft.contact = contact;
                if contact == Contact::Connected {
                    entry.soft.heard = heard;
                }
            });
            if changed {
                self.stats.suspected += u64::from(contact == Contact::Suspect);
                out.push(Output::Touched(Key::Agent(key.0.clone(), agent)));
            }
        }
    }

    /// Sends to the sidecar that hosts an agent, if it has an open session. Otherwise nothing is
    /// lost: hello and beats are level-triggered.
    pub(super) fn send_to_agent(
        &self,
        namespace: &Namespace,
        agent: &AgentId,
        message: ToSidecar,
        out: &mut Vec<Output>,
    ) {
        if let Some(connection) = self.open_session(namespace, agent) {
            out.push(Output::Send { connection, message });
        }
    }

    fn open_session(&self, namespace: &Namespace, agent: &AgentId) -> Option<Connection> {
        let host = self.state.space(namespace)?.agent(agent)?.host.clone()?;
        let session = self.hosts.get(&(namespace.clone(), host))?.session.as_ref()?;
        session.open.then_some(session.connection)
    }

    /// Offers an attempt under the next number of the session, if it is still current.
    pub(super) fn offer(&mut self, namespace: &Namespace, task: &std::sync::Arc<TaskRecord>, out: &mut Vec<Output>) {
        let Some(run) = task.run() else { return };
        let agent = run.agent.clone();
        let Some(space) = self.state.space(namespace) else { return };
        let current = space.agent_entry(&agent).and_then(|e| e.slots.get(&task.id)).map(|slot| slot.attempt);
        if current != Some(task.attempt) {
            return;
        }
        let Some(connection) = self.open_session(namespace, &agent) else { return };
        let now = self.state.clock;
        let Some(session) = self.hosts.session_mut(connection) else { return };
        session.sent = session.sent.next();
        let number = session.sent;
        session.unreceipted.push_back((number, now, agent.clone(), task.token()));
        self.set_offer(namespace, &agent, task.id, Offer::Sent(number));
        let grace = self.state.settings().cancel_grace;
        let assignment = super::Assignment { number, task: task.clone(), grace, revision: self.revision() };
        out.push(Output::Send { connection, message: ToSidecar::Assign(Box::new(assignment)) });
        if task.cancel.is_some() {
            // Offered again only to hear what has become of it.
            let message = ToSidecar::Stop { token: task.token(), reason: StopReason::Requested, grace };
            out.push(Output::Send { connection, message });
        }
    }

    pub(super) fn tell_welcome(&mut self, connection: Connection, welcome: Welcome, out: &mut Vec<Output>) {
        let revision = self.revision();
        let Some(session) = self.hosts.session_mut(connection) else { return };
        session.open = true;
        let attempts = session.hello.take().map(|hello| hello.attempts).unwrap_or_default();
        for (listed, verdict) in attempts.iter().zip(&welcome.verdicts) {
            // A finished attempt that is over: its result is refused before it is sent.
            if let Some(release) = verdict.over.filter(|_| listed.finished) {
                self.stats.results_refused += 1;
                out.push(Output::ResultRefused { token: listed.token, release: Some(release) });
            }
        }
        let welcome = Box::new(Welcome { revision, ..welcome });
        out.push(Output::Send { connection, message: ToSidecar::Welcome(welcome) });
        self.reconcile(connection, &attempts, None, out);
    }
}
