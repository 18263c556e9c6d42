//! The agent's side of `hive.agent.v1`, as a machine without clock, socket or task.
//!
//! Inputs go into [`Session::step`], which says what to do; what there is to send is pulled with
//! [`Session::next_message`] when the stream has room, so nothing queues: results and questions
//! are kept per attempt, heartbeats and progress collapse. Times are measured from any fixed start.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use hive_proto::agent_v1::{self as wire, session_request as up, session_response as down};

use super::outcome::{End, result};
use crate::Payload;

/// Hello must be answered within this.
const HELLO_LIMIT: Duration = Duration::from_secs(5);
/// Once told to stop and with nothing running, the last acknowledgements may take this long.
const ACK_LIMIT: Duration = Duration::from_secs(30);
/// After saying not ready, work may still be on its way for this long.
const LINGER: Duration = Duration::from_millis(100);
/// Two words of progress of one attempt are at least this far apart on the wire.
const PROGRESS_GAP: Duration = Duration::from_millis(100);
const BEAT_DEFAULT: Duration = Duration::from_secs(5);

/// What happened.
#[derive(Debug)]
pub(crate) enum Input {
    /// A stream is being opened; Hello is the next message.
    Opening,
    /// The stream is gone.
    Closed,
    /// The sidecar said something.
    Message(wire::SessionResponse),
    /// A handler said how far it is.
    Progress(wire::Progress),
    /// A handler asked something.
    Asked { token: String, number: u32, prompt: Payload },
    /// A handler ended by itself, or (without an end) because it was dropped.
    Ended { token: String, end: Option<End> },
    /// This process is to stop.
    Stop,
    /// Time passed.
    Tick,
}

/// What to do.
#[derive(Debug, PartialEq)]
pub(crate) enum Effect {
    /// The session stands.
    Welcomed { agent_id: String, slots: u32 },
    /// Run the handler.
    Start(wire::Assign),
    /// Tell the handler to end.
    Cancel(String),
    /// Drop the handler: its grace is over. It has ended when [`Input::Ended`] says so; one that
    /// blocks its thread has not, and the sidecar will end the process.
    Drop(String),
    /// Give the handler its answer.
    Answer { token: String, number: u32, input: Payload },
    /// Drop the stream and dial again.
    Redial(&'static str),
    /// Everything is done and told.
    Finish,
    /// So many results were not acknowledged in time; stop anyway.
    GiveUp { unacknowledged: usize },
}

#[derive(Debug, PartialEq)]
enum Link {
    Down,
    Greeting { until: Duration, said: bool },
    Up { next_beat: Duration },
}

#[derive(Debug)]
enum Attempt {
    Running(Running),
    Finished(wire::Result),
}

#[derive(Debug, Default)]
struct Running {
    cancelled: bool,
    /// When the handler is dropped, once a cancel came.
    drop_at: Option<Duration>,
    /// The sidecar no longer wants a result of it.
    unwanted: bool,
    /// The first is the one the sidecar knows of: it takes one at a time.
    open_questions: BTreeMap<u32, Payload>,
    progress: Option<wire::Progress>,
    progress_from: Duration,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Session {
    client: String,
    link: Link,
    beat: Duration,
    attempts: BTreeMap<String, Attempt>,
    ready_due: bool,
    beat_due: bool,
    results_due: BTreeSet<String>,
    questions_due: BTreeSet<(String, u32)>,
    stopping: bool,
    /// Told to stop by its own side: not done before this.
    linger_until: Option<Duration>,
    acks_until: Option<Duration>,
}

impl Session {
    pub(crate) fn new(client: impl Into<String>) -> Self {
        Self {
            client: client.into(),
            link: Link::Down,
            beat: BEAT_DEFAULT,
            attempts: BTreeMap::new(),
            ready_due: false,
            beat_due: false,
            results_due: BTreeSet::new(),
            questions_due: BTreeSet::new(),
            stopping: false,
            linger_until: None,
            acks_until: None,
        }
    }

    /// Attempts whose handler runs.
    pub(crate) fn running(&self) -> usize {
        self.attempts.values().filter(|a| matches!(a, Attempt::Running(_))).count()
    }

    fn finished(&self) -> usize {
        self.attempts.len() - self.running()
    }

    /// One step.
    pub(crate) fn step(&mut self, now: Duration, input: Input) -> Vec<Effect> {
        let mut effects = Vec::new();
        match input {
            Input::Opening => self.link = Link::Greeting { until: now + HELLO_LIMIT, said: false },
            Input::Closed => self.close(),
            Input::Message(message) => self.hear(now, message, &mut effects),
            Input::Progress(progress) => {
                if let Some(Attempt::Running(running)) = self.attempts.get_mut(&progress.token) {
                    running.progress = Some(progress);
                }
            }
            Input::Asked { token, number, prompt } => {
                if let Some(Attempt::Running(running)) = self.attempts.get_mut(&token) {
                    running.open_questions.insert(number, prompt);
                    if running.open_questions.len() == 1 {
                        self.questions_due.insert((token, number));
                    }
                }
            }
            Input::Ended { token, end } => self.end(&token, end),
            Input::Stop => {
                self.stopping = true;
                self.ready_due = true;
                self.linger_until = matches!(self.link, Link::Up { .. }).then_some(now + LINGER);
            }
            Input::Tick => {}
        }
        self.expire(now, &mut effects);
        self.settle(now, &mut effects);
        effects
    }

