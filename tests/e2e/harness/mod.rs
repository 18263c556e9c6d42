//! Hive as a person runs it, for tests: real processes in a folder of their own, stopped, cut off
//! and killed at will. What ought to hold is left to the tests.
//!
//! A test makes a [`Rig`] (one control plane, any number of sidecars), talks to it by
//! [`Rig::client`] or [`Rig::hive`], and waits with [`eventually`]. Whatever a rig started, and
//! whatever that started, is killed when the rig goes; logs are printed if the test failed.
#![allow(dead_code, unused_imports, reason = "a kit: not every piece is in use at all times")]

mod agent;
mod cli;
mod clock;
mod disk;
mod ledger;
mod port;
mod process;
mod procfs;
mod proxy;
mod rig;
mod wait;

pub(crate) use agent::AgentDef;
pub(crate) use cli::{Ended, hive};
pub(crate) use clock::{Rng, nap, now, seed, spawn, unix_seconds, uptime_us};
pub(crate) use disk::{MIB, Small};
pub(crate) use ledger::{executions, serve, work};
pub(crate) use port::Port;
pub(crate) use process::Proc;
pub(crate) use procfs::{alive, processes_with, signal};
pub(crate) use proxy::Proxy;
pub(crate) use rig::{LOSES, Rig};
pub(crate) use wait::{LONG, eventually, soon};

/// The binaries under test.
pub(crate) const HIVE: &str = env!("CARGO_BIN_EXE_hive");
pub(crate) const CONTROL_PLANE: &str = env!("CARGO_BIN_EXE_hive-control-plane");
pub(crate) const SIDECAR: &str = env!("CARGO_BIN_EXE_hive-sidecar");
