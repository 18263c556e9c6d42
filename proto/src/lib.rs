//! Generated messages and services of every Hive protocol, and their descriptors.
//!
//! Nothing is written by hand here but this list, [`codec`] and `tls`: the `.proto` files beside it are the source, and
//! their comments are the documentation. `README.md` says how they may evolve.
#![allow(missing_docs, reason = "generated; buf lint checks that every element is commented")]
#![allow(clippy::all, clippy::allow_attributes_without_reason, reason = "generated")]

pub mod codec;
#[cfg(feature = "tls")]
pub mod tls;

/// Laid out as the packages are, because generated code refers to its neighbours by path.
#[allow(unreachable_pub, reason = "re-exported below under shorter names")]
mod packages {
    pub mod google {
        pub mod rpc {
            tonic::include_proto!("google.rpc");
        }
    }
    pub mod hive {
        pub mod v1 {
            tonic::include_proto!("hive.v1");
        }
        pub mod sidecar {
            pub mod v1 {
                tonic::include_proto!("hive.sidecar.v1");
            }
        }
        pub mod agent {
            pub mod v1 {
                tonic::include_proto!("hive.agent.v1");
            }
        }
        pub mod store {
            pub mod v1 {
                tonic::include_proto!("hive.store.v1");
            }
        }
    }
}

pub use packages::google::rpc as google_rpc;
pub use packages::hive::agent::v1 as agent_v1;
pub use packages::hive::sidecar::v1 as sidecar_v1;
pub use packages::hive::store::v1 as store_v1;
pub use packages::hive::v1;

/// Descriptors of what the client and sidecar port serves: `hive.v1` and `hive.sidecar.v1`.
pub const SERVER_DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/server.bin"));

/// Descriptors of what an agent's local socket serves: `hive.agent.v1`.
pub const AGENT_DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/agent.bin"));
