//! What surrounds every call.

use hive_control_plane::server::Routes;
use hive_proto::v1::task_service_client::TaskServiceClient;
use hive_proto::v1::{GetTaskRequest, WatchTasksRequest};
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_types::StatusExt as _;

use super::support::{Server, Stub, eventually, reason, within};

macro_rules! list {
    ($version:ident, $channel:expr) => {{
        use tonic_reflection::pb::$version::ServerReflectionRequest;
        use tonic_reflection::pb::$version::server_reflection_client::ServerReflectionClient;
        use tonic_reflection::pb::$version::server_reflection_request::MessageRequest;
        use tonic_reflection::pb::$version::server_reflection_response::MessageResponse;
        let mut client = ServerReflectionClient::new($channel);
        let ask = |message| ServerReflectionRequest { message_request: Some(message), ..Default::default() };
        let asked = [
            ask(MessageRequest::ListServices(String::new())),
            ask(MessageRequest::FileContainingSymbol("hive.v1.TaskService.SubmitTask".to_owned())),
        ];
        let mut answers =
            client.server_reflection_info(tokio_stream::iter(asked)).await.expect("reflection").into_inner();
        let mut next =
            async || within("an answer", answers.message()).await.map(|a| a.and_then(|a| a.message_response));
        let Ok(Some(MessageResponse::ListServicesResponse(list))) = next().await else { panic!("no list") };
        let described = match next().await {
            Ok(Some(MessageResponse::FileDescriptorResponse(files))) => !files.file_descriptor_proto.is_empty(),
            Ok(other) => panic!("{other:?}"),
            Err(status) => {
                assert_eq!(status.code(), Code::NotFound);
                false
            }
        };
        let mut names: Vec<_> = list.service.into_iter().map(|service| service.name).collect();
        names.sort();
        (names, described)
    }};
}

#[tokio::test]
async fn reflection_of_both_versions_lists_exactly_what_is_served() {
    let server = Server::with(&[], Routes::of_hive().with_service(Stub::Hangs));
    let served =
        |itself: &str| vec!["grpc.health.v1.Health".to_owned(), itself.to_owned(), "hive.v1.TaskService".to_owned()];
    let (names, described) = list!(v1, server.channel().await);
    assert_eq!(names, served("grpc.reflection.v1.ServerReflection"));
    assert!(described);
    let (names, described) = list!(v1alpha, server.channel().await);
    assert_eq!(names, served("grpc.reflection.v1alpha.ServerReflection"));
    assert!(described);
    let (names, described) = list!(v1, super::support::channel(server.ops).await);
    assert_eq!(names, ["grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection"]);
    assert!(!described, "the ops port serves nothing of hive.v1");
}

#[tokio::test]
async fn reflection_can_be_switched_off() {
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    let server = Server::start(&[("HIVE_REFLECTION", "false")]);
    let refused =
        ServerReflectionClient::new(server.channel().await).server_reflection_info(tokio_stream::empty()).await;
    let refused = refused.expect_err("refused");
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::Unimplemented, "METHOD_UNKNOWN"));
}

#[tokio::test]
async fn health_tells_readiness_by_service() {
    let server = Server::with(&[], Routes::of_hive().with_service(Stub::Hangs));
    for channel in [server.channel().await, super::support::channel(server.ops).await] {
        let mut client = HealthClient::new(channel);
        for service in ["", "readiness", "liveness", "hive.v1.TaskService"] {
            let service = service.to_owned();
            let checked = client.check(HealthCheckRequest { service }).await.expect("checked").into_inner();
            assert_eq!(checked.status(), ServingStatus::Serving);
        }
        let unknown = client.check(HealthCheckRequest { service: "nobody".to_owned() }).await;
        assert_eq!(unknown.expect_err("unknown").code(), Code::NotFound);
    }
}

#[tokio::test]
async fn a_service_that_is_not_served_is_unknown() {
    let server = Server::start(&[]);
    let refused = TaskServiceClient::new(server.channel().await).get_task(GetTaskRequest::default()).await;
    let refused = refused.expect_err("refused");
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::Unimplemented, "METHOD_UNKNOWN"));
    let page = server.page("/metrics").await;
    assert!(
        page.contains("hive_grpc_server_handled_total{service=\"other\",method=\"other\",code=\"UNIMPLEMENTED\"}"),
        "{page}"
    );
}