    fn close(&mut self) {
        self.link = Link::Down;
        self.beat_due = false;
        self.results_due.clear();
        self.questions_due.clear();
    }

    fn hear(&mut self, now: Duration, message: wire::SessionResponse, effects: &mut Vec<Effect>) {
        match message.kind {
            Some(down::Kind::Welcome(welcome)) => self.welcome(now, welcome, effects),
            Some(down::Kind::Assign(assign)) => match self.attempts.get(&assign.token) {
                // Offered again: it runs, or its result was not heard.
                Some(Attempt::Running(_)) => {}
                Some(Attempt::Finished(_)) => {
                    self.results_due.insert(assign.token);
                }
                // How many run at a time is the sidecar's to limit.
                None => {
                    self.attempts.insert(assign.token.clone(), Attempt::Running(Running::default()));
                    effects.push(Effect::Start(assign));
                }
            },
            Some(down::Kind::Cancel(cancel)) => {
                let grace = cancel.grace.and_then(|d| d.try_into().ok()).unwrap_or_default();
                self.cancel(now, &cancel.token, grace, false, effects);
            }
            Some(down::Kind::Input(answer)) => {
                let Some(Attempt::Running(running)) = self.attempts.get_mut(&answer.token) else { return };
                if running.open_questions.remove(&answer.number).is_some() {
                    let (token, number) = (answer.token, answer.number);
                    self.questions_due.remove(&(token.clone(), number));
                    self.questions_due.extend(running.open_questions.keys().next().map(|n| (token.clone(), *n)));
                    let input = answer.input.unwrap_or_default().into();
                    effects.push(Effect::Answer { token, number, input });
                }
            }
            Some(down::Kind::ResultAck(ack)) => {
                if let Some(Attempt::Finished(_)) = self.attempts.get(&ack.token) {
                    self.attempts.remove(&ack.token);
                    self.results_due.remove(&ack.token);
                }
            }
            Some(down::Kind::Drain(_)) => self.stopping = true,
            // Of a later version.
            None => {}
        }
    }

    fn welcome(&mut self, now: Duration, welcome: wire::Welcome, effects: &mut Vec<Effect>) {
        let beat = welcome.heartbeat_interval.and_then(|d| Duration::try_from(d).ok()).filter(|d| !d.is_zero());
        self.beat = beat.unwrap_or(BEAT_DEFAULT);
        self.link = Link::Up { next_beat: now + self.beat };
        for token in &welcome.stop {
            match self.attempts.get(token) {
                Some(Attempt::Finished(_)) => drop(self.attempts.remove(token)),
                Some(Attempt::Running(_)) => self.cancel(now, token, Duration::from_secs(10), true, effects),
                None => {}
            }
        }
        self.ready_due = true;
        for (token, attempt) in &self.attempts {
            match attempt {
                Attempt::Finished(_) => drop(self.results_due.insert(token.clone())),
                Attempt::Running(running) => {
                    self.questions_due.extend(running.open_questions.keys().next().map(|n| (token.clone(), *n)));
                }
            }
        }
        effects.push(Effect::Welcomed { agent_id: welcome.agent_id, slots: welcome.slots });
    }

    fn cancel(&mut self, now: Duration, token: &str, grace: Duration, unwanted: bool, effects: &mut Vec<Effect>) {
        let Some(Attempt::Running(running)) = self.attempts.get_mut(token) else { return };
        running.unwanted |= unwanted;
        // A little early, so that CANCELLED arrives before the sidecar takes it as ended.
        let drop_at = now + grace.saturating_sub((grace / 10).min(Duration::from_millis(500)));
        if !std::mem::replace(&mut running.cancelled, true) {
            running.drop_at = Some(drop_at);
            effects.push(Effect::Cancel(token.to_owned()));
        } else if let Some(earlier) = &mut running.drop_at {
            *earlier = drop_at.min(*earlier);
        }
    }

    fn end(&mut self, token: &str, end: Option<End>) {
        let Some(Attempt::Running(running)) = self.attempts.get(token) else { return };
        let (unwanted, cancelled) = (running.unwanted, running.cancelled);
        self.questions_due.retain(|(of, _)| of != token);
        if unwanted {
            self.attempts.remove(token);
            return;
        }
        let result = result(token.to_owned(), end, cancelled);
        self.attempts.insert(token.to_owned(), Attempt::Finished(result));
        if matches!(self.link, Link::Up { .. }) {
            self.results_due.insert(token.to_owned());
        }
    }

