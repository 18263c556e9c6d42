//! The sidecar over a real socket: its shell, against a scripted control plane and scripted runtimes.

mod control_plane;
mod sidecar;
mod upstream;
