//! The connection to a control plane: every call has a deadline, and what is worth repeating is
//! repeated within it (UNAVAILABLE, a connection that broke, anything with RetryInfo). Callers make
//! only calls that may be repeated: ids are chosen before the first send.

use std::future::Future;
use std::time::{Duration, Instant};

use hive_proto::tls::{self, ClientTls};
use hive_proto::v1::agent_service_client::AgentServiceClient;
use hive_proto::v1::cluster_service_client::ClusterServiceClient;
use hive_proto::v1::task_service_client::TaskServiceClient;
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status};
use tonic_types::StatusExt as _;

use crate::args::Certificates;
use crate::clock;
use crate::failure::{Failure, is_transport};
use crate::output;

const FIRST_DELAY: Duration = Duration::from_millis(100);
const MAX_DELAY: Duration = Duration::from_secs(2);
/// A call that may take longer than this says so when its first try fails.
const UNTOLD: Duration = Duration::from_secs(10);

/// Clients of every service over one channel; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Services {
    pub(crate) tasks: TaskServiceClient<Channel>,
    pub(crate) agents: AgentServiceClient<Channel>,
    pub(crate) cluster: ClusterServiceClient<Channel>,
    pub(crate) channel: Channel,
}

/// A control plane, as this program talks to it.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    services: Services,
    /// As given, for messages.
    pub(crate) server: String,
    /// Sent with every call; empty means "default".
    pub(crate) namespace: String,
    deadline: Duration,
}

impl Client {
    /// Prepares a connection in plain text; the first call makes it. Each call may take `deadline`, repeats
    /// included.
    pub(crate) fn new(server: &str, namespace: &str, deadline: Duration) -> Result<Self, Failure> {
        Self::with(server, namespace, deadline, &Certificates::default())
    }

    /// The same, with TLS if `server` is https.
    pub(crate) fn with(
        server: &str,
        namespace: &str,
        deadline: Duration,
        certificates: &Certificates,
    ) -> Result<Self, Failure> {
        let url = if server.contains("://") { server.to_owned() } else { format!("http://{server}") };
        let bad = |why: String| {
            Failure::usage(format!("--server {server:?} is not usable"), why)
                .next("give it as http://HOST:PORT, such as http://127.0.0.1:7070, or as https://HOST:PORT with --ca")
        };
        let tls = certificates.tls(url.starts_with("https://")).map_err(bad)?;
        let endpoint = tls::endpoint(&url).map_err(|e| bad(e.to_string()))?;
        if endpoint.uri().port_u16().is_none() || endpoint.uri().scheme_str() != Some("http") {
            return Err(bad("a host and a port are needed".to_owned()));
        }
        let endpoint = endpoint
            .connect_timeout(Duration::from_secs(3))
            .http2_keep_alive_interval(Duration::from_secs(10))
            .keep_alive_timeout(Duration::from_secs(5))
            .keep_alive_while_idle(true);
        let channel = match tls {
            Some(tls) => tls.connect_lazy(&endpoint),
            None => endpoint.connect_lazy(),
        };
        Ok(Self {
            services: Services {
                tasks: TaskServiceClient::new(channel.clone()),
                agents: AgentServiceClient::new(channel.clone()),
                cluster: ClusterServiceClient::new(channel.clone()),
                channel,
            },
            server: url,
            namespace: namespace.to_owned(),
            deadline,
        })
    }

    /// The raw clients, for whoever must not repeat.
    pub(crate) fn services(&self) -> Services {
        self.services.clone()
    }

    /// The same connection with another deadline per call.
    pub(crate) fn with_deadline(&self, deadline: Duration) -> Self {
        Self { deadline, ..self.clone() }
    }

    /// Makes a unary call; `what` is the sentence that says it failed.
    pub(crate) async fn call<M, T, F, Fut>(&self, what: &str, message: M, op: F) -> Result<T, Failure>
    where
        M: Clone,
        F: Fn(Services, Request<M>) -> Fut,
        Fut: Future<Output = Result<Response<T>, Status>>,
    {
        self.attempt(message, op, true).await.map_err(|status| Failure::call(what, &self.server, &status))
    }

    /// Opens a stream: the deadline covers the opening only, keepalive the rest.
    pub(crate) async fn open<M, T, F, Fut>(&self, what: &str, message: M, op: F) -> Result<T, Failure>
    where
        M: Clone,
        F: Fn(Services, Request<M>) -> Fut,
        Fut: Future<Output = Result<Response<T>, Status>>,
    {
        self.attempt(message, op, false).await.map_err(|status| Failure::call(what, &self.server, &status))
    }

    /// Like [`Client::call`], for callers that act on the status themselves.
    pub(crate) async fn attempt<M, T, F, Fut>(&self, message: M, op: F, unary: bool) -> Result<T, Status>
    where
        M: Clone,
        F: Fn(Services, Request<M>) -> Fut,
        Fut: Future<Output = Result<Response<T>, Status>>,
    {
        let until = clock::now() + self.deadline;
        let mut delay = FIRST_DELAY;
        let mut earlier = None;
        loop {
            let left = until.saturating_duration_since(clock::now());
            let mut request = Request::new(message.clone());
            if unary {
                request.set_timeout(left);
            }
            let status = match tokio::time::timeout(left, op(self.services.clone(), request)).await {
                Ok(Ok(response)) => return Ok(response.into_inner()),
                Ok(Err(status)) => status,
                // The last try had what was left of the time; why the one before failed says more.
                Err(_) => {
                    let late = || Status::deadline_exceeded(format!("no answer within {left:.0?}"));
                    return Err(earlier.unwrap_or_else(late));
                }
            };
            let Some(wait) = retry_after(&status, &mut delay) else { return Err(status) };
            if !fits(clock::now(), wait, until) {
                return Err(status);
            }
            // Nobody types a command and looks at nothing for a minute.
            if self.deadline > UNTOLD && earlier.is_none() {
                let left = until.saturating_duration_since(clock::now()).as_secs();
                output::say(&format!("no answer from {}; trying for {left} s more", self.server));
            }
            earlier = Some(status);
            tokio::time::sleep(wait).await;
        }
    }
}

