//! A server in this process, and waiting for conditions.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use clap::Parser as _;
use hive_control_plane::config::{self, Config, Program, Sources};
use hive_control_plane::listen::{Listener as _, bind};
use hive_control_plane::run::{self, Listeners};
use hive_control_plane::server::{Health, Routes};
use hive_control_plane::tasks::Tasks;
use http::{Request, Response};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic::server::NamedService;
use tonic::transport::{Channel, Endpoint};

pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const PATIENCE: Duration = Duration::from_secs(20);

/// Waits for the future, but not for ever.
pub(crate) async fn within<F: Future>(what: &str, future: F) -> F::Output {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("waited too long: {what}"))
}

/// Asks again until the answer is there, but not for ever.
pub(crate) async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, mut ask: impl FnMut() -> F) -> T {
    within(what, async {
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
}

pub(crate) fn config(settings: &[(&str, &str)]) -> Config {
    let own = [("HIVE_LISTEN", "127.0.0.1:0"), ("HIVE_OPS_LISTEN", "127.0.0.1:0"), ("HIVE_DATA", "unused")];
    let environment = own.iter().chain(settings).map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    let flags = Program::try_parse_from(["hive-control-plane"]).expect("flags").flags;
    config::load(&Sources::new(&flags, environment)).unwrap_or_else(|faults| panic!("{faults}")).config
}

pub(crate) struct Server {
    pub(crate) main: SocketAddr,
    pub(crate) ops: SocketAddr,
    pub(crate) stop: CancellationToken,
    pub(crate) ended: JoinHandle<Result<(), run::Error>>,
}

impl Server {
    /// Serves health and reflection.
    pub(crate) fn start(settings: &[(&str, &str)]) -> Self {
        Self::with(settings, Routes::of_hive())
    }

    /// Serves these routes as well.
    #[expect(clippy::disallowed_methods, reason = "the server runs beside the test")]
    pub(crate) fn with(settings: &[(&str, &str)], routes: Routes) -> Self {
        let config = config(settings);
        let listeners = Listeners {
            main: bind("listen", config.listen).expect("bind"),
            ops: bind("ops_listen", config.ops_listen).expect("bind"),
        };
        let (main, ops) = (listeners.main.local_addr().expect("address"), listeners.ops.local_addr().expect("address"));
        let stop = CancellationToken::new();
        let token = stop.clone();
        let ended = tokio::spawn(async move {
            let tasks = Tasks::new(&token);
            let health = Health::starting(routes.names().collect::<Vec<_>>()).await;
            run::serve(&config, listeners, routes, &health, &tasks, token).await
        });
        Self { main, ops, stop, ended }
    }

    pub(crate) async fn channel(&self) -> Channel {
        channel(self.main).await
    }

    /// One page of the ops port, with its headers.
    pub(crate) async fn page(&self, path: &str) -> String {
        let request = format!("GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n");
        say(self.ops, request.as_bytes()).await
    }
}

pub(crate) async fn channel(address: SocketAddr) -> Channel {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("endpoint");
    within("connect", endpoint.connect()).await.expect("connect")
}

/// Says something and returns all that is answered until the end, however that comes.
pub(crate) async fn say(address: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = within("connect", TcpStream::connect(address)).await.expect("connect");
    stream.write_all(bytes).await.expect("write");
    let mut answer = Vec::new();
    // A reset after the answer is an end as well.
    let _ = within("the end of the connection", stream.read_to_end(&mut answer)).await;
    String::from_utf8_lossy(&answer).into_owned()
}

/// Stands for the cluster service and does one thing for every method.
#[derive(Clone, Copy)]
pub(crate) enum Stub {
    /// Never answers.
    Hangs,
    /// Panics while it is asked.
    Panics,
    /// Answers with a stream that never ends.
    Streams,
}

impl NamedService for Stub {
    const NAME: &'static str = "hive.v1.TaskService";
}

impl tower::Service<Request<Body>> for Stub {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<Body>) -> Self::Future {
        match self {
            Self::Hangs => Box::pin(std::future::pending()),
            Self::Panics => Box::pin(async { panic!("a secret of the server") }),
            Self::Streams => Box::pin(async {
                let mut response = Response::new(Body::new(Endless));
                let kind = http::HeaderValue::from_static("application/grpc");
                response.headers_mut().insert(http::header::CONTENT_TYPE, kind);
                Ok(response)
            }),
        }
    }
}

struct Endless;

impl http_body::Body for Endless {
    type Data = bytes::Bytes;
    type Error = tonic::Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<bytes::Bytes>, tonic::Status>>> {
        Poll::Pending
    }
}

/// The stable reason of a refusal.
pub(crate) fn reason(status: &tonic::Status) -> String {
    use tonic_types::StatusExt as _;
    status.get_error_details().error_info().map(|info| info.reason.clone()).unwrap_or_default()
}