#[tokio::test]
async fn a_call_that_brings_no_deadline_gets_one() {
    let server = Server::with(&[("HIVE_LIMITS__CALL_DEADLINE", "1s")], Routes::of_hive().with_service(Stub::Hangs));
    let mut client = TaskServiceClient::new(server.channel().await);
    let refused = within("the deadline", client.get_task(GetTaskRequest::default())).await.expect_err("refused");
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::DeadlineExceeded, "DEADLINE"));
}

#[tokio::test]
async fn a_panic_is_internal_and_says_nothing() {
    let server = Server::with(&[], Routes::of_hive().with_service(Stub::Panics));
    let mut client = TaskServiceClient::new(server.channel().await);
    let refused = client.get_task(GetTaskRequest::default()).await.expect_err("refused");
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::Internal, "INTERNAL"));
    assert!(!format!("{refused:?}").contains("secret"), "{refused:?}");
    let again = client.get_task(GetTaskRequest::default()).await.expect_err("refused");
    assert_eq!(again.code(), Code::Internal, "the connection lives on");
}

#[tokio::test]
#[expect(clippy::disallowed_methods, reason = "a call beside the test")]
async fn more_calls_than_may_be_are_refused_with_a_delay() {
    let server = Server::with(&[("HIVE_LIMITS__CALLS", "1")], Routes::of_hive().with_service(Stub::Hangs));
    let mut client = TaskServiceClient::new(server.channel().await);
    let mut first = client.clone();
    let first = tokio::spawn(async move { first.get_task(GetTaskRequest::default()).await });
    eventually("the first call", || async {
        let page = server.page("/metrics").await;
        page.contains("hive_grpc_server_in_flight{service=\"hive.v1.TaskService\",method=\"GetTask\"} 1").then_some(())
    })
    .await;
    let refused = within("the refusal", client.get_task(GetTaskRequest::default())).await.expect_err("refused");
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::ResourceExhausted, "OVERLOADED"));
    assert!(refused.get_error_details().retry_info().is_some());
    // Streams are not calls with one answer.
    let stream = Server::with(&[("HIVE_LIMITS__CALLS", "1")], Routes::of_hive().with_service(Stub::Streams));
    let mut client = TaskServiceClient::new(stream.channel().await);
    let _one = client.watch_tasks(WatchTasksRequest::default()).await.expect("one");
    let _two = client.watch_tasks(WatchTasksRequest::default()).await.expect("two");
    first.abort();
}

#[tokio::test]
async fn a_stream_ends_at_the_deadline_its_caller_set() {
    let server = Server::with(&[], Routes::of_hive().with_service(Stub::Streams));
    let mut client = TaskServiceClient::new(server.channel().await);
    let mut request = tonic::Request::new(WatchTasksRequest::default());
    request.set_timeout(std::time::Duration::from_secs(1));
    let mut watch = client.watch_tasks(request).await.expect("watch").into_inner();
    let ended = within("the deadline", watch.message()).await.expect_err("ended");
    assert_eq!((ended.code(), reason(&ended).as_str()), (Code::DeadlineExceeded, "DEADLINE"));
}

#[tokio::test]
async fn requests_that_are_too_large_or_no_messages_get_a_reason() {
    let server = Server::start(&[]);
    let large = HealthCheckRequest { service: "x".repeat(5 << 20) };
    let refused = HealthClient::new(server.channel().await).check(large).await.expect_err("refused");
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::ResourceExhausted, "MESSAGE_TOO_LARGE"));

    // A number where the service expects text.
    let other = tonic::Request::new(prost_types::Duration { seconds: 5, nanos: 0 });
    let mut client = tonic::client::Grpc::new(server.channel().await);
    client.ready().await.expect("ready");
    let codec = tonic_prost::ProstCodec::<prost_types::Duration, tonic_health::pb::HealthCheckResponse>::default();
    let path = http::uri::PathAndQuery::from_static("/grpc.health.v1.Health/Check");
    let refused = client.unary(other, path, codec).await.expect_err("refused");
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::InvalidArgument, "MESSAGE_MALFORMED"));
}
