//! What the leader knows without having stored it: contact, credit, receipts, progress.
//!
//! It is rebuilt from hellos after a takeover and is absent, not guessed, elsewhere.

use std::sync::Arc;

use crate::id::{AssignNumber, Attempt};
use crate::time::Time;

/// Whether an agent's host has been heard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Contact {
    /// Not since this leader took office.
    #[default]
    Unknown,
    /// Its beats are acknowledged.
    Connected,
    /// Silent or disconnected, within the grace.
    Suspect,
}

/// Soft knowledge of one agent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Soft {
    /// Whether its host has been heard.
    pub contact: Contact,
    /// Its process is up.
    pub ready: bool,
    /// Free slots its sidecar last told of.
    pub free: u32,
    /// When its host's last beat was acknowledged.
    pub heard: Option<Time>,
}

/// How far an assignment has come on its way to the sidecar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offer {
    /// Decided, not sent: the free slots told do not know of it.
    Decided,
    /// Sent under this number, which the credit has not reached.
    Sent(AssignNumber),
    /// The free slots told take it into account.
    Reflected,
}

/// What an attempt last said of itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Progress {
    /// Share done, 0 to 1.
    pub fraction: Option<f64>,
    /// Text for people.
    pub message: Arc<str>,
    /// When it was heard.
    pub time: Time,
}

/// An agent's slot with an attempt in it.
#[derive(Clone, Debug, PartialEq)]
pub struct Slot {
    /// The attempt.
    pub attempt: Attempt,
    /// How far it has come.
    pub offer: Offer,
    /// When the agent said it started.
    pub started: Option<Time>,
    /// What it last said.
    pub progress: Option<Progress>,
}

impl Slot {
    pub(crate) fn new(attempt: Attempt) -> Self {
        Self { attempt, offer: Offer::Decided, started: None, progress: None }
    }
}
