//! The effective configuration as TOML, secrets masked.

use toml::{Table, Value};

use super::{AgentConfig, RuntimeKind, SidecarConfig};

impl SidecarConfig {
    /// As a file would say it; values of agents' environments are masked.
    #[must_use]
    pub fn print(&self) -> String {
        let mut top = Table::new();
        top.insert("id".into(), self.id.clone().into());
        top.insert("namespace".into(), self.namespace.clone().into());
        top.insert("server".into(), self.server.clone().into());
        if let Some(tls) = &self.tls {
            let mut t = Table::new();
            let mut file = |key: &str, path: &std::path::Path| t.insert(key.into(), path.display().to_string().into());
            file("ca", &tls.ca);
            if let Some((cert, key)) = &tls.pair {
                file("cert", cert);
                file("key", key);
            }
            top.insert("tls".into(), Value::Table(t));
        }
        top.insert("state_dir".into(), self.state_dir.display().to_string().into());
        top.insert("socket_dir".into(), self.socket_dir.display().to_string().into());
        top.insert("agents".into(), Value::Array(self.agents.iter().map(agent).collect()));
        toml::to_string(&top).unwrap_or_default()
    }
}

fn agent(agent: &AgentConfig) -> Value {
    let mut t = Table::new();
    let runtime = match agent.runtime {
        RuntimeKind::Process => "process",
        RuntimeKind::Command => "command",
    };
    let millis = |d: std::time::Duration| Value::from(format!("{}ms", d.as_millis()));
    let bytes = |n: u64| Value::from(i64::try_from(n).unwrap_or(i64::MAX));
    t.insert("id".into(), agent.id.clone().into());
    t.insert("runtime".into(), runtime.into());
    t.insert("capabilities".into(), agent.capabilities.clone().into());
    t.insert("labels".into(), Value::Table(agent.labels.iter().map(|(k, v)| (k.clone(), v.clone().into())).collect()));
    t.insert("pool".into(), agent.pool.clone().into());
    t.insert("slots".into(), i64::from(agent.slots).into());
    t.insert("argv".into(), agent.argv.clone().into());
    t.insert("env".into(), Value::Table(agent.env.keys().map(|k| (k.clone(), "***".into())).collect()));
    if let Some(cwd) = &agent.cwd {
        t.insert("cwd".into(), cwd.display().to_string().into());
    }
    if let Some(limit) = agent.memory_limit {
        t.insert("memory_limit".into(), bytes(limit));
    }
    t.insert("output_limit".into(), bytes(agent.output_limit));
    if let Some(media) = &agent.result_content_type {
        t.insert("result_content_type".into(), media.clone().into());
    }
    t.insert("start_timeout".into(), millis(agent.start_timeout));
    let mut restart = Table::new();
    restart.insert("base".into(), millis(agent.restart.base));
    restart.insert("cap".into(), millis(agent.restart.cap));
    restart.insert("max".into(), i64::from(agent.restart.max).into());
    restart.insert("window".into(), millis(agent.restart.window));
    t.insert("restart".into(), Value::Table(restart));
    Value::Table(t)
}
