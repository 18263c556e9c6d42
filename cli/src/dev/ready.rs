//! What is told of a fleet that stands: by the control plane to us, and by us to whoever asked for
//! a ready file.

use serde::{Deserialize, Serialize};

/// What the control plane writes once it serves.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Addresses {
    pub(super) listen: String,
    #[serde(alias = "ops_listen")]
    pub(super) ops: String,
}

/// What the ready file holds.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Ready {
    /// For clients and sidecars.
    pub(crate) endpoint: String,
    /// Health and metrics.
    pub(crate) ops: String,
    pub(crate) data: String,
    /// Of `hive` itself.
    pub(crate) pid: u32,
    pub(crate) control_plane: Process,
    pub(crate) sidecars: Vec<Process>,
}

/// One child.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Process {
    pub(crate) id: String,
    pub(crate) pid: u32,
    /// Agents it hosts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) agents: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ready_file_has_a_fixed_form() {
        let ready = Ready {
            endpoint: "http://127.0.0.1:1".into(),
            ops: "http://127.0.0.1:2".into(),
            data: "/d".into(),
            pid: 1,
            control_plane: Process { id: "control-plane".into(), pid: 2, agents: vec![] },
            sidecars: vec![Process { id: "sidecar-1".into(), pid: 3, agents: vec!["sdk-1".into()] }],
        };
        assert_eq!(
            serde_json::to_value(&ready).unwrap(),
            serde_json::json!({
                "endpoint": "http://127.0.0.1:1", "ops": "http://127.0.0.1:2", "data": "/d", "pid": 1,
                "control_plane": {"id": "control-plane", "pid": 2},
                "sidecars": [{"id": "sidecar-1", "pid": 3, "agents": ["sdk-1"]}],
            })
        );
    }
}
