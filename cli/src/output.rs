//! Forms of output: canonical proto3 JSON, plain tables, names. Data goes to standard output, talk
//! to standard error.

use std::io::{self, Write as _};
use std::sync::LazyLock;

use clap::ValueEnum;
use comfy_table::{Table, presets};
use prost::Message;
use prost_reflect::{DescriptorError, DescriptorPool, DynamicMessage, SerializeOptions};

use crate::failure::Failure;

/// `-o`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Columns for people.
    #[default]
    Table,
    /// Canonical proto3 JSON.
    Json,
    /// Ids only, one per line.
    Name,
}

/// Writes one line of data.
pub(crate) fn line(text: &str) -> Result<(), Failure> {
    bytes(format!("{text}\n").as_bytes())
}

/// Writes data as it is.
pub(crate) fn bytes(data: &[u8]) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(data).and_then(|()| out.flush()).map_err(|e| Failure::output(&e))
}

/// Says something to the person; never fails.
pub(crate) fn say(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Writes a message as JSON over several lines; `name` is its full name, such as `hive.v1.Task`.
pub(crate) fn json<M: Message>(name: &str, message: &M) -> Result<(), Failure> {
    let mut text = Vec::new();
    to_json(name, message, &mut serde_json::Serializer::pretty(&mut text))?;
    text.push(b'\n');
    bytes(&text)
}

/// Writes a message as JSON in one line, for output of many.
pub(crate) fn json_line<M: Message>(name: &str, message: &M) -> Result<(), Failure> {
    let mut text = Vec::new();
    to_json(name, message, &mut serde_json::Serializer::new(&mut text))?;
    text.push(b'\n');
    bytes(&text)
}

/// Canonical proto3 JSON of a message, members in the order of the fields' numbers.
fn to_json<M: Message, S: serde::Serializer>(name: &str, message: &M, into: S) -> Result<S::Ok, Failure> {
    let fail = |why: String| Failure::error(format!("cannot turn {name} into JSON"), why);
    let pool = POOL.as_ref().map_err(|e| fail(e.to_string()))?;
    let descriptor = pool.get_message_by_name(name).ok_or_else(|| fail("no such message".to_owned()))?;
    let dynamic =
        DynamicMessage::decode(descriptor, message.encode_to_vec().as_slice()).map_err(|e| fail(e.to_string()))?;
    dynamic.serialize_with_options(into, &SerializeOptions::new()).map_err(|e| fail(e.to_string()))
}

/// Decoded once: a watch prints many messages.
static POOL: LazyLock<Result<DescriptorPool, DescriptorError>> =
    LazyLock::new(|| DescriptorPool::decode(hive_proto::SERVER_DESCRIPTORS));

/// Rows under headings, without lines and without trailing blanks.
pub(crate) fn table(headings: &[&str], rows: &[Vec<String>]) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(headings);
    for row in rows {
        table.add_row(row.iter().map(|cell| printable(cell)));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}

/// Text without control characters, so that nobody's file name drives the terminal.
pub(crate) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use hive_proto::v1;

    #[test]
    fn json_is_canonical_proto3() {
        let task = v1::Task {
            id: "0190-x".into(),
            state: v1::TaskState::InputRequired.into(),
            attempt: 2,
            spec: Some(v1::TaskSpec {
                capabilities: vec!["wc".into()],
                payload: Some(v1::Payload {
                    data: bytes::Bytes::from_static(b"{}"),
                    content_type: "application/json".into(),
                }),
                attempt_timeout: Some(prost_types::Duration { seconds: 1, nanos: 500_000_000 }),
                ..Default::default()
            }),
            create_time: Some(prost_types::Timestamp { seconds: 0, nanos: 1_000_000 }),
            ..Default::default()
        };
        assert_eq!(
            to_json("hive.v1.Task", &task, serde_json::value::Serializer).unwrap(),
            serde_json::json!({
                "id": "0190-x",
                "state": "TASK_STATE_INPUT_REQUIRED",
                "attempt": 2,
                "spec": {
                    "capabilities": ["wc"],
                    "payload": {"data": "e30=", "contentType": "application/json"},
                    "attemptTimeout": "1.500s",
                },
                "createTime": "1970-01-01T00:00:00.001Z",
            })
        );
    }

    #[test]
    fn lists_are_the_response_and_wide_integers_are_text() {
        let response = v1::ListAgentsResponse {
            agents: vec![v1::Agent { id: "a".into(), generation: 7, free_slots: Some(0), ..Default::default() }],
            revision: Some(v1::Revision { cluster_generation: 1, seq: 9 }),
            ..Default::default()
        };
        assert_eq!(
            to_json("hive.v1.ListAgentsResponse", &response, serde_json::value::Serializer).unwrap(),
            serde_json::json!({
                "agents": [{"id": "a", "generation": "7", "freeSlots": 0}],
                "revision": {"clusterGeneration": "1", "seq": "9"},
            })
        );
    }

    #[test]
    fn tables_align_and_neutralise_control_characters() {
        let rows = vec![vec!["a\x1b[2J".to_owned(), "1".to_owned()], vec!["longer".to_owned(), "22".to_owned()]];
        assert_eq!(table(&["NAME", "N"], &rows), "NAME    N\na\u{fffd}[2J   1\nlonger  22");
    }
}
