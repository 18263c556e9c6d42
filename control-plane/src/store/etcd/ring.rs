//! The endpoints of etcd: one connection each, tried in turn, every try with a deadline.
//!
//! Not tonic's balancing channel: that picks a dead endpoint as gladly as a live one. Which try can
//! have had an effect is kept count of; what follows from it is for the caller.

use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use hive_etcd::etcdserverpb::auth_client::AuthClient;
use hive_etcd::etcdserverpb::kv_client::KvClient;
use hive_etcd::etcdserverpb::maintenance_client::MaintenanceClient;
use hive_etcd::etcdserverpb::{AuthenticateRequest, StatusRequest, StatusResponse};
use hive_proto::tls::ClientTls;
use tokio::time::{Instant, sleep, timeout};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Response, Status};

use super::verdict::{Verdict, verdict};
use super::{BadOptions, Options, User};
use crate::clock;
use crate::store::Cause;

/// Largest answer taken: a page of records.
pub(super) const MESSAGE: usize = 32 << 20;
/// A member that is there accepts a connection sooner.
const CONNECT: Duration = Duration::from_secs(1);
/// Pause after every endpoint has failed once.
const PAUSE: Duration = Duration::from_millis(100);
/// etcd bears a ping every 5 s, and only while a call is open; a more eager client is sent away.
const PING: (Duration, Duration) = (Duration::from_secs(6), Duration::from_secs(3));

pub(super) type Service = InterceptedService<Channel, Headers>;
type Kv = KvClient<Service>;

/// What every call carries.
#[derive(Clone, Debug)]
pub(super) struct Headers {
    token: Option<MetadataValue<Ascii>>,
}

impl Interceptor for Headers {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        // A member cut off from the others says so at once, instead of letting the call wait.
        request.metadata_mut().insert("hasleader", MetadataValue::from_static("true"));
        if let Some(token) = &self.token {
            request.metadata_mut().insert("token", token.clone());
        }
        Ok(request)
    }
}

#[derive(Debug)]
struct Peer {
    endpoint: Endpoint,
    tls: Option<ClientTls>,
    line: Mutex<Line>,
}

#[derive(Clone, Debug)]
struct Line {
    channel: Channel,
    token: Option<MetadataValue<Ascii>>,
}

impl Peer {
    fn new(url: &str, tls: Option<&ClientTls>) -> Result<Self, BadOptions> {
        let secret = url.starts_with("https://");
        if secret != tls.is_some() || !(secret || url.starts_with("http://")) {
            return Err(BadOptions::Endpoint(url.to_owned()));
        }
        let endpoint = hive_proto::tls::endpoint(url).map_err(|_| BadOptions::Endpoint(url.to_owned()))?;
        let endpoint = endpoint
            .connect_timeout(CONNECT)
            .http2_keep_alive_interval(PING.0)
            .keep_alive_timeout(PING.1)
            .keep_alive_while_idle(false)
            .tcp_nodelay(true);
        let tls = tls.cloned();
        let line = Mutex::new(Line { channel: dial(&endpoint, tls.as_ref()), token: None });
        Ok(Self { endpoint, tls, line })
    }

