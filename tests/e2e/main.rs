//! End-to-end tests over the real binaries: one module per promise.
#![allow(clippy::unwrap_used, reason = "a test may, and so may what only tests use")]

mod harness;

mod agents;
mod cli;
mod clients;
mod contact;
mod control_plane;
mod crash;
mod demo;
mod dev;
mod garbage;
mod programs;
mod sidecar;
mod smoke;
mod task;
mod tls;
