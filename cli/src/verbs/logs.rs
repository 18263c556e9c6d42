//! `logs`: what an attempt wrote, its standard output on ours and its standard error on ours.

use std::io::Write as _;

use hive_proto::v1;

use super::Context;
use crate::args::{Logs, StreamArg};
use crate::failure::Failure;
use crate::output::{self, Format};

/// `hive logs`.
pub(super) async fn run(cx: &Context, args: Logs) -> Result<(), Failure> {
    let what = format!("cannot read the logs of task {}", args.id);
    let stream = match args.stream {
        None => v1::LogStream::Unspecified,
        Some(StreamArg::Stdout) => v1::LogStream::Stdout,
        Some(StreamArg::Stderr) => v1::LogStream::Stderr,
    };
    let request = v1::TailLogsRequest {
        namespace: cx.client.namespace.clone(),
        task_id: args.id.clone(),
        attempt: args.attempt,
        follow: args.follow,
        stream: stream.into(),
    };
    let mut chunks = cx.client.open(&what, request, |mut s, r| async move { s.tasks.tail_logs(r).await }).await?;
    let mut any = false;
    loop {
        match chunks.message().await {
            Ok(Some(chunk)) => {
                any = true;
                print(cx.format, &chunk)?;
            }
            Ok(None) => {
                if !any {
                    output::say("it wrote nothing");
                }
                return Ok(());
            }
            Err(status) => return Err(Failure::call(&what, &cx.client.server, &status)),
        }
    }
}

fn print(format: Format, chunk: &v1::TailLogsResponse) -> Result<(), Failure> {
    if format == Format::Json {
        return output::json_line("hive.v1.TailLogsResponse", chunk);
    }
    if chunk.stream() == v1::LogStream::Stderr {
        // Nowhere to complain to if standard error is gone.
        let _ = std::io::stderr().lock().write_all(&chunk.data);
    } else {
        output::bytes(&chunk.data)?;
    }
    if chunk.truncated {
        output::say("\n[output past the limit was not kept]");
    }
    Ok(())
}