impl Certificates {
    /// What they make together, for a server of that kind.
    fn tls(&self, https: bool) -> Result<Option<ClientTls>, String> {
        let pair = match (&self.cert, &self.key) {
            (Some(cert), Some(key)) => Some((cert.as_path(), key.as_path())),
            (None, None) => None,
            _ => return Err("--cert and --key go together".to_owned()),
        };
        match &self.ca {
            Some(ca) if https => {
                let tls = ClientTls::new(ca, pair);
                tls.check().map_err(|error| error.to_string())?;
                Ok(Some(tls))
            }
            None if https => Err("https:// needs --ca, the CA that signed the server's certificate".to_owned()),
            None if pair.is_none() => Ok(None),
            _ => Err("certificates are given, but it is not https://".to_owned()),
        }
    }
}

fn fits(now: Instant, wait: Duration, until: Instant) -> bool {
    now + wait < until
}

/// How long to wait before trying again; `None` when trying again can't help.
pub(crate) fn retry_after(status: &Status, delay: &mut Duration) -> Option<Duration> {
    let asked = status.get_error_details().retry_info().and_then(|info| info.retry_delay);
    let broken = status.code() == Code::Unavailable
        || (matches!(status.code(), Code::Unknown | Code::Internal | Code::Cancelled) && is_transport(status));
    if let Some(asked) = asked {
        return Some(asked.min(Duration::from_secs(60)) + FIRST_DELAY.mul_f64(clock::random()));
    }
    // A certificate that was refused will be refused again.
    if !broken || tls::explain(status).is_some() {
        return None;
    }
    let wait = delay.mul_f64(0.5 + 0.5 * clock::random());
    *delay = (*delay * 2).min(MAX_DELAY);
    Some(wait)
}

/// Pause between two tries of something that is repeated for ever; grows to two seconds.
#[derive(Debug)]
pub(crate) struct Backoff(Duration);

impl Backoff {
    pub(crate) fn new() -> Self {
        Self(FIRST_DELAY)
    }

    pub(crate) fn reset(&mut self) {
        self.0 = FIRST_DELAY;
    }

    /// The next pause.
    pub(crate) fn step(&mut self) -> Duration {
        let wait = self.0.mul_f64(0.5 + 0.5 * clock::random());
        self.0 = (self.0 * 2).min(MAX_DELAY);
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic_types::ErrorDetails;

    #[test]
    fn unavailable_is_repeated_with_growing_pauses() {
        let mut delay = FIRST_DELAY;
        let status = Status::unavailable("down");
        for _ in 0..10 {
            assert!(retry_after(&status, &mut delay).is_some_and(|wait| wait <= MAX_DELAY));
        }
        assert_eq!(delay, MAX_DELAY);
    }

    #[test]
    fn retry_info_is_honoured_whatever_the_code() {
        let details = ErrorDetails::with_retry_info(Some(Duration::from_secs(3)));
        let status = Status::with_error_details(Code::ResourceExhausted, "full", details);
        let wait = retry_after(&status, &mut FIRST_DELAY.clone());
        assert!(wait.is_some_and(|wait| wait >= Duration::from_secs(3)));
    }

    #[test]
    fn a_connection_that_breaks_in_an_answer_is_repeated() {
        let status = Status::unknown("h2 protocol error: error reading a body from connection");
        assert!(retry_after(&status, &mut FIRST_DELAY.clone()).is_some());
        let details = ErrorDetails::with_error_info("INTERNAL", "hive", [("k".to_owned(), "v".to_owned())]);
        let status = Status::with_error_details(Code::Internal, "a fault of the server", details);
        assert!(retry_after(&status, &mut FIRST_DELAY.clone()).is_none());
    }

    #[test]
    fn a_refusal_is_final() {
        assert!(retry_after(&Status::invalid_argument("no"), &mut FIRST_DELAY.clone()).is_none());
        assert!(retry_after(&Status::resource_exhausted("no"), &mut FIRST_DELAY.clone()).is_none());
    }

    #[tokio::test]
    async fn servers_are_checked_at_the_edge() {
        for bad in ["https://h:1", "http://h", "", "ftp://h:1", "http://h :1"] {
            assert!(Client::new(bad, "", Duration::from_secs(1)).is_err(), "{bad:?}");
        }
        for good in ["http://h:1", "h:1", "127.0.0.1:7070"] {
            assert!(Client::new(good, "", Duration::from_secs(1)).is_ok(), "{good:?}");
        }
    }

    #[tokio::test]
    async fn nobody_listening_is_unreachable() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let client = Client::new(&address.to_string(), "", Duration::from_millis(300)).unwrap();
        let failure = client
            .call("cannot read", hive_proto::v1::GetStatusRequest::default(), |mut s, r| async move {
                s.cluster.get_status(r).await
            })
            .await
            .unwrap_err();
        assert_eq!(failure.exit, crate::failure::Exit::Unreachable, "{failure}");
    }
}
