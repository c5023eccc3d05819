"""The audit log: chained per namespace, in the commit that collects; refusals coalesced and bounded."""

from typing import Any

from meshd.domain.access import ANONYMOUS, Principal
from meshd.domain.audit import verify
from meshd.domain.values import AgentType
from meshd.engine.audit import MAX_PENDING_DENIALS
from tests.auth_world import World

BLUE = Principal("agent", "agent:blue/w", "blue", "w", AgentType.WORKER, expire_ms=1)


def of(world: World, namespace: str) -> Any:
    return [record for record in world.writes.audit if record.namespace == namespace]


def test_chains_are_apart_and_survive_a_restart(world: World) -> None:
    for number in range(3):
        call = world.call(BLUE)
        world.audit.record(call, namespace="blue", object=f"task:{number}")
        assert call.audited
        world.audit.record(world.call(), namespace="")
    again = world.restart()
    again.audit.record(again.call(BLUE), namespace="blue", count=7, object_digest=b"d" * 32, words="because")
    records = of(world, "blue") + of(again, "blue")
    assert [record.sequence for record in records] == [1, 2, 3, 4]
    assert verify(records) is None
    assert verify(of(world, "_mesh")) is None
    assert records[-1].count == 7
    assert records[-1].reason == "because"
    assert again.audit.head("blue") == (4, records[-1].hash)
    assert again.audit.head("red") == (0, bytes(32))


def test_denials_are_counted_and_written_once_per_interval(world: World) -> None:
    world.audit.flush_denials(100.0)
    for _ in range(500):
        world.audit.deny(world.call(BLUE, "SubmitTask"), "ACCESS_DENIED")
        world.audit.deny(world.call(ANONYMOUS, "SubmitTask"), "TOKEN_MISSING")
    assert not world.writes.audit
    world.audit.flush_denials(100.0)
    first = len(world.writes.audit)
    world.audit.deny(world.call(BLUE, "GetTask"), "ACCESS_DENIED")
    world.audit.flush_denials(105.0)
    assert len(world.writes.audit) == first
    world.audit.flush_denials(110.0)
    (blue, _) = of(world, "blue")
    assert (blue.subject, blue.method, blue.reason, blue.count, blue.allowed) == (
        "agent:blue/w",
        "SubmitTask",
        "ACCESS_DENIED",
        500,
        False,
    )
    assert blue.peer == "127.0.0.1", "a stolen token is told by where it is used from"
    (stranger,) = of(world, "_mesh")
    assert (stranger.subject, stranger.peer, stranger.count) == ("anonymous", "127.0.0.1", 500)
    assert verify(of(world, "blue")) is None


def test_a_refused_operator_leaves_the_namespace_it_was_about(world: World) -> None:
    eve = Principal("operator", "operator:eve", scope=("read:*",), expire_ms=1)
    for principal, named in ((eve, "blue"), (eve, "red"), (eve, "red"), (BLUE, "red"), (BLUE, "green")):
        call = world.call(principal, "SubmitTask")
        call.namespace = named
        world.audit.deny(call, "ACCESS_DENIED")
    world.audit.flush_denials(0.0, 0.0)
    assert [(record.object, record.count) for record in of(world, "_mesh")] == [
        ("namespace:blue", 1),
        ("namespace:red", 2),
    ]
    (blue,) = of(world, "blue")
    assert (blue.object, blue.count) == ("", 2)


def test_strangers_cannot_fill_memory_or_disk(world: World) -> None:
    for number in range(10 * MAX_PENDING_DENIALS):
        call = world.call(ANONYMOUS, "SubmitTask")
        call.peer = f"peer-{number}"
        world.audit.deny(call, "TOKEN_INVALID")
    world.audit.flush_denials(0.0, 0.0)
    assert len(world.writes.audit) == MAX_PENDING_DENIALS + 1
    assert sum(record.count for record in world.writes.audit) == 10 * MAX_PENDING_DENIALS
    assert verify(of(world, "_mesh")) is None
