//! What an error of etcd says of a request: whether it can have had an effect, and what helps.

use std::error::Error as _;

use tonic::{Code, ConnectError, Status};

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It never reached the store: another member, or the same later.
    NotSent,
    /// The token is too old or missing; nothing was done. A new one, then again.
    Token,
    /// The quota is used up. Beware: a write that crosses the quota is applied, and then answered so.
    NoSpace,
    /// Larger than etcd takes; nothing was done.
    TooLarge,
    /// The revision to read at is no longer there.
    Compacted,
    /// Refused to this user; nothing was done.
    Denied,
    /// It may have had its effect, or have it later.
    Unsure,
}

/// By etcd's texts: they have been the same since 3.1, while its codes are shared by many causes.
const TEXTS: &[(&str, Verdict)] = &[
    ("database space exceeded", Verdict::NoSpace),
    ("request is too large", Verdict::TooLarge),
    ("too many operations in txn request", Verdict::TooLarge),
    ("received message larger than max", Verdict::TooLarge),
    ("required revision has been compacted", Verdict::Compacted),
    ("etcdserver: no leader", Verdict::NotSent),
    ("too many requests", Verdict::NotSent),
    ("invalid auth token", Verdict::Token),
    ("user name is empty", Verdict::Token),
    ("revision of auth store is old", Verdict::Token),
    ("permission denied", Verdict::Denied),
    ("authentication failed", Verdict::Denied),
];

pub(super) fn verdict(status: &Status) -> Verdict {
    if never_connected(status) {
        return Verdict::NotSent;
    }
    // etcd's own errors never come with the code that a broken connection gets.
    if status.code() == Code::Unknown && status.source().is_some() {
        return Verdict::Unsure;
    }
    TEXTS.iter().find(|(text, _)| status.message().contains(text)).map_or(Verdict::Unsure, |(_, verdict)| *verdict)
}

fn never_connected(status: &Status) -> bool {
    let mut cause = status.source();
    while let Some(error) = cause {
        if error.is::<ConnectError>() {
            return true;
        }
        cause = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_etcd_says_is_understood() {
        for (code, text, expected) in [
            (Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded", Verdict::NoSpace),
            (Code::InvalidArgument, "etcdserver: request is too large", Verdict::TooLarge),
            (Code::OutOfRange, "etcdserver: mvcc: required revision has been compacted", Verdict::Compacted),
            (Code::Unavailable, "etcdserver: no leader", Verdict::NotSent),
            (Code::Unauthenticated, "etcdserver: invalid auth token", Verdict::Token),
            (Code::InvalidArgument, "etcdserver: user name is empty", Verdict::Token),
            (Code::PermissionDenied, "etcdserver: permission denied", Verdict::Denied),
        ] {
            assert_eq!(verdict(&Status::new(code, text)), expected, "{text}");
        }
    }

    #[test]
    fn whatever_may_have_had_its_effect_is_unsure() {
        for (code, text) in [
            (Code::Unavailable, "etcdserver: request timed out"),
            (Code::Unavailable, "etcdserver: request timed out, possibly due to previous leader failure"),
            (Code::Unavailable, "etcdserver: leader changed"),
            (Code::Unavailable, "transport is closing"),
            (Code::Cancelled, "context canceled"),
            (Code::DeadlineExceeded, "context deadline exceeded"),
            (Code::Unknown, "h2 protocol error"),
            (Code::Internal, "something new"),
        ] {
            assert_eq!(verdict(&Status::new(code, text)), Verdict::Unsure, "{text}");
        }
    }
}
