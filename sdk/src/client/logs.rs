//! What an attempt wrote, read across disconnects.

use std::collections::BTreeMap;

use futures_util::StreamExt as _;
use futures_util::stream::unfold;
use hive_proto::v1::{LogStream, TailLogsRequest, TailLogsResponse, TaskView};
use tonic::Streaming;

use super::call::{backoff, pause};
use super::{Client, Error, Items, TaskId};
use crate::backoff::Backoff;
use crate::clock;

/// Which output to read.
#[derive(Debug, Clone)]
pub struct LogQuery {
    id: TaskId,
    attempt: u32,
    follow: bool,
    stream: LogStream,
}

impl LogQuery {
    /// What the task's last attempt wrote, both streams.
    pub fn of(id: TaskId) -> Self {
        Self { id, attempt: 0, follow: false, stream: LogStream::Unspecified }
    }

    /// Of this attempt; 0 means the last.
    pub fn attempt(mut self, attempt: u32) -> Self {
        self.attempt = attempt;
        self
    }

    /// Go on until the attempt has ended.
    pub fn follow(mut self, follow: bool) -> Self {
        self.follow = follow;
        self
    }

    /// Of this stream only.
    pub fn stream(mut self, stream: LogStream) -> Self {
        self.stream = stream;
        self
    }
}

impl Client {
    /// Streams what an attempt wrote, in chunks of at most 16 KiB. When the connection breaks it is
    /// read again and what was already given is left out; that ends with an `Err` once nothing has
    /// come for the client's timeout.
    pub fn logs(&self, query: LogQuery) -> Items<TailLogsResponse> {
        let reading = Reading {
            client: self.clone(),
            query,
            stream: None,
            given: Given::default(),
            backoff: backoff(),
            heard: clock::now(),
            over: false,
        };
        unfold(reading, |mut reading| async move {
            let item = reading.next().await?;
            Some((item, reading))
        })
        .fuse()
        .boxed()
    }
}

struct Reading {
    client: Client,
    query: LogQuery,
    stream: Option<Streaming<TailLogsResponse>>,
    given: Given,
    backoff: Backoff,
    heard: tokio::time::Instant,
    over: bool,
}

impl Reading {
    async fn next(&mut self) -> Option<Result<TailLogsResponse, Error>> {
        while !self.over {
            let error = match &mut self.stream {
                None => match self.open().await {
                    Ok(()) => continue,
                    Err(error) => error,
                },
                Some(stream) => match stream.message().await {
                    Ok(Some(chunk)) => {
                        self.heard = clock::now();
                        self.backoff.reset();
                        match self.given.trim(chunk) {
                            Some(chunk) => return Some(Ok(chunk)),
                            None => continue,
                        }
                    }
                    Ok(None) => break,
                    Err(status) => self.client.failed(status),
                },
            };
            if self.stream.take().is_some() {
                self.heard = clock::now();
            }
            let left = self.client.inner.timeout.saturating_sub(clock::now() - self.heard);
            let Some(wait) = pause(&mut self.backoff, &error, left, clock::random()) else {
                self.over = true;
                return Some(Err(error));
            };
            tokio::time::sleep(wait).await;
        }
        self.over = true;
        None
    }

    async fn open(&mut self) -> Result<(), Error> {
        if self.query.attempt == 0 {
            // Fixed here, or a reconnect might go on in the middle of another attempt's output.
            self.query.attempt = self.client.get_view(self.query.id, TaskView::Basic).await?.attempt;
        }
        let request = TailLogsRequest {
            namespace: self.client.ns(),
            task_id: self.query.id.to_string(),
            attempt: self.query.attempt,
            follow: self.query.follow,
            stream: self.query.stream.into(),
        };
        let limit = self.client.inner.timeout;
        let mut tasks = self.client.tasks();
        let opened = tokio::time::timeout(limit, tasks.tail_logs(request)).await;
        let opened = opened.map_err(|_| Error::Deadline { call: "TailLogs", limit, last: None })?;
        self.stream = Some(opened.map_err(|status| self.client.failed(status))?.into_inner());
        Ok(())
    }
}

/// Up to where each stream has been given.
#[derive(Debug, Default)]
struct Given {
    ends: BTreeMap<i32, u64>,
}

impl Given {
    fn trim(&mut self, mut chunk: TailLogsResponse) -> Option<TailLogsResponse> {
        let end = self.ends.entry(chunk.stream).or_default();
        let known = end.saturating_sub(chunk.offset);
        if known > 0 {
            let cut = usize::try_from(known).unwrap_or(usize::MAX).min(chunk.data.len());
            chunk.data = chunk.data.split_off(cut);
            chunk.offset += cut as u64;
        }
        *end = (*end).max(chunk.offset + chunk.data.len() as u64);
        (known == 0 || !chunk.data.is_empty()).then_some(chunk)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_given_is_left_out_per_stream() {
        let chunk = |stream: LogStream, offset, data: &'static str| TailLogsResponse {
            stream: stream.into(),
            offset,
            data: data.into(),
            ..Default::default()
        };
        let mut given = Given::default();
        let mut read = |chunk| given.trim(chunk).map(|c| (c.offset, String::from_utf8_lossy(&c.data).into_owned()));
        let (out, err) = (LogStream::Stdout, LogStream::Stderr);
        assert_eq!(read(chunk(out, 0, "abc")), Some((0, "abc".to_owned())));
        assert_eq!(read(chunk(out, 0, "abc")), None);
        assert_eq!(read(chunk(err, 0, "x")), Some((0, "x".to_owned())));
        assert_eq!(read(chunk(out, 2, "cde")), Some((3, "de".to_owned())));
        assert_eq!(read(chunk(out, 5, "f")), Some((5, "f".to_owned())));
    }
}
