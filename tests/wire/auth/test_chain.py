"""The chain around calls of one answer: who calls, may they, was it audited, and what leaves on failure."""

import asyncio
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from agentmesh.v1 import scheduler_service_pb2 as pb
from agentmesh.v1 import scheduler_service_pb2_grpc as pb_grpc
from agentmesh.v1 import task_pb2
from meshd.domain.values import AgentType
from meshd.engine.authority import Target
from tests.wire.auth.conftest import House, bearer, failure

pytestmark = pytest.mark.anyio
CODE = grpc.StatusCode


async def test_the_local_operator_needs_no_token(house: House) -> None:
    stub = pb_grpc.SchedulerServiceStub(house.socket)
    await stub.GetTask(pb.GetTaskRequest(namespace="blue", task_id="t"))
    await stub.GetTask(pb.GetTaskRequest(task_id="t"))
    assert house.service.seen == [
        ("operator:local", "blue", "socket", "GetTask"),
        ("operator:local", "", "socket", "GetTask"),
    ]
    assert house.observer.calls == [("GetTask", "OK")] * 2


async def test_over_tcp_a_token_is_needed_and_nothing_is_parsed_before(house: House) -> None:
    stub = pb_grpc.SchedulerServiceStub(house.tcp)
    caught = await failure(stub.GetTask(pb.GetTaskRequest()))
    assert (caught.code, caught.reason) == (CODE.UNAUTHENTICATED, "TOKEN_MISSING")
    raw: Any = house.tcp.unary_unary("/agentmesh.v1.SchedulerService/GetTask")
    assert (await failure(raw(b"\xff\xff"))).reason == "TOKEN_MISSING"
    token = await house.token()
    caught = await failure(raw(b"\xff\xff", metadata=bearer(token)))
    assert (caught.code, caught.reason) == (CODE.INVALID_ARGUMENT, "INVALID_ARGUMENT")
    assert house.service.seen == []


async def test_a_token_names_its_agent_over_the_socket_too(house: House) -> None:
    token = await house.token()
    for channel in (house.tcp, house.socket):
        await pb_grpc.SchedulerServiceStub(channel).GetTask(pb.GetTaskRequest(), metadata=bearer(token))
    assert [seen[:3] for seen in house.service.seen] == [
        ("agent:blue/a-1", "blue", "127.0.0.1"),
        ("agent:blue/a-1", "blue", "socket"),
    ]


@pytest.mark.parametrize(
    "metadata",
    [
        (("authorization", ""),),
        (("authorization", "Bearer"),),
        (("authorization", "Bearer "),),
        (("authorization", "Basic dXNlcg=="),),
        (("authorization", "Bearer a.b.c"),),
        (("authorization", "Bearer " + "x" * 5_000),),
        (("authorization", "Bearer a"), ("authorization", "Bearer b")),
    ],
)
async def test_a_bad_token_never_falls_back_to_the_operator(house: House, metadata: Any) -> None:
    stub = pb_grpc.SchedulerServiceStub(house.socket)
    caught = await failure(stub.GetTask(pb.GetTaskRequest(), metadata=metadata))
    assert (caught.code, caught.reason) == (CODE.UNAUTHENTICATED, "TOKEN_INVALID")
    assert house.service.seen == []


async def test_of_two_good_tokens_neither_counts(house: House) -> None:
    both = [bearer(await house.token(agent_id=name))[0] for name in ("a-1", "a-2")]
    stub = pb_grpc.SchedulerServiceStub(house.tcp)
    caught = await failure(stub.GetTask(pb.GetTaskRequest(), metadata=tuple(both)))
    assert caught.reason == "TOKEN_INVALID"
    assert house.service.seen == []


async def test_no_field_reaches_another_namespace(house: House) -> None:
    token = await house.token()
    stub = pb_grpc.SchedulerServiceStub(house.tcp)
    for request, metadata in (
        (pb.GetTaskRequest(namespace="red"), ()),
        (pb.GetTaskRequest(namespace="_mesh"), ()),
        (pb.GetTaskRequest(), (("agentmesh-namespace", "red"),)),
        (pb.GetTaskRequest(namespace="blue"), (("agentmesh-namespace", "red"),)),
        (pb.GetTaskRequest(namespace="red"), (("agentmesh-namespace", "blue"),)),
    ):
        caught = await failure(stub.GetTask(request, metadata=bearer(token, *metadata)))
        assert (caught.code, caught.reason) == (CODE.PERMISSION_DENIED, "NAMESPACE_MISMATCH")
    await stub.GetTask(
        pb.GetTaskRequest(namespace="blue"), metadata=bearer(token, ("agentmesh-namespace", "blue"))
    )
    operator = pb_grpc.SchedulerServiceStub(house.socket)
    await operator.GetTask(pb.GetTaskRequest(), metadata=(("agentmesh-namespace", "red"),))
    assert house.service.seen[-1][1] == "red"
    crossed = operator.GetTask(
        pb.GetTaskRequest(namespace="blue"), metadata=(("agentmesh-namespace", "red"),)
    )
    assert (await failure(crossed)).reason == "NAMESPACE_MISMATCH"


