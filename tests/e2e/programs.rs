//! Shell programs that tests control by files in a folder: `begun-A` appears when attempt A begins,
//! it goes on once `go` is there, and `pid-A` holds its process id.

use std::path::{Path, PathBuf};

use crate::harness::{AgentDef, soon};

/// Waits for `go`, then gives back "agent attempt".
const GATED: &str = r#"
echo $$ > "$GATE/pid-$HIVE_ATTEMPT"
echo "$HIVE_TASK_ID $HIVE_ATTEMPT" >> "$GATE/ran"
echo "begun $HIVE_ATTEMPT" >&2
: > "$GATE/begun-$HIVE_ATTEMPT"
while [ ! -e "$GATE/go" ]; do sleep 0.05; done
echo "done $HIVE_ATTEMPT" >&2
echo "$HIVE_AGENT_ID $HIVE_ATTEMPT"
"#;

/// The folder of a gate.
#[derive(Debug)]
pub(crate) struct Gate(PathBuf);

impl Gate {
    pub(crate) fn new(folder: &Path) -> Self {
        let path = folder.join("gate");
        std::fs::create_dir_all(&path).expect("a folder for the gate");
        Self(path)
    }

    /// An agent for the capability `gated`.
    pub(crate) fn agent(&self, id: &str) -> AgentDef {
        self.script(id, GATED)
    }

    /// The same with another script.
    pub(crate) fn script(&self, id: &str, script: &str) -> AgentDef {
        AgentDef::script(id, &["gated"], script).env("GATE", self.0.to_str().expect("UTF-8"))
    }

    pub(crate) fn open(&self) {
        std::fs::write(self.0.join("go"), "").expect("open the gate");
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.0.join(name).exists()
    }

    pub(crate) fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.0.join(name)).unwrap_or_default()
    }

    /// Waits until this attempt has begun; its process id.
    pub(crate) async fn begun(&self, attempt: u32) -> u32 {
        soon(&format!("attempt {attempt} begins"), || self.has(&format!("begun-{attempt}"))).await;
        self.read(&format!("pid-{attempt}")).trim().parse().expect("a process id")
    }

    /// Attempts begun, over all.
    pub(crate) fn runs(&self) -> usize {
        self.read("ran").lines().count()
    }
}
