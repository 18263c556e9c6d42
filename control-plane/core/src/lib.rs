//! The rules of Hive, and nothing else.
//!
//! Every function here is synchronous and deterministic: time, ids and randomness are arguments.
//! A leader turns commands into changes with [`rules::decide`] and every replica turns changes into
//! state with [`state::State::apply`]. [`leader::Leader`] puts the two, the sessions and the undecided
//! batches together as one step machine, [`driver::Machine`] is the loop around it. Sockets, disks, clocks and encodings belong to the crates
//! around this one.

pub mod command;
pub mod driver;
pub mod id;
pub mod invariant;
pub mod leader;
pub mod mutant;
pub mod record;
pub mod rejection;
pub mod rules;
pub mod settings;
pub mod state;
pub mod time;
