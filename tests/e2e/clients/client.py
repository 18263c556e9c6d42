"""A client of Hive that has no .proto files: `client.py HOST:PORT`.

Everything it knows of hive.v1 comes from the server's reflection (v1alpha); messages are built from
the descriptors as it goes. Prints "all well" and exits 0 if the answers are what they ought to be.
"""

import sys
import time

import grpc
from google.protobuf import descriptor_pool, message_factory
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

DEADLINE = 30


class Hive:
    """Methods by name; requests are given as keyword arguments."""

    def __init__(self, channel):
        self.channel = channel
        self.reflection = ProtoReflectionDescriptorDatabase(channel)
        self.pool = descriptor_pool.DescriptorPool(self.reflection)

    def message(self, name, **fields):
        return message_factory.GetMessageClass(self.pool.FindMessageTypeByName(name))(**fields)

    def call(self, path, **fields):
        service, name = path.split("/")
        method = self.pool.FindServiceByName(service).FindMethodByName(name)
        request = message_factory.GetMessageClass(method.input_type)(**fields)
        answer = message_factory.GetMessageClass(method.output_type)
        kind = self.channel.unary_stream if method.server_streaming else self.channel.unary_unary
        stub = kind(f"/{path}", request_serializer=type(request).SerializeToString, response_deserializer=answer.FromString)
        return stub(request, timeout=DEADLINE)

    def enum(self, name, number):
        return self.pool.FindEnumTypeByName(name).values_by_number[number].name


def refusal(call):
    """The code and the details of a call that must be refused, the details by type."""
    try:
        answer = call()
    except grpc.RpcError as error:
        trailers = {key: value for key, value in error.trailing_metadata()}
        status = status_pb2.Status.FromString(trailers["grpc-status-details-bin"])
        assert status.code == error.code().value[0], (status.code, error.code())
        known = [error_details_pb2.ErrorInfo, error_details_pb2.BadRequest, error_details_pb2.RetryInfo]
        details = {}
        for any_detail in status.details:
            for kind in known:
                if any_detail.Is(kind.DESCRIPTOR):
                    details[kind.__name__] = kind.FromString(any_detail.value)
        info = details["ErrorInfo"]
        assert info.domain == "hive", info
        return error.code(), info.reason, details
    raise AssertionError(f"not refused: {answer}")


def main(address):
    channel = grpc.insecure_channel(address)
    hive = Hive(channel)

    services = set(hive.reflection.get_services())
    wanted = {"hive.v1.TaskService", "hive.v1.AgentService", "hive.v1.ClusterService", "hive.sidecar.v1.SidecarService"}
    assert wanted <= services, services
    assert not any(name.startswith(("hive.store", "hive.agent.v1")) for name in services), services
    methods = {m.name for m in hive.pool.FindServiceByName("hive.v1.TaskService").methods}
    assert {"SubmitTask", "WaitTask", "WatchTask", "TailLogs"} <= methods, methods

    health = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=DEADLINE)
    assert health.status == health_pb2.HealthCheckResponse.SERVING, health

    # Submit, and find it again under its id.
    payload = hive.message("hive.v1.Payload", data=b"hive", content_type="text/plain")
    spec = hive.message("hive.v1.TaskSpec", capabilities=["shout"], payload=payload, labels={"from": "python"})
    task = hive.call("hive.v1.TaskService/SubmitTask", spec=spec).task
    again = hive.call("hive.v1.TaskService/SubmitTask", task_id=task.id, spec=spec)
    assert again.duplicate and again.task.id == task.id, again

    # Watch to the end, then wait for what has come already.
    kinds, last = [], None
    for answer in hive.call("hive.v1.TaskService/WatchTask", task_id=task.id):
        kinds.append(hive.enum("hive.v1.TaskEventKind", answer.event.kind))
        last = answer.event.task if answer.event.HasField("task") else last
    assert kinds[0] == "TASK_EVENT_KIND_SNAPSHOT", kinds
    assert hive.enum("hive.v1.TaskState", last.state) == "TASK_STATE_SUCCEEDED", last
    waited = hive.call("hive.v1.TaskService/WaitTask", task_id=task.id)
    assert waited.done and waited.task.result.data == b"HIVE", waited

    # List by label, two to a page.
    ids = {task.id}
    for _ in range(4):
        ids.add(hive.call("hive.v1.TaskService/SubmitTask", spec=spec).task.id)
    task_filter = hive.message("hive.v1.TaskFilter", labels={"from": "python"})
    listed, token = set(), ""
    while True:
        page = hive.call("hive.v1.TaskService/ListTasks", filter=task_filter, page_size=2, page_token=token)
        assert len(page.tasks) <= 2, page
        listed |= {t.id for t in page.tasks}
        token = page.next_page_token
        if not token:
            break
    assert listed == ids, (listed, ids)
    agents = hive.call("hive.v1.AgentService/ListAgents").agents
    assert [agent.id for agent in agents] == ["shouter"], agents
    status = hive.call("hive.v1.ClusterService/GetStatus")
    assert status.connected_sidecars == 1 and status.store.kind == "embedded", status

    # Refusals, with their details.
    code, reason, details = refusal(lambda: hive.call("hive.v1.TaskService/SubmitTask"))
    assert (code, reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD"), (code, reason)
    assert details["BadRequest"].field_violations[0].field == "spec", details
    code, reason, _ = refusal(lambda: hive.call("hive.v1.TaskService/CancelTask", task_id=task.id))
    assert (code, reason) == (grpc.StatusCode.FAILED_PRECONDITION, "TASK_TERMINAL"), (code, reason)
    code, reason, details = refusal(
        lambda: hive.call(
            "hive.v1.TaskService/GetTask",
            task_id=task.id,
            min_revision=hive.message("hive.v1.Revision", cluster_generation=9),
        )
    )
    assert (code, reason) == (grpc.StatusCode.UNAVAILABLE, "REVISION_TOO_NEW"), (code, reason)
    assert details["RetryInfo"].retry_delay.ToTimedelta().total_seconds() > 0, details
    ahead = int((time.time() + 600) * 1000)
    future = f"{ahead:012x}"
    future_id = f"{future[:8]}-{future[8:]}-7000-8000-000000000000"
    code, reason, details = refusal(lambda: hive.call("hive.v1.TaskService/SubmitTask", task_id=future_id, spec=spec))
    assert (code, reason) == (grpc.StatusCode.FAILED_PRECONDITION, "TASK_ID_IN_FUTURE"), (code, reason)
    assert abs(int(details["ErrorInfo"].metadata["cluster_time_ms"]) / 1000 - time.time()) < 60, details

    print("all well")


if __name__ == "__main__":
    main(sys.argv[1])