    fn line(&self) -> Line {
        self.line.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The next call dials anew: a connection that kept silent may stay so.
    fn redial(&self) {
        self.line.lock().unwrap_or_else(PoisonError::into_inner).channel = dial(&self.endpoint, self.tls.as_ref());
    }

    fn keep(&self, token: Option<MetadataValue<Ascii>>) {
        self.line.lock().unwrap_or_else(PoisonError::into_inner).token = token;
    }

    /// The line with a token, if there is a user.
    async fn ready(&self, user: Option<&User>) -> Result<Line, Status> {
        let mut line = self.line();
        if let (Some(user), None) = (user, &line.token) {
            let request = AuthenticateRequest { name: user.name.clone(), password: user.password.clone() };
            line.token = match AuthClient::new(line.channel.clone()).authenticate(request).await {
                Ok(answer) => {
                    let token = answer.into_inner().token.parse();
                    Some(token.map_err(|_| Status::internal("etcd gave a token that is no header"))?)
                }
                // Authentication is off: a name does no harm.
                Err(status) if status.code() == Code::FailedPrecondition => None,
                Err(status) => return Err(status),
            };
            self.keep(line.token.clone());
        }
        Ok(line)
    }
}

/// Connects at the first call.
fn dial(endpoint: &Endpoint, tls: Option<&ClientTls>) -> Channel {
    tls.map_or_else(|| endpoint.connect_lazy(), |tls| tls.connect_lazy(endpoint))
}

/// A call that was given up.
#[derive(Debug)]
pub(super) struct Failed {
    /// Why; [`Verdict::Unsure`] also when time ran out.
    pub(super) verdict: Verdict,
    /// A try may have had an effect, or may have it later.
    pub(super) unsettled: bool,
    pub(super) cause: Cause,
}

/// An answer, and whether an earlier try may have had an effect.
#[derive(Debug)]
pub(super) struct Answer<R> {
    pub(super) response: R,
    pub(super) unsettled: bool,
}

#[derive(Debug)]
pub(super) struct Ring {
    peers: Vec<Peer>,
    /// The one that answered last.
    current: AtomicUsize,
    call: Duration,
    user: Option<User>,
}

impl Ring {
    pub(super) fn new(options: &Options) -> Result<Self, BadOptions> {
        let peers = options.endpoints.iter().map(|url| Peer::new(url, options.tls.as_ref()));
        let peers = peers.collect::<Result<Vec<_>, _>>()?;
        if peers.is_empty() {
            return Err(BadOptions::NoEndpoint);
        }
        Ok(Self { peers, current: AtomicUsize::new(0), call: options.call, user: options.user.clone() })
    }

    /// Calls until there is an answer, or none can be expected, or `until`. The request is to be the
    /// same in every try.
    pub(super) async fn call<R, T>(&self, until: Instant, op: impl Fn(Kv) -> T) -> Result<Answer<R>, Failed>
    where
        T: Future<Output = Result<Response<R>, Status>>,
    {
        let (mut unsettled, mut tries) = (false, 0);
        let mut cause: Cause = "there was no time for a call".into();
        loop {
            let left = until.saturating_duration_since(clock::monotonic());
            if left.is_zero() {
                return Err(Failed { verdict: Verdict::Unsure, unsettled, cause });
            }
            let nth = self.current.load(Ordering::Relaxed) % self.peers.len();
            let Some(peer) = self.peers.get(nth) else {
                return Err(Failed { verdict: Verdict::Unsure, unsettled, cause });
            };
            let attempt = async {
                let line = peer.ready(self.user.as_ref()).await?;
                let headers = Headers { token: line.token };
                let kv = KvClient::new(InterceptedService::new(line.channel, headers));
                op(kv.max_decoding_message_size(MESSAGE)).await
            };
            match timeout(left.min(self.call), attempt).await {
                Ok(Ok(response)) => return Ok(Answer { response: response.into_inner(), unsettled }),
                Ok(Err(status)) => {
                    let verdict = verdict(&status);
                    cause = status.into();
                    match verdict {
                        Verdict::NotSent => {}
                        Verdict::Token => peer.keep(None),
                        Verdict::Unsure => unsettled = true,
                        _ => return Err(Failed { verdict, unsettled, cause }),
                    }
                }
                Err(elapsed) => {
                    unsettled = true;
                    cause = elapsed.into();
                    peer.redial();
                }
            }
            tracing::debug!(endpoint = %peer.endpoint.uri(), error = %cause, "etcd did not take a call");
            tries += 1;
            self.current.store(nth + 1, Ordering::Relaxed);
            if tries % self.peers.len() == 0 {
                let left = until.saturating_duration_since(clock::monotonic());
                sleep(PAUSE.min(left)).await;
            }
        }
    }

    /// What each member says of itself, as far as it answers.
    pub(super) async fn statuses(&self) -> Vec<StatusResponse> {
        let ask = |peer| async move {
            let line = Peer::ready(peer, self.user.as_ref()).await?;
            let service = InterceptedService::new(line.channel, Headers { token: line.token });
            MaintenanceClient::new(service).status(StatusRequest {}).await
        };
        let mut found = Vec::new();
        for answer in futures_util::future::join_all(self.peers.iter().map(|peer| timeout(self.call, ask(peer)))).await
        {
            if let Ok(Ok(status)) = answer {
                found.push(status.into_inner());
            }
        }
        found
    }
}