    fn expire(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        for (token, attempt) in &mut self.attempts {
            if let Attempt::Running(running) = attempt
                && running.drop_at.is_some_and(|at| at <= now)
            {
                running.drop_at = None;
                effects.push(Effect::Drop(token.clone()));
            }
        }
        match &mut self.link {
            Link::Greeting { until, .. } if *until <= now => {
                self.close();
                effects.push(Effect::Redial("the sidecar did not answer the hello in time"));
            }
            Link::Up { next_beat } if *next_beat <= now => {
                *next_beat = now + self.beat;
                self.beat_due = true;
            }
            _ => {}
        }
    }

    fn settle(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        self.linger_until = self.linger_until.filter(|until| *until > now);
        if !self.stopping || self.running() > 0 || self.linger_until.is_some() {
            self.acks_until = None;
        } else if self.attempts.is_empty() {
            effects.push(Effect::Finish);
        } else {
            let until = *self.acks_until.get_or_insert(now + ACK_LIMIT);
            if until <= now {
                effects.push(Effect::GiveUp { unacknowledged: self.finished() });
            }
        }
    }

    /// When to step with [`Input::Tick`] at the latest.
    pub(crate) fn deadline(&self) -> Option<Duration> {
        let link = match &self.link {
            Link::Down => None,
            Link::Greeting { until, .. } => Some(*until),
            Link::Up { next_beat } => Some(*next_beat),
        };
        let up = matches!(self.link, Link::Up { .. });
        let attempts = self.attempts.values().filter_map(|attempt| match attempt {
            Attempt::Running(running) => {
                let progress = running.progress.as_ref().filter(|_| up).map(|_| running.progress_from);
                running.drop_at.into_iter().chain(progress).min()
            }
            Attempt::Finished(_) => None,
        });
        link.into_iter().chain(self.acks_until).chain(self.linger_until).chain(attempts).min()
    }

    /// The most urgent message there is to send now, if any.
    pub(crate) fn next_message(&mut self, now: Duration) -> Option<wire::SessionRequest> {
        let kind = match &mut self.link {
            Link::Down | Link::Greeting { said: true, .. } => return None,
            Link::Greeting { said, .. } => {
                *said = true;
                up::Kind::Hello(self.hello())
            }
            Link::Up { .. } => self.next_kind(now)?,
        };
        Some(wire::SessionRequest { kind: Some(kind) })
    }

    fn hello(&self) -> wire::Hello {
        let (mut running, mut finished) = (Vec::new(), Vec::new());
        for (token, attempt) in &self.attempts {
            match attempt {
                Attempt::Running(_) => running.push(token.clone()),
                Attempt::Finished(_) => finished.push(token.clone()),
            }
        }
        wire::Hello { client: self.client.clone(), running, finished }
    }

    fn next_kind(&mut self, now: Duration) -> Option<up::Kind> {
        if std::mem::take(&mut self.beat_due) {
            return Some(up::Kind::Heartbeat(wire::Heartbeat {}));
        }
        while let Some(token) = self.results_due.pop_first() {
            if let Some(Attempt::Finished(result)) = self.attempts.get(&token) {
                return Some(up::Kind::Result(result.clone()));
            }
        }
        if std::mem::take(&mut self.ready_due) {
            let message = if self.stopping { "stopping" } else { "" }.to_owned();
            return Some(up::Kind::Ready(wire::Ready { ready: !self.stopping, message }));
        }
        while let Some((token, number)) = self.questions_due.pop_first() {
            let Some(Attempt::Running(running)) = self.attempts.get(&token) else { continue };
            if let Some(prompt) = running.open_questions.get(&number) {
                let prompt = Some(prompt.clone().into());
                return Some(up::Kind::InputRequired(wire::InputRequired { token, number, prompt }));
            }
        }
        self.attempts.values_mut().find_map(|attempt| match attempt {
            Attempt::Running(running) if running.progress_from <= now => {
                let progress = running.progress.take()?;
                running.progress_from = now + PROGRESS_GAP;
                Some(up::Kind::Progress(progress))
            }
            _ => None,
        })
    }

    /// [`Session::next_message`] has something.
    pub(crate) fn has_message(&self, now: Duration) -> bool {
        match &self.link {
            Link::Down => false,
            Link::Greeting { said, .. } => !said,
            Link::Up { .. } => {
                let progress = |attempt: &Attempt| matches!(attempt, Attempt::Running(r) if r.progress.is_some() && r.progress_from <= now);
                self.beat_due
                    || self.ready_due
                    || !self.results_due.is_empty()
                    || !self.questions_due.is_empty()
                    || self.attempts.values().any(progress)
            }
        }
    }
}

#[cfg(test)]
mod tests;
