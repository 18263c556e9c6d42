//! How a program's exit becomes an attempt's outcome.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::Path;

use bytes::Bytes;
use hive_proto::sidecar_v1::{FailureReason, Outcome};
use hive_proto::v1;

use crate::attempt::{AttemptEnd, MESSAGE_LIMIT, RESULT_LIMIT, cut};
use crate::shim::files::{Exit, Stop};
use crate::shim::keep;

/// The exit code that asks for another try (`EX_TEMPFAIL` of sysexits.h).
const RETRY: i32 = 75;
/// Bytes of standard error shown with a failure.
const TAIL: u64 = 512;

/// Reads what the shim left. Blocks for a file read.
pub(super) fn of(exit: Exit, dir: &Path, content_type: Option<&str>) -> AttemptEnd {
    let ended_ms = exit.ended_ms;
    let started_ms = exit.started_ms.unwrap_or(ended_ms);
    let fail = |reason, message: &str, retryable| AttemptEnd {
        exit_code: exit.exit_code,
        signal: exit.signal,
        ..AttemptEnd::failed(reason, message, retryable, started_ms, ended_ms)
    };
    if exit.stop == Some(Stop::Cancelled) {
        return AttemptEnd { outcome: Outcome::Cancelled, ..fail(FailureReason::Unspecified, "", false) };
    }
    if let Some(error) = &exit.start_error {
        return fail(FailureReason::StartFailed, error, false);
    }
    match exit.stop {
        Some(Stop::TimedOut) => {
            let seconds = ended_ms.saturating_sub(started_ms) / 1000;
            return fail(FailureReason::Timeout, &format!("ended after {seconds} s by its timeout"), true);
        }
        Some(Stop::Terminated) => return fail(FailureReason::AgentLost, "ended from outside", true),
        Some(Stop::Cancelled) | None => {}
    }
    match (exit.exit_code, exit.signal) {
        (Some(0), _) => match result(&exit, dir, content_type) {
            Ok(payload) => AttemptEnd {
                outcome: Outcome::Succeeded,
                payload: Some(payload),
                ..fail(FailureReason::Unspecified, "", false)
            },
            Err((reason, message, retryable)) => fail(reason, &message, retryable),
        },
        (Some(code), _) => fail(FailureReason::ExitCode, &said(dir, &format!("exit code {code}")), code == RETRY),
        (None, Some(signal)) => fail(FailureReason::Signal, &said(dir, &format!("signal {signal}")), false),
        (None, None) => fail(FailureReason::AgentLost, "its exit status is not known", true),
    }
}

fn result(exit: &Exit, dir: &Path, content_type: Option<&str>) -> Result<v1::Payload, (FailureReason, String, bool)> {
    if let Some(error) = &exit.output_error {
        return Err((FailureReason::AgentLost, error.clone(), true));
    }
    let bytes = exit.stdout.bytes;
    if exit.stdout.truncated || bytes > RESULT_LIMIT as u64 {
        let message = format!("standard output has {bytes} bytes; a result has at most {RESULT_LIMIT}");
        return Err((FailureReason::ResultTooLarge, message, false));
    }
    let data = std::fs::read(dir.join("stdout.0"))
        .map_err(|error| (FailureReason::AgentLost, format!("the result cannot be read: {error}"), true))?;
    let content_type = match content_type {
        Some(told) => told.to_owned(),
        None if std::str::from_utf8(&data).is_ok() => "text/plain; charset=utf-8".to_owned(),
        None => "application/octet-stream".to_owned(),
    };
    Ok(v1::Payload { data: Bytes::from(data), content_type })
}

/// The end of standard error, which usually says why; `otherwise` when there is none.
fn said(dir: &Path, otherwise: &str) -> String {
    let tail = tail(dir).unwrap_or_default();
    let text = String::from_utf8_lossy(&tail);
    let text = text.trim();
    if text.is_empty() { otherwise.to_owned() } else { cut(text, MESSAGE_LIMIT).to_owned() }
}

fn tail(dir: &Path) -> io::Result<Vec<u8>> {
    let Some(last) = keep::segments(dir, "stderr")?.pop() else { return Ok(Vec::new()) };
    let mut file = File::open(last.path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL)))?;
    let mut bytes = Vec::new();
    file.take(TAIL).read_to_end(&mut bytes)?;
    Ok(bytes)
}
