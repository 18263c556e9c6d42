//! The transport lab (`make net`): the real control plane and the real sidecar, with their real gRPC,
//! on a simulated network and virtual time, in one process. A seed draws the hosts, the work and the
//! faults; what was accepted must come to its one end after everything has healed.
//!
//! The logic is proven by the simulator (`tests/sim`), which is far faster; here it is the shells:
//! connections that die silently, keepalive, deadlines, bounded queues, streams that end and resume.
#![allow(missing_docs, reason = "tests")]

mod agent;
mod client;
mod fault;
mod hosts;
mod lab;
mod memory;
mod reasons;
#[path = "../sim/rng.rs"]
#[allow(dead_code, reason = "shared with the simulator, which uses more of it")]
mod rng;
mod seeds;
mod silence;
mod slow;
mod stage;
mod verdict;
mod wire;
mod world;
