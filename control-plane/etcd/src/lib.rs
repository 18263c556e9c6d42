//! Messages and clients of etcd's v3 API, generated. What is asked, of whom and for how long is for
//! the store.

/// Keys and values.
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::allow_attributes_without_reason, reason = "generated")]
pub mod mvccpb {
    tonic::include_proto!("mvccpb");
}

/// Calls.
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::allow_attributes_without_reason, reason = "generated")]
pub mod etcdserverpb {
    tonic::include_proto!("etcdserverpb");
}
