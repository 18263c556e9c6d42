//! End-to-end tests over the real binaries: one module per promise.

mod harness;

mod crash;
mod smoke;
