//! End-to-end tests over the real binaries: one module per promise.

mod harness;

mod contact;
mod crash;
mod programs;
mod sidecar;
mod smoke;
