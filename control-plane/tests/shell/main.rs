//! The outer shell against real sockets and real processes: connections, gRPC around the calls,
//! the ops port, stopping, and the program with its flags.
#![allow(missing_docs, reason = "tests")]

mod certs;
mod child;
mod connections;
mod descriptors;
mod grpc;
mod ops;
mod program;
mod shutdown;
mod support;
mod tls;
