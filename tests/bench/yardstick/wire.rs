//! The yardsticks' own little protocol: what tonic and prost cost with nothing of Hive in between.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::body::Body;
use tonic::codegen::http;
use tonic::server::{Grpc, NamedService, StreamingService, UnaryService};
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;

/// A task, a result, or anything else to carry.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Item {
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// Nanoseconds of the monotonic clock, where somebody wants to know a time.
    #[prost(uint64, tag = "2")]
    pub at: u64,
    #[prost(bytes = "bytes", tag = "3")]
    pub body: Bytes,
}

/// Items that travel together.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Frame {
    #[prost(message, repeated, tag = "1")]
    pub items: Vec<Item>,
}

/// Items of one frame, at most.
pub const FRAME: usize = 64;

pub type Frames = ReceiverStream<Result<Frame, Status>>;

/// What a yardstick's server does with its two kinds of streams.
pub trait Hub: Send + Sync + 'static {
    fn clients(&self, from: Streaming<Frame>) -> Frames;
    fn workers(&self, from: Streaming<Frame>) -> Frames;
}

const ECHO: &str = "/yardstick.Bare/Echo";
const CLIENTS: &str = "/yardstick.Bare/Clients";
const WORKERS: &str = "/yardstick.Bare/Workers";

struct Bare<H>(Arc<H>);

impl<H> Clone for Bare<H> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<H> NamedService for Bare<H> {
    const NAME: &'static str = "yardstick.Bare";
}

struct Echo;

impl UnaryService<Item> for Echo {
    type Response = Item;
    type Future = std::future::Ready<Result<Response<Item>, Status>>;

    fn call(&mut self, request: Request<Item>) -> Self::Future {
        std::future::ready(Ok(Response::new(request.into_inner())))
    }
}

struct Stream<F>(F);

impl<F: FnMut(Streaming<Frame>) -> Frames> StreamingService<Frame> for Stream<F> {
    type Response = Frame;
    type ResponseStream = Frames;
    type Future = std::future::Ready<Result<Response<Frames>, Status>>;

    fn call(&mut self, request: Request<Streaming<Frame>>) -> Self::Future {
        std::future::ready(Ok(Response::new((self.0)(request.into_inner()))))
    }
}

impl<H: Hub> tower::Service<http::Request<Body>> for Bare<H> {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let hub = Arc::clone(&self.0);
        Box::pin(async move {
            Ok(match request.uri().path() {
                ECHO => Grpc::new(ProstCodec::<Item, Item>::default()).unary(Echo, request).await,
                CLIENTS => {
                    let serve = Stream(|from| hub.clients(from));
                    Grpc::new(ProstCodec::<Frame, Frame>::default()).streaming(serve, request).await
                }
                WORKERS => {
                    let serve = Stream(|from| hub.workers(from));
                    Grpc::new(ProstCodec::<Frame, Frame>::default()).streaming(serve, request).await
                }
                _ => Status::unimplemented("no such call").into_http(),
            })
        })
    }
}

/// Serves until the process ends; prints the address once it listens.
pub async fn serve<H: Hub>(hub: H) {
    let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
    socket.bind("127.0.0.1:0".parse().expect("an address")).expect("a port");
    // As Hive's own: a thousand at once must not wait for a repeated SYN.
    let listener = socket.listen(4_096).expect("listens");
    println!("{}", listener.local_addr().expect("an address"));
    let incoming = tonic::transport::server::TcpIncoming::from(listener).with_nodelay(Some(true));
    let server = Server::builder().max_concurrent_streams(Some(100_000));
    server.serve_with_incoming(Bare(Arc::new(hub)), incoming).await.expect("served");
}

/// A connection of its own.
#[derive(Clone)]
pub struct Caller(tonic::client::Grpc<Channel>);

impl Caller {
    pub async fn connect(address: SocketAddr) -> Self {
        let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("an address").tcp_nodelay(true);
        Self(tonic::client::Grpc::new(endpoint.connect().await.expect("connected")))
    }

    pub async fn echo(&mut self, item: Item) -> Item {
        self.0.ready().await.expect("ready");
        let codec = ProstCodec::<Item, Item>::default();
        let path = http::uri::PathAndQuery::from_static(ECHO);
        self.0.unary(Request::new(item), path, codec).await.expect("an echo").into_inner()
    }

    /// Opens a stream as a client or a worker.
    pub async fn stream(&mut self, worker: bool, to: mpsc::UnboundedReceiver<Item>) -> Streaming<Frame> {
        self.0.ready().await.expect("ready");
        let path = http::uri::PathAndQuery::from_static(if worker { WORKERS } else { CLIENTS });
        let frames = tokio_stream::StreamExt::map(framed(to), |frame| frame.expect("a frame"));
        let codec = ProstCodec::<Frame, Frame>::default();
        self.0.streaming(Request::new(frames), path, codec).await.expect("a stream").into_inner()
    }
}

/// Whatever waits travels in one frame.
pub fn framed(mut items: mpsc::UnboundedReceiver<Item>) -> Frames {
    let (sender, frames) = mpsc::channel(16);
    tokio::spawn(async move {
        let mut waiting = Vec::new();
        while items.recv_many(&mut waiting, FRAME).await > 0 {
            if sender.send(Ok(Frame { items: std::mem::take(&mut waiting) })).await.is_err() {
                break;
            }
        }
    });
    ReceiverStream::new(frames)
}

/// Nanoseconds of the machine's monotonic clock, the same in every process on it.
pub fn monotonic() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    u64::try_from(now.tv_sec).expect("positive") * 1_000_000_000 + u64::try_from(now.tv_nsec).expect("positive")
}
