//! Reads the file by hand, so that every fault is found in one pass and named by its field.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use toml::{Table, Value};

use crate::runtime::argv::Template;

use super::value::{dns_label, duration, endpoint, limited, map, number, path, runtime, size, string, strings};
use super::{AgentConfig, Error, Fault, Flags, MAX_AGENTS, RestartPolicy, RuntimeKind, SidecarConfig, TlsFiles};

/// Reads the file named by the flags, if any, and merges flags, environment and defaults.
///
/// # Errors
/// The file cannot be read, is not TOML, or values are missing or wrong (all of them listed).
pub fn load(flags: &Flags) -> Result<SidecarConfig, Error> {
    let Some(path) = &flags.config else { return parse("", flags, |name| std::env::var(name).ok()) };
    let text = std::fs::read_to_string(path).map_err(|source| Error::Read { path: path.clone(), source })?;
    parse(&text, flags, |name| std::env::var(name).ok())
}

/// As [`load`], from text; `env` answers for `XDG_STATE_HOME`, `XDG_RUNTIME_DIR` and `HOME`.
///
/// # Errors
/// As [`load`].
pub fn parse(text: &str, flags: &Flags, env: impl Fn(&str) -> Option<String>) -> Result<SidecarConfig, Error> {
    let table = text.parse::<Table>().map_err(|error| Error::Syntax {
        path: flags.config.clone().unwrap_or_default(),
        message: error.to_string(),
    })?;
    let mut faults = Vec::new();
    let config = sidecar(table, flags, &env, &mut faults);
    if faults.is_empty() { Ok(config) } else { Err(Error::Faults(faults)) }
}

/// A table being read: what is taken is gone, what is left over is a fault.
struct Section<'a> {
    path: String,
    table: Table,
    faults: &'a mut Vec<Fault>,
}

impl Section<'_> {
    fn field(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    fn fault(&mut self, key: &str, problem: impl Into<String>) {
        let field = self.field(key);
        self.faults.push(Fault { field, problem: problem.into() });
    }

    fn take<T>(&mut self, key: &str, read: impl FnOnce(Value) -> Result<T, String>) -> Option<T> {
        let value = self.table.remove(key)?;
        read(value).map_err(|problem| self.fault(key, problem)).ok()
    }

    /// A value, checked, wherever it came from.
    fn checked<T>(&mut self, key: &str, value: T, check: impl FnOnce(&T) -> Result<(), String>) -> T {
        if let Err(problem) = check(&value) {
            self.fault(key, problem);
        }
        value
    }

    fn finish(mut self, known: &str) {
        for key in std::mem::take(&mut self.table).keys() {
            self.fault(key, format!("no such setting; there are {known}"));
        }
    }
}

fn sidecar(
    table: Table,
    flags: &Flags,
    env: &impl Fn(&str) -> Option<String>,
    faults: &mut Vec<Fault>,
) -> SidecarConfig {
    let mut top = Section { path: String::new(), table, faults };
    let agents = match top.table.remove("agents") {
        Some(Value::Array(list)) => list,
        None => Vec::new(),
        Some(_) => {
            top.fault("agents", "must be tables: [[agents]]");
            Vec::new()
        }
    };
    let setting = |top: &mut Section<'_>, key: &str, flag: &Option<String>, default: &str| {
        let from_file = top.take(key, string);
        flag.clone().or(from_file).unwrap_or_else(|| default.to_owned())
    };
    let id = setting(&mut top, "id", &flags.id, "");
    let id = top.checked("id", id, |v| match v.as_str() {
        "" => Err("is missing; give this sidecar an id, with --id or in the file".to_owned()),
        v => dns_label(v),
    });
    let namespace = setting(&mut top, "namespace", &flags.namespace, "default");
    let namespace = top.checked("namespace", namespace, |v| dns_label(v));
    let server = setting(&mut top, "server", &flags.server, "http://127.0.0.1:7070");
    let tls = tls(&mut top, flags);
    let server = top.checked("server", server, |v| endpoint(v, tls.is_some(), flags.insecure));
    let state_dir = flags.state_dir.clone().or(top.take("state_dir", path)).unwrap_or_else(|| {
        let home = || env("HOME").map(|home| Path::new(&home).join(".local/state"));
        let base = env("XDG_STATE_HOME").map(PathBuf::from).or_else(home).unwrap_or_else(std::env::temp_dir);
        base.join("hive/sidecar").join(&id)
    });
    let socket_dir = flags
        .socket_dir
        .clone()
        .or(top.take("socket_dir", path))
        .or_else(|| env("XDG_RUNTIME_DIR").map(|dir| Path::new(&dir).join("hive")))
        .unwrap_or_else(|| state_dir.join("sockets"));

    let listed = agents.len();
    if listed == 0 {
        top.fault("agents", "is empty; declare at least one [[agents]]");
    } else if listed > MAX_AGENTS {
        top.fault("agents", format!("has {listed} entries; at most {MAX_AGENTS}"));
    }
    let mut seen = BTreeSet::new();
    let mut hosted = Vec::new();
    for (index, value) in agents.into_iter().enumerate() {
        let path = format!("agents[{index}]");
        let Value::Table(table) = value else {
            top.fault(&path, "must be a table");
            continue;
        };
        let mut section = Section { path, table, faults: &mut *top.faults };
        let agent = agent(&mut section);
        if !agent.id.is_empty() && !seen.insert(agent.id.clone()) {
            section.fault("id", format!("{:?} is used twice", agent.id));
        }
        let socket = socket_dir.join(format!("{}.sock", agent.id));
        if agent.runtime == RuntimeKind::Process && socket.as_os_str().len() >= 108 {
            section.fault("id", format!("its socket path {} must be shorter than 108 bytes", socket.display()));
        }
        section.finish("id, runtime, capabilities, labels, pool, slots, argv, env, cwd, memory_limit, output_limit, result_content_type, start_timeout, restart");
        hosted.push(agent);
    }
    top.finish("id, namespace, server, tls, state_dir, socket_dir, agents");
    SidecarConfig {
        namespace,
        id,
        server,
        tls,
        state_dir,
        socket_dir,
        stop_on_stdin_eof: flags.stop_on_stdin_eof,
        agents: hosted,
    }
}

