//! Events on their way to the session, so that a runtime never waits on them while commands wait.
//!
//! Bounded by what runs: each attempt has at most a start, an open question and an end in it, and a
//! slot is given again only after its end was taken. Progress does not wait here: it is dropped.

use std::collections::VecDeque;

use tokio::sync::mpsc;

use super::RuntimeEvent;

pub(super) struct Outbox {
    sender: mpsc::Sender<RuntimeEvent>,
    waiting: VecDeque<RuntimeEvent>,
}

impl Outbox {
    pub(super) fn new(sender: mpsc::Sender<RuntimeEvent>) -> Self {
        Self { sender, waiting: VecDeque::new() }
    }

    pub(super) fn push(&mut self, event: RuntimeEvent) {
        if self.waiting.is_empty()
            && let Ok(room) = self.sender.try_reserve()
        {
            room.send(event);
        } else {
            // Order is kept: nothing overtakes what waits.
            self.waiting.push_back(event);
        }
    }

    /// For events that may be lost.
    pub(super) fn push_soft(&mut self, event: RuntimeEvent) {
        if self.waiting.is_empty() {
            let _ = self.sender.try_send(event);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Hands over one event; waits for room. `false`: nobody listens any more. Cancel-safe.
    pub(super) async fn hand_over(&mut self) -> bool {
        let Ok(room) = self.sender.reserve().await else {
            self.waiting.clear();
            return false;
        };
        if let Some(event) = self.waiting.pop_front() {
            room.send(event);
        }
        true
    }

    /// Hands over the rest.
    pub(super) async fn finish(mut self) {
        while !self.is_empty() && self.hand_over().await {}
    }
}
