//! The agents of the lab and what they write down, apart from Hive: one line per attempt begun and
//! per attempt finished, in a file of each sidecar's own.

use std::io::Write as _;
use std::path::Path;

use hive_sdk::agent::Task;

use crate::harness::{AgentDef, serve, uptime_us, work};
use crate::history::Run;

/// Path of the list.
const LOG: &str = "FAULTS_AGENT_LOG";

/// Begun and ended, with the time since boot; gives its payload back.
const SCRIPT: &str = r#"
read -r up _ < /proc/uptime
echo "begun $HIVE_TASK_ID $HIVE_ATTEMPT $HIVE_AGENT_ID $up" >> "$FAULTS_AGENT_LOG"
sleep 0.05
cat
echo "ended $HIVE_TASK_ID $HIVE_ATTEMPT $HIVE_AGENT_ID 0" >> "$FAULTS_AGENT_LOG"
"#;

/// An agent that links the SDK; it is the only one with the capability `on-ID`.
pub(crate) fn sdk(id: &str, list: &Path) -> AgentDef {
    let own = std::env::current_exe().expect("this binary");
    let argv = [own.to_str().expect("a path that is UTF-8")];
    AgentDef::process(id, &["sdk", &only(id)], &argv).slots(16).env(LOG, list.to_str().expect("UTF-8"))
}

/// A program run once per task.
pub(crate) fn command(id: &str, list: &Path) -> AgentDef {
    let list = list.to_str().expect("UTF-8");
    AgentDef::script(id, &["cmd", &only(id)], SCRIPT).slots(2).env(LOG, list)
}

/// The capability only this agent has.
pub(crate) fn only(agent: &str) -> String {
    format!("on-{agent}")
}

/// Is an agent, if this process was started as one.
pub(crate) fn run() -> bool {
    let Ok(log) = std::env::var(LOG) else { return false };
    let id = std::env::var("HIVE_AGENT_ID").unwrap_or_default();
    serve(move |task: Task| {
        let (log, id) = (log.clone(), id.clone());
        async move {
            write(&log, "begun", &task, &id);
            let output = work(&task).await;
            write(&log, "ended", &task, &id);
            output
        }
    });
    true
}

/// One write to a file opened for appending is not torn by others.
fn write(log: &str, what: &str, task: &Task, agent: &str) {
    let mut file = std::fs::File::options().create(true).append(true).open(log).expect("open the list");
    let line = format!("{what} {} {} {agent} {}\n", task.id(), task.attempt(), uptime_us());
    file.write_all(line.as_bytes()).expect("write the list");
}

/// What agents began, by their list.
pub(crate) fn runs(list: &Path) -> Vec<Run> {
    let text = std::fs::read_to_string(list).unwrap_or_default();
    let parse = |line: &str| {
        let mut words = line.strip_prefix("begun ")?.split(' ');
        let (task, attempt) = (words.next()?.to_owned(), words.next()?.parse().ok()?);
        let agent = words.next()?.to_owned();
        // Programs know it in seconds.
        let time = words.next()?;
        let seconds = || time.parse::<f64>().ok().map(|seconds| (seconds * 1e6) as u64);
        Some(Run { task, attempt, agent, begun: time.parse().ok().or_else(seconds)? })
    };
    text.lines().filter_map(parse).collect()
}
