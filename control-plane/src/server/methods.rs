//! The methods of a port, from its descriptors: a closed set for labels, and which of them stream.

use std::collections::BTreeMap;

use prost_types::FileDescriptorSet;

/// What is known of a method before it is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Method {
    pub(super) service: &'static str,
    pub(super) name: &'static str,
    /// Answers with one message.
    pub(super) unary: bool,
    /// Its stream knows how to end itself when the server stops.
    pub(super) ours: bool,
}

/// Every path that is not served counts as this one.
const OTHER: Method = Method { service: "other", name: "other", unary: true, ours: false };

#[derive(Default)]
pub(super) struct Methods(BTreeMap<String, Method>);

impl Methods {
    /// The methods of `served` that the descriptors describe.
    pub(super) fn new(served: &[&'static str], described: &[FileDescriptorSet]) -> Self {
        let mut methods = BTreeMap::new();
        for file in described.iter().flat_map(|set| &set.file) {
            for service in &file.service {
                let full = format!("{}.{}", file.package(), service.name());
                let Some(served) = served.iter().find(|name| **name == full) else { continue };
                for method in &service.method {
                    let path = format!("/{full}/{}", method.name());
                    methods.entry(path).or_insert_with(|| Method {
                        service: served,
                        // Labels live as long as the process; a port is built once.
                        name: Box::leak(method.name().to_owned().into_boxed_str()),
                        unary: !method.server_streaming(),
                        ours: full.starts_with("hive."),
                    });
                }
            }
        }
        Self(methods)
    }

    pub(super) fn get(&self, path: &str) -> Method {
        self.0.get(path).copied().unwrap_or(OTHER)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message as _;

    #[test]
    fn methods_come_from_descriptors_of_what_is_served() {
        let sets = [FileDescriptorSet::decode(tonic_health::pb::FILE_DESCRIPTOR_SET).expect("descriptors")];
        let methods = Methods::new(&["grpc.health.v1.Health"], &sets);
        let check = methods.get("/grpc.health.v1.Health/Check");
        assert_eq!((check.name, check.unary, check.ours), ("Check", true, false));
        assert!(!methods.get("/grpc.health.v1.Health/Watch").unary);
        assert_eq!(methods.get("/grpc.health.v1.Health/Nothing"), OTHER);
        assert_eq!(Methods::new(&[], &sets).get("/grpc.health.v1.Health/Check"), OTHER);
    }
}
