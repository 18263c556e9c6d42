//! The agents of a fleet and the `sidecar.toml` that declares them.

use std::fmt::Write as _;

/// Ids of the two agents that the sidecar with this number hosts.
pub(crate) fn agents_of(number: u16) -> [String; 2] {
    [format!("sdk-{number}"), format!("cmd-{number}")]
}

/// The id of the sidecar with this number.
pub(crate) fn sidecar_id(number: u16) -> String {
    format!("sidecar-{number}")
}

/// The text of `sidecar.toml`: one agent that links the SDK and one that runs a program per task,
/// both working in the folder `cwd`.
pub(crate) fn sidecar_toml(number: u16, slots: u16, hive: &str, cwd: Option<&str>) -> String {
    let [sdk, cmd] = agents_of(number);
    let mut text = String::from("# Written by `hive dev` at every start; changes are lost.\n");
    let mut agent = |id: &str, runtime: &str, capabilities: &[&str], argv: &[&str], kind: &str| {
        // Writing to a String can't fail.
        let _ = write!(
            text,
            "\n[[agents]]\nid = {}\nruntime = {}\ncapabilities = {}\nlabels = {{ kind = {} }}\nslots = {slots}\nargv = {}\n",
            quoted(id),
            quoted(runtime),
            array(capabilities),
            quoted(kind),
            array(argv),
        );
        if let Some(cwd) = cwd.filter(|cwd| !cwd.is_empty()) {
            let _ = writeln!(text, "cwd = {}", quoted(cwd));
        }
    };
    agent(&sdk, "process", &["wc", "echo"], &[hive, "demo-agent"], "sdk");
    agent(&cmd, "command", &["sha256", "todo", "syntax"], &[hive, "demo-tool", "{capability}"], "command");
    text
}

fn array(items: &[&str]) -> String {
    format!("[{}]", items.iter().map(|item| quoted(item)).collect::<Vec<_>>().join(", "))
}

/// A TOML basic string.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c.is_control() => {
                let _ = write!(out, "\\U{:08X}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn declares_two_agents() {
        let text = sidecar_toml(3, 4, "/opt/hive \"x\"\\bin", Some("/here"));
        assert_eq!(
            text,
            r#"# Written by `hive dev` at every start; changes are lost.

[[agents]]
id = "sdk-3"
runtime = "process"
capabilities = ["wc", "echo"]
labels = { kind = "sdk" }
slots = 4
argv = ["/opt/hive \"x\"\\bin", "demo-agent"]
cwd = "/here"

[[agents]]
id = "cmd-3"
runtime = "command"
capabilities = ["sha256", "todo", "syntax"]
labels = { kind = "command" }
slots = 4
argv = ["/opt/hive \"x\"\\bin", "demo-tool", "{capability}"]
cwd = "/here"
"#
        );
    }

    #[test]
    fn control_characters_are_escaped() {
        assert_eq!(quoted("a\nb\u{7f}"), "\"a\\U0000000Ab\\U0000007F\"");
    }
}
