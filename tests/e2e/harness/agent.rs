//! Agents for a rig's sidecars: shell programs run per task, `hive demo-agent`, and an agent that
//! links the SDK and keeps a list of what it ran.

use std::fmt::Write as _;
use std::path::Path;

use super::HIVE;

/// The declaration of one agent in `sidecar.toml`.
#[derive(Debug, Clone)]
pub(crate) struct AgentDef {
    id: String,
    runtime: &'static str,
    capabilities: Vec<String>,
    slots: u32,
    argv: Vec<String>,
    env: Vec<(String, String)>,
    labels: Vec<(String, String)>,
    extra: String,
}

impl AgentDef {
    fn new(id: &str, runtime: &'static str, capabilities: &[&str], argv: &[&str]) -> Self {
        let texts = |list: &[&str]| list.iter().map(|&text| text.to_owned()).collect();
        Self {
            id: id.to_owned(),
            runtime,
            capabilities: texts(capabilities),
            slots: 4,
            argv: texts(argv),
            env: Vec::new(),
            labels: Vec::new(),
            extra: String::new(),
        }
    }

    /// A program run once per task.
    pub(crate) fn command(id: &str, capabilities: &[&str], argv: &[&str]) -> Self {
        Self::new(id, "command", capabilities, argv)
    }

    /// A shell script run once per task.
    pub(crate) fn script(id: &str, capabilities: &[&str], script: &str) -> Self {
        Self::command(id, capabilities, &["sh", "-c", script])
    }

    /// A process that lives for many tasks.
    pub(crate) fn process(id: &str, capabilities: &[&str], argv: &[&str]) -> Self {
        Self::new(id, "process", capabilities, argv).restart("100ms")
    }

    /// `hive demo-agent`: capabilities `wc` and `echo`; echo understands sleep_ms, ask, fail and retryable.
    pub(crate) fn demo(id: &str) -> Self {
        Self::process(id, &["wc", "echo"], &[HIVE, "demo-agent"])
    }

    /// This test binary as an agent: adds a line "task attempt" to `log` for each attempt it is
    /// given, then does what echo does.
    pub(crate) fn logging(id: &str, capabilities: &[&str], log: &Path) -> Self {
        let own = std::env::current_exe().expect("this binary");
        let own = own.to_str().expect("a path that is UTF-8");
        let argv = [own, "--exact", super::ledger::ENTRY, "--nocapture", "--test-threads=1"];
        Self::process(id, capabilities, &argv).env(super::ledger::LOG, log.to_str().expect("a path that is UTF-8"))
    }

    pub(crate) fn slots(mut self, slots: u32) -> Self {
        self.slots = slots;
        self
    }

    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(crate) fn label(mut self, name: &str, value: &str) -> Self {
        self.labels.push((name.to_owned(), value.to_owned()));
        self
    }

    /// How soon its process is started again.
    pub(crate) fn restart(mut self, base: &str) -> Self {
        let _ = writeln!(self.extra, "restart = {{ base = \"{base}\", cap = \"2s\", max = 1000 }}");
        self
    }

    /// Any other line of its table.
    pub(crate) fn line(mut self, line: &str) -> Self {
        let _ = writeln!(self.extra, "{line}");
        self
    }

    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    pub(crate) fn toml(&self) -> String {
        let list = |items: &[String]| items.iter().map(|item| quoted(item)).collect::<Vec<_>>().join(", ");
        let table = |pairs: &[(String, String)]| {
            pairs.iter().map(|(k, v)| format!("{} = {}", quoted(k), quoted(v))).collect::<Vec<_>>().join(", ")
        };
        format!(
            "\n[[agents]]\nid = {}\nruntime = {}\ncapabilities = [{}]\nslots = {}\nargv = [{}]\nenv = {{ {} }}\nlabels = {{ {} }}\n{}",
            quoted(&self.id),
            quoted(self.runtime),
            list(&self.capabilities),
            self.slots,
            list(&self.argv),
            table(&self.env),
            table(&self.labels),
            self.extra,
        )
    }
}

/// A JSON string is a TOML basic string, for what tests need.
fn quoted(text: &str) -> String {
    serde_json::to_string(text).expect("a string")
}
