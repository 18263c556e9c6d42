//! The core, proved: golden scripts for every rule, and random histories for what must hold in all.

#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]

mod args;
mod bounds;
mod describe;
mod fairness;
mod history;
mod rollback;
mod script;
mod sidecar;
mod world;