async def test_the_table_is_asked(house: House) -> None:
    stub = pb_grpc.SchedulerServiceStub(house.tcp)
    for kind, reads, writes in (
        (AgentType.ORCHESTRATOR, True, True),
        (AgentType.WORKER, True, False),
        (AgentType.MONITOR, True, False),
        (AgentType.INTEGRATOR, False, False),
        (AgentType.GOVERNOR, False, False),
        (AgentType.CRITIC, False, False),
    ):
        metadata = bearer(await house.token(kind))
        for call, allowed in (
            (stub.GetTask(pb.GetTaskRequest(), metadata=metadata), reads),
            (stub.SubmitTask(pb.SubmitTaskRequest(), metadata=metadata), writes),
        ):
            if allowed:
                await call
            else:
                caught = await failure(call)
                assert (caught.code, caught.reason) == (CODE.PERMISSION_DENIED, "ACCESS_DENIED")


async def test_details_of_refusals(house: House) -> None:
    stub = pb_grpc.SchedulerServiceStub(house.socket)
    busy = await failure(stub.GetTask(pb.GetTaskRequest(namespace="blue", task_id="busy")))
    assert (busy.code, busy.reason, busy.metadata) == (CODE.RESOURCE_EXHAUSTED, "OVERLOADED", {"limit": "64"})
    assert busy.details[1].retry_delay.ToMilliseconds() == 1_500
    field = await failure(stub.GetTask(pb.GetTaskRequest(namespace="blue", task_id="field")))
    assert field.code is CODE.INVALID_ARGUMENT
    assert field.details[1].field_violations[0].field == "task_id"
    assert await house.observer.measured(2) == [
        ("GetTask", "RESOURCE_EXHAUSTED"),
        ("GetTask", "INVALID_ARGUMENT"),
    ]
    assert house.observer.refusals == ["OVERLOADED", "INVALID_ARGUMENT"]
    # Of the two only the second speaks of state and waits for it; a disk that lags behind must not delay the first.
    assert house.world.counting.settles == 1


async def test_a_refusal_that_speaks_of_state_which_will_never_be_durable_is_another_one(
    house: House,
) -> None:
    house.world.counting.failed = True
    stub = pb_grpc.SchedulerServiceStub(house.socket)
    caught = await failure(stub.GetTask(pb.GetTaskRequest(namespace="blue", task_id="field")))
    assert (caught.code, caught.reason) == (CODE.UNAVAILABLE, "SHUTTING_DOWN")


async def test_a_bug_shows_an_incident_and_nothing_else(house: House) -> None:
    stub = pb_grpc.SchedulerServiceStub(house.socket)
    caught = await failure(stub.GetTask(pb.GetTaskRequest(namespace="blue", task_id="secret")))
    assert (caught.code, caught.reason) == (CODE.INTERNAL, "INTERNAL")
    assert "12345" not in caught.text
    ((incident_id, method, error),) = house.incidents
    assert caught.metadata == {"incident": incident_id}
    assert incident_id in caught.text
    assert (method, str(error)) == ("GetTask", "the payload is 12345")
    assert await house.observer.measured(1) == [("GetTask", "INTERNAL")]


async def test_no_audited_call_returns_ok_without_its_record(house: House) -> None:
    stub = pb_grpc.SchedulerServiceStub(house.socket)
    await stub.SubmitTask(pb.SubmitTaskRequest(namespace="blue"))
    forgotten = pb.SubmitTaskRequest(namespace="blue", spec=task_pb2.TaskSpec(task_id="forgotten"))
    assert (await failure(stub.SubmitTask(forgotten))).code is CODE.INTERNAL
    assert "without an audit record" in str(house.incidents[0][2])


