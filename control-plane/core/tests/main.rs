//! The core, proved: golden scripts for every rule, and random histories for what must hold in all.

mod history;
mod rollback;
mod script;
mod sidecar;
mod world;