fn tls(top: &mut Section<'_>, flags: &Flags) -> Option<TlsFiles> {
    let table = top.take("tls", |v| match v {
        Value::Table(table) => Ok(table),
        _ => Err("must be a table: [tls]".to_owned()),
    });
    let mut s = Section { path: "tls".to_owned(), table: table.unwrap_or_default(), faults: &mut *top.faults };
    let mut file = |key: &str, flag: &Option<PathBuf>| {
        let from_file = s.take(key, path);
        flag.clone().or(from_file)
    };
    let (ca, cert, key) = (file("ca", &flags.ca), file("cert", &flags.cert), file("key", &flags.key));
    let pair = match (cert, key) {
        (Some(cert), Some(key)) => Some((cert, key)),
        (None, None) => None,
        (Some(_), None) => {
            s.fault("key", "is missing: tls.cert needs its private key");
            None
        }
        (None, Some(_)) => {
            s.fault("cert", "is missing: tls.key belongs to a certificate");
            None
        }
    };
    if ca.is_none() && pair.is_some() {
        s.fault("ca", "is missing: without the CA of the control plane's certificate nobody can be trusted");
    }
    s.finish("ca, cert, key");
    ca.map(|ca| TlsFiles { ca, pair })
}

fn agent(s: &mut Section<'_>) -> AgentConfig {
    let id = s.take("id", string).unwrap_or_default();
    let id = s.checked("id", id, |v| dns_label(v));
    if !s.table.contains_key("runtime") {
        s.fault("runtime", "is missing; one of \"process\", \"command\"");
    }
    let runtime = s.take("runtime", runtime).unwrap_or(RuntimeKind::Command);
    let mut agent = AgentConfig::new(&id, runtime, &[], &[]);
    agent.capabilities = s.take("capabilities", strings).unwrap_or_default();
    agent.capabilities = s.checked("capabilities", std::mem::take(&mut agent.capabilities), |list| {
        if list.is_empty() || list.len() > 32 {
            return Err(format!("must list 1 to 32 capabilities, not {}", list.len()));
        }
        list.iter().try_for_each(|c| limited(c, 1, 63))
    });
    agent.labels = s.take("labels", map).unwrap_or_default();
    agent.labels = s.checked("labels", std::mem::take(&mut agent.labels), |labels| {
        if labels.len() > 32 {
            return Err(format!("has {} entries; at most 32", labels.len()));
        }
        labels.iter().try_for_each(|(k, v)| limited(k, 1, 63).and_then(|()| limited(v, 0, 253)))
    });
    if let Some(pool) = s.take("pool", string) {
        agent.pool = s.checked("pool", pool, |v| dns_label(v));
    }
    if let Some(slots) = s.take("slots", |v| number(v, 1, 100)) {
        agent.slots = u32::try_from(slots).unwrap_or(1);
    }
    agent.argv = s.take("argv", strings).unwrap_or_default();
    if agent.argv.first().is_none_or(String::is_empty) {
        s.fault("argv", "must name a program, such as [\"sha256sum\", \"-\"]");
    } else if runtime == RuntimeKind::Command
        && let Err(error) = Template::parse(&agent.argv)
    {
        s.fault("argv", error.to_string());
    }
    agent.env = s.take("env", map).unwrap_or_default();
    agent.cwd = s.take("cwd", path);
    agent.memory_limit = s.take("memory_limit", size);
    agent.output_limit = s.take("output_limit", size).unwrap_or(agent.output_limit);
    agent.result_content_type = s.take("result_content_type", string);
    if agent.result_content_type.as_ref().is_some_and(|media| media.is_empty() || media.len() > 127) {
        s.fault("result_content_type", "must have 1 to 127 bytes, such as \"application/json\"");
    }
    agent.start_timeout = s.take("start_timeout", duration).unwrap_or(agent.start_timeout);
    if let Some(table) = s.take("restart", |v| match v {
        Value::Table(table) => Ok(table),
        _ => Err("must be a table".to_owned()),
    }) {
        let default = RestartPolicy::default();
        let mut r = Section { path: s.field("restart"), table, faults: &mut *s.faults };
        agent.restart = RestartPolicy {
            base: r.take("base", duration).unwrap_or(default.base),
            cap: r.take("cap", duration).unwrap_or(default.cap),
            max: r.take("max", |v| number(v, 0, 1_000)).map_or(default.max, |n| u32::try_from(n).unwrap_or(0)),
            window: r.take("window", duration).unwrap_or(default.window),
        };
        r.finish("base, cap, max, window");
    }
    agent
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn flags() -> Flags {
        Flags { id: Some("s1".into()), ..Flags::default() }
    }

    fn faults(text: &str, flags: &Flags) -> Vec<String> {
        match parse(text, flags, |_| None) {
            Err(Error::Faults(faults)) => faults.into_iter().map(|f| f.field).collect(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn flags_beat_the_file_and_defaults_fill_the_rest() {
        let text = r#"
            id = "from-file"
            namespace = "n"
            [[agents]]
            id = "a"
            runtime = "command"
            capabilities = ["sha256"]
            argv = ["sha256sum", "-"]
            memory_limit = "64MiB"
            restart = { base = "250ms" }
        "#;
        let config = parse(text, &flags(), |name| (name == "HOME").then(|| "/h".into())).expect("valid");
        assert_eq!((config.id.as_str(), config.namespace.as_str()), ("s1", "n"));
        assert_eq!(config.state_dir, Path::new("/h/.local/state/hive/sidecar/s1"));
        let agent = &config.agents[0];
        assert_eq!((agent.slots, agent.output_limit, agent.memory_limit), (1, 1 << 20, Some(64 << 20)));
        assert_eq!(agent.restart.base, Duration::from_millis(250));
        assert_eq!(agent.restart.max, 8);
    }

    #[test]
    fn all_faults_come_at_once_with_their_fields() {
        let text = r#"
            server = "http://10.0.0.1:7070"
            colour = "red"
            [[agents]]
            id = "-a"
            slots = 101
            capabilities = []
            [[agents]]
            id = "b"
            runtime = "magic"
            capabilities = ["x"]
            argv = ["true"]
            output_limit = "lots"
            restart = { often = true }
        "#;
        assert_eq!(
            faults(text, &flags()),
            [
                "server",
                "agents[0].id",
                "agents[0].runtime",
                "agents[0].capabilities",
                "agents[0].slots",
                "agents[0].argv",
                "agents[1].runtime",
                "agents[1].output_limit",
                "agents[1].restart.often",
                "colour",
            ]
        );
        assert_eq!(faults("", &Flags::default()), ["id", "agents"]);
    }

    #[test]
    fn certificates_go_with_https_and_are_given_whole() {
        let agent = "[[agents]]\nid = 'a'\nruntime = 'command'\ncapabilities = ['x']\nargv = ['true']\n";
        let with = |top: &str| format!("{top}\n{agent}");
        let https = "server = 'https://10.0.0.1:7070'\n";
        let config = parse(&with(&format!("{https}[tls]\nca = 'a'\ncert = 'c'\nkey = 'k'")), &flags(), |_| None);
        let pair = Some((PathBuf::from("c"), PathBuf::from("k")));
        assert_eq!(config.expect("valid").tls, Some(TlsFiles { ca: "a".into(), pair }));
        assert_eq!(faults(&with(https), &flags()), ["server"]);
        assert_eq!(faults(&with("[tls]\nca = 'a'"), &flags()), ["server"]);
        assert_eq!(faults(&with(&format!("{https}[tls]\nca = 'a'\ncert = 'c'")), &flags()), ["tls.key"]);
        assert_eq!(faults(&with(&format!("{https}[tls]\nca = 'a'\nkey = 'k'")), &flags()), ["tls.cert"]);
        assert_eq!(faults(&with("[tls]\ncert = 'c'\nkey = 'k'"), &flags()), ["tls.ca"]);
        let given = Flags { ca: Some("b".into()), server: Some("https://h:1".into()), ..flags() };
        let config = parse(&with("[tls]\nca = 'a'"), &given, |_| None).expect("valid");
        assert_eq!(config.tls, Some(TlsFiles { ca: "b".into(), pair: None }));
    }

    #[test]
    fn environment_values_of_an_agent_do_not_print() {
        let mut agent = AgentConfig::new("a", RuntimeKind::Process, &["x"], &["true"]);
        agent.env.insert("TOKEN".into(), "hunter2".into());
        let shown = format!("{agent:?}");
        assert!(shown.contains("TOKEN") && !shown.contains("hunter2"), "{shown}");
    }
}