async def test_denials_are_counted(house: House) -> None:
    stub = pb_grpc.SchedulerServiceStub(house.tcp)
    metadata = bearer(await house.token(AgentType.MONITOR))
    for _ in range(3):
        await failure(stub.SubmitTask(pb.SubmitTaskRequest(), metadata=metadata))
        await failure(stub.SubmitTask(pb.SubmitTaskRequest()))
    house.world.writes.audit.clear()
    house.world.audit.flush_denials(0.0, 0.0)
    assert sorted((r.namespace, r.subject, r.peer, r.reason, r.count) for r in house.world.writes.audit) == [
        ("_mesh", "anonymous", "127.0.0.1", "TOKEN_MISSING", 3),
        ("blue", "agent:blue/a-1", "127.0.0.1", "ACCESS_DENIED", 3),
    ]


async def test_health_is_open_and_aborts_by_itself(house: House) -> None:
    stub: Any = health_pb2_grpc.HealthStub(house.tcp)
    answer = await stub.Check(health_pb2.HealthCheckRequest())
    assert answer.status == health_pb2.HealthCheckResponse.SERVING
    # An agent whose token ran out sends it along when it renews it.
    assert await stub.Check(health_pb2.HealthCheckRequest(), metadata=bearer("no token")) == answer
    watch = stub.Watch(health_pb2.HealthCheckRequest())
    assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
    watch.cancel()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Check(health_pb2.HealthCheckRequest(service="nothing"))
    assert caught.value.code() is CODE.NOT_FOUND
    assert ("Check", "NOT_FOUND") in await house.observer.measured(4)


async def test_unknown_methods(house: House) -> None:
    for path in (
        "/agentmesh.v1.SchedulerService/Nothing",
        "/no.Such/Method",
        "/grpc.reflection.v1.ServerReflection/X",
    ):
        raw: Any = house.socket.unary_unary(path)
        caught = await failure(raw(b""))
        assert (caught.code, caught.reason) == (CODE.UNIMPLEMENTED, "METHOD_NOT_FOUND")


async def test_a_long_wait_does_not_outlive_its_token(house: House) -> None:
    token = await house.token(AgentType.WORKER)
    call = pb_grpc.SchedulerServiceStub(house.tcp).WaitTask(pb.WaitTaskRequest(), metadata=bearer(token))
    await house.service.waiting.wait()
    await house.world.authority.revoke(house.world.call(), "blue", Target(agent_id="a-1"), "")
    house.service.release.set()
    caught = await failure(call)
    assert (caught.code, caught.reason) == (CODE.UNAUTHENTICATED, "TOKEN_REVOKED")


async def test_revoked_and_expired_tokens(house: House) -> None:
    stub = pb_grpc.SchedulerServiceStub(house.tcp)
    token = await house.token()
    await stub.GetTask(pb.GetTaskRequest(), metadata=bearer(token))
    await house.world.authority.revoke(house.world.call(), "blue", Target(token=token), "")
    assert (
        await failure(stub.GetTask(pb.GetTaskRequest(), metadata=bearer(token)))
    ).reason == "TOKEN_REVOKED"
    fresh = await house.token()
    house.world.now_ms += 3_600_000
    assert (
        await failure(stub.GetTask(pb.GetTaskRequest(), metadata=bearer(fresh)))
    ).reason == "TOKEN_EXPIRED"


async def test_a_client_that_gives_up_is_no_incident(house: House) -> None:
    call = pb_grpc.SchedulerServiceStub(house.socket).WaitTask(
        pb.WaitTaskRequest(namespace="blue"), timeout=0.2
    )
    with pytest.raises(grpc.aio.AioRpcError):
        await call
    for _ in range(100):
        if house.observer.calls:
            break
        await asyncio.sleep(0.01)
    assert house.observer.calls == [("WaitTask", "CANCELLED")]
    assert house.incidents == []


async def test_a_refused_operator_leaves_the_namespace_it_named(house: House) -> None:
    reader = bearer((await house.world.issue_operator("eve", scope=("read:*",))).value)
    stub = pb_grpc.SchedulerServiceStub(house.tcp)
    caught = await failure(stub.SubmitTask(pb.SubmitTaskRequest(namespace="blue"), metadata=reader))
    assert caught.reason == "ACCESS_DENIED"
    house.world.writes.audit.clear()
    house.world.audit.flush_denials(0.0, 0.0)
    (record,) = house.world.writes.audit
    assert (record.subject, record.object, record.allowed) == ("operator:eve", "namespace:blue", False)
