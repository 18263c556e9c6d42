//! A server that answers `hive.v1.TaskService` from a script: the first answer of a list goes to
//! the first call; past the end a call hangs.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use futures_util::StreamExt as _;
use futures_util::stream::{self, BoxStream};
use hive_proto::v1::task_service_server::{TaskService, TaskServiceServer};
use hive_proto::v1::*;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

type Answers<T> = Mutex<VecDeque<Result<T, Status>>>;

#[derive(Default)]
pub(crate) struct Script {
    pub(crate) submit: Answers<SubmitTaskResponse>,
    pub(crate) submit_many: Answers<SubmitTasksResponse>,
    pub(crate) list: Answers<ListTasksResponse>,
    pub(crate) wait: Answers<WaitTaskResponse>,
    pub(crate) input: Answers<ProvideInputResponse>,
    /// Each a stream; one that runs out stays open.
    pub(crate) watch: Answers<Vec<Result<TaskEvent, Status>>>,
    pub(crate) logs: Answers<Vec<Result<TailLogsResponse, Status>>>,
    pub(crate) submitted: Mutex<Vec<SubmitTaskRequest>>,
    pub(crate) batches: Mutex<Vec<SubmitTasksRequest>>,
    pub(crate) inputs: Mutex<Vec<ProvideInputRequest>>,
    pub(crate) waits: Mutex<Vec<WaitTaskRequest>>,
    /// The `grpc-timeout` of each call.
    pub(crate) timeouts: Mutex<Vec<String>>,
}

pub(crate) struct Fake {
    pub(crate) script: Arc<Script>,
    pub(crate) address: SocketAddr,
    stop: CancellationToken,
    accepting: Option<tokio::task::JoinHandle<()>>,
}

impl Fake {
    pub(crate) async fn start(script: Script) -> Self {
        Self::start_at("127.0.0.1:0".parse().expect("an address"), script).await
    }

    pub(crate) async fn start_at(address: SocketAddr, script: Script) -> Self {
        let listener = TcpListener::bind(address).await.expect("the port is free");
        let address = listener.local_addr().expect("bound");
        let (script, stop) = (Arc::new(script), CancellationToken::new());
        let accepting = tokio::spawn(accept(listener, script.clone(), stop.clone()));
        Self { script, address, stop, accepting: Some(accepting) }
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Breaks all connections and frees the port, as a killed process does.
    pub(crate) async fn kill(mut self) -> SocketAddr {
        self.stop.cancel();
        if let Some(accepting) = self.accepting.take() {
            accepting.await.expect("no panic");
        }
        self.address
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn accept(listener: TcpListener, script: Arc<Script>, stop: CancellationToken) {
    while let Some(Ok((stream, _))) = stop.run_until_cancelled(listener.accept()).await {
        let service = TowerToHyperService::new(TaskServiceServer::new(Service(script.clone())));
        let stop = stop.clone();
        tokio::spawn(async move {
            let builder = Builder::new(TokioExecutor::new()).http2_only();
            let _ = stop.run_until_cancelled(builder.serve_connection(TokioIo::new(stream), service)).await;
        });
    }
}

struct Service(Arc<Script>);

impl Service {
    fn note<T>(&self, request: Request<T>) -> T {
        if let Some(timeout) = request.metadata().get("grpc-timeout") {
            self.0.timeouts.lock().unwrap().push(timeout.to_str().unwrap().to_owned());
        }
        request.into_inner()
    }
}

async fn next<T>(answers: &Answers<T>) -> Result<Response<T>, Status> {
    let answer = answers.lock().unwrap().pop_front();
    match answer {
        Some(answer) => answer.map(Response::new),
        None => std::future::pending().await,
    }
}

/// A stream ends only where its list has an error; otherwise it stays open.
fn open<T: Send + 'static>(items: Vec<Result<T, Status>>) -> BoxStream<'static, Result<T, Status>> {
    stream::iter(items).chain(stream::pending()).boxed()
}

#[tonic::async_trait]
impl TaskService for Service {
    type WatchTaskStream = BoxStream<'static, Result<WatchTaskResponse, Status>>;
    type WatchTasksStream = BoxStream<'static, Result<WatchTasksResponse, Status>>;
    type TailLogsStream = BoxStream<'static, Result<TailLogsResponse, Status>>;

    async fn submit_task(&self, r: Request<SubmitTaskRequest>) -> Result<Response<SubmitTaskResponse>, Status> {
        let request = self.note(r);
        self.0.submitted.lock().unwrap().push(request);
        next(&self.0.submit).await
    }

    async fn submit_tasks(&self, r: Request<SubmitTasksRequest>) -> Result<Response<SubmitTasksResponse>, Status> {
        let request = self.note(r);
        self.0.batches.lock().unwrap().push(request);
        next(&self.0.submit_many).await
    }

    async fn get_task(&self, r: Request<GetTaskRequest>) -> Result<Response<GetTaskResponse>, Status> {
        let task = Task { id: self.note(r).task_id, attempt: 1, ..Default::default() };
        Ok(Response::new(GetTaskResponse { task: Some(task), revision: None }))
    }

    async fn list_tasks(&self, _: Request<ListTasksRequest>) -> Result<Response<ListTasksResponse>, Status> {
        next(&self.0.list).await
    }

    async fn cancel_task(&self, _: Request<CancelTaskRequest>) -> Result<Response<CancelTaskResponse>, Status> {
        Err(Status::unimplemented("not in the script"))
    }

    async fn watch_task(&self, _: Request<WatchTaskRequest>) -> Result<Response<Self::WatchTaskStream>, Status> {
        let items = next(&self.0.watch).await?.into_inner();
        let items = items.into_iter().map(|event| event.map(|e| WatchTaskResponse { event: Some(e) }));
        Ok(Response::new(open(items.collect())))
    }

    async fn watch_tasks(&self, _: Request<WatchTasksRequest>) -> Result<Response<Self::WatchTasksStream>, Status> {
        let items = next(&self.0.watch).await?.into_inner();
        let items = items.into_iter().map(|event| event.map(|e| WatchTasksResponse { event: Some(e) }));
        Ok(Response::new(open(items.collect())))
    }

    async fn provide_input(&self, r: Request<ProvideInputRequest>) -> Result<Response<ProvideInputResponse>, Status> {
        let request = self.note(r);
        self.0.inputs.lock().unwrap().push(request);
        next(&self.0.input).await
    }

    async fn wait_task(&self, r: Request<WaitTaskRequest>) -> Result<Response<WaitTaskResponse>, Status> {
        let request = self.note(r);
        self.0.waits.lock().unwrap().push(request);
        next(&self.0.wait).await
    }

    async fn tail_logs(&self, _: Request<TailLogsRequest>) -> Result<Response<Self::TailLogsStream>, Status> {
        let items = next(&self.0.logs).await?.into_inner();
        let ends = items.is_empty() || items.iter().all(Result::is_ok);
        let items = stream::iter(items);
        Ok(Response::new(if ends { items.boxed() } else { items.chain(stream::pending()).boxed() }))
    }
}
