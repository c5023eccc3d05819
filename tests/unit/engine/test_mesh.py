"""The engine around the domain: its clock, its end, what it keeps, and a domain that breaks its own rules."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest

from meshd.domain import state as state_module
from meshd.domain.access import ANONYMOUS, AccessRule, Action, Call, Scope
from meshd.domain.commands import Cancel, Deregister, Frames, OpenStream, Submit
from meshd.domain.effects import Effects
from meshd.domain.errors import Reason, Refusal
from meshd.domain.frames import Assign, Beat, Feature, Opened
from meshd.domain.limits import SessionRules
from meshd.domain.machine import handle
from meshd.domain.state import Namespace
from meshd.domain.values import (
    Agent,
    AgentSpec,
    AgentType,
    Health,
    Now,
    Requirements,
    Session,
    TaskSpec,
    TaskState,
    requirements_for,
)
from meshd.engine import commits as commits_module
from meshd.engine import mesh as mesh_module
from meshd.engine import sweep as sweep_module
from meshd.engine.mesh import Entry, Mesh
from meshd.engine.streams import AgentStream
from meshd.ops.metrics import Metrics
from meshd.ports.store import AuditFilter, StorageError, Store
from meshd.store.sqlite import SqliteStore

pytestmark = pytest.mark.anyio


@pytest.fixture
def failures() -> list[StorageError]:
    return []


@pytest.fixture
async def mesh(tmp_path: Path, failures: list[StorageError]) -> AsyncIterator[Mesh]:
    """A mesh just built, to which one agent may return."""
    store = SqliteStore(tmp_path, 1)
    restored = store.load()
    agent = Agent("default", AgentSpec("a", AgentType.WORKER), 0, Health.HEALTHY, 0, "")
    agent.session = Session("s1", agent, b"", b"", 1, 0)
    restored.agents.append(agent)
    mesh = Mesh(store, restored, SessionRules(), Metrics(), failures.append)
    yield mesh
    mesh.closing = True
    mesh._sweep.stop()
    await mesh.commits.close()
    store.close()


async def test_the_hold_and_the_pauses_count_from_the_beginning(
    mesh: Mesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    listening = mesh._clock().mono + 1_000.0
    monkeypatch.setattr(mesh, "_clock", lambda: Now(listening, 0))
    mesh.begin()
    mesh._sweep.begin()
    (session,) = mesh.sessions()
    assert session.last_seen_mono + session.lease.ttl_ms / 1000 == mesh.fleet.hold_until_mono
    assert mesh.fleet.hold_until_mono == listening + SessionRules().hold_min_ms / 1000


async def test_a_pause_of_meshd_costs_neither_a_lease_nor_the_time_to_accept(
    mesh: Mesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    mesh.begin()
    ns = mesh.namespaces["default"]
    (session,) = mesh.sessions()
    seen_mono, now_mono = session.last_seen_mono, mesh._clock().mono
    ns.accept_due.append((now_mono + 1.0, session, object(), []))
    monkeypatch.setattr(mesh, "_clock", lambda: Now(now_mono + 6.0, 0))
    mesh._turn()
    assert session.last_seen_mono > seen_mono + 5.0
    assert session.session_id in ns.sessions
    assert [due_mono > now_mono + 6.0 for due_mono, *_ in ns.accept_due] == [True]


async def test_a_sweep_that_breaks_a_rule_stops_the_daemon_once(
    mesh: Mesh, failures: list[StorageError], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise KeyError("a rule")

    monkeypatch.setattr(mesh_module, "expire", broken)
    mesh._sweep.begin()
    mesh._sweep.begin()
    assert ["in doubt" in str(failure) for failure in failures] == [True]
    assert mesh.commits.failed


async def test_who_waits_is_told_when_a_step_breaks_a_rule(
    mesh: Mesh, failures: list[StorageError], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise KeyError("a rule")

    ns = mesh.namespaces["default"]
    monkeypatch.setattr(mesh_module, "handle", broken)
    asked: list[asyncio.Future[Any]] = [asyncio.ensure_future(mesh.turned())]
    asked += [asyncio.ensure_future(mesh.ask(ns, partial(submission, name))) for name in ("one", "two")]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    asked.append(asyncio.ensure_future(mesh.ask(ns, partial(submission, "late"))))
    async with asyncio.timeout(10):
        told = await asyncio.gather(*asked, return_exceptions=True)
    reasons = [each.reason if isinstance(each, Refusal) else each for each in told]
    refused = Reason.SHUTTING_DOWN
    assert reasons == [None, refused, refused, refused]
    assert len(failures) == 1


@pytest.mark.parametrize("broken_part", ["hub.tell", "observer.submitted", "the entry"])
async def test_a_change_that_fails_after_the_step_of_the_domain_is_not_kept_without_its_record(
    mesh: Mesh, failures: list[StorageError], monkeypatch: pytest.MonkeyPatch, broken_part: str
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise KeyError("a bug")

    ns = mesh.namespaces["default"]
    entry = Entry(Call(ANONYMOUS, "SubmitTask", "", AccessRule(Action.WRITE, "tasks", Scope.NAMESPACE)))
    mesh.hub.add(1, "operator:local")  # Somebody watches something.
    if broken_part == "the entry":
        entry.object = cast("str", 7)
    else:
        part, method = broken_part.split(".")
        monkeypatch.setattr(getattr(mesh, part), method, broken)
    async with asyncio.timeout(10):
        with pytest.raises(Refusal) as refused:
            await mesh.ask(ns, partial(submission, "t1"), entry)
        await mesh.shutdown()
    assert refused.value.reason is Reason.SHUTTING_DOWN
    assert ["in doubt" in str(failure) for failure in failures] == [True]
    assert mesh.store.get_task("default", "t1") is None


async def test_what_waits_for_its_turn_when_the_storage_fails_is_told(mesh: Mesh) -> None:
    ns = mesh.namespaces["default"]
    asked = asyncio.ensure_future(mesh.ask(ns, partial(submission, "one")))
    await asyncio.sleep(0)
    mesh.commits.fail(StorageError("the disk failed"))
    async with asyncio.timeout(10):
        with pytest.raises(Refusal) as refused:
            await asked
    assert refused.value.reason is Reason.SHUTTING_DOWN
    assert "one" not in ns.tasks


def silent_session(mesh: Mesh, agent_id: str) -> Session:
    """A session whose connection broke long ago and of which nothing was heard since."""
    ns = mesh.namespaces["default"]
    agent = Agent("default", AgentSpec(agent_id, AgentType.WORKER), 0, Health.HEALTHY, 0, "")
    session = Session(agent_id, agent, b"", b"", 1, 0, lease=mesh.fleet.lease, broken_mono=1.0)
    agent.session = session
    ns.add_agent(agent)
    ns.sessions[agent_id] = session
    return session


async def test_a_sweep_of_many_sessions_leaves_others_their_turn_and_judges_them_together(
    mesh: Mesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twenty that are silent for too long look like a stall of meshd itself, if they are seen together."""
    monkeypatch.setattr(sweep_module, "LOOKED_AT_ONCE", 3)
    for number in range(20):
        silent_session(mesh, f"b{number}")
    mesh._sweep.stop()
    mesh._sweep.begin()
    for _ in range(6):
        assert mesh.fleet.brake_until_mono == 0.0
        await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert mesh.fleet.brake_until_mono > 0.0
    assert len(mesh.namespaces["default"].sessions) == 21


async def test_a_session_that_ends_while_others_are_looked_at_is_not_ended_again(
    mesh: Mesh, failures: list[StorageError], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep_module, "LOOKED_AT_ONCE", 1)
    leaving = [silent_session(mesh, f"b{number}") for number in range(5)][1]
    mesh._sweep.stop()
    mesh._sweep.begin()
    await asyncio.sleep(0)
    await mesh.ask(mesh.namespaces["default"], lambda ticket: Deregister(ticket, "b1", "b1"))
    for _ in range(5):
        await asyncio.sleep(0)
    assert leaving.agent.health is Health.DECLARED
    assert list(mesh.namespaces["default"].sessions) == ["s1"]
    assert not failures


async def test_a_sweep_suspects_a_session_whose_beat_is_late(mesh: Mesh) -> None:
    late, punctual = silent_session(mesh, "late"), silent_session(mesh, "punctual")
    now_mono = mesh._clock().mono
    for session, silence_s in ((late, 3.0), (punctual, 1.0)):
        session.stream, session.broken_mono = object(), 0.0
        session.last_seen_mono = now_mono - silence_s
    mesh._sweep.stop()
    mesh._sweep.begin()
    assert (late.agent.health, punctual.agent.health) == (Health.SUSPECT, Health.HEALTHY)


async def test_a_beat_that_waits_for_its_turn_keeps_its_lease(
    mesh: Mesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Frames wait for a commit that is being written for longer than what is left of a lease."""
    monkeypatch.setattr(mesh_module, "LONGEST_WAIT_S", 1_000.0)
    mesh._sweep.stop()
    ns = mesh.namespaces["default"]
    session, stream, leaving = silent_session(mesh, "a1"), AgentStream(ns), silent_session(mesh, "a2")
    session.stream, session.broken_mono, session.told = stream, 0.0, session.lease
    session.last_seen_mono = mesh._clock().mono - 1_000.0
    held = HeldStore(mesh.store)
    monkeypatch.setattr(mesh.commits, "_store", held)
    asked = asyncio.ensure_future(mesh.ask(ns, partial(submission, "first")))
    assert await asyncio.to_thread(held.begun.wait, 30)
    mesh.post(ns, Frames(session, stream, [Beat(1)]))
    mesh.post(ns, Deregister(None, "a2", "a2"))
    mesh._sweep.begin()
    held.go.set()
    await asked
    assert set(ns.sessions) == {"s1", "a1"}
    assert (session.agent.health, leaving.agent.health) == (Health.HEALTHY, Health.DECLARED)


class HeldStore:
    """Holds each commit until it is let go; everything else is the real store's."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.begun = threading.Event()
        self.go = threading.Event()

    def commit(self, batch: Any) -> None:
        self.begun.set()
        assert self.go.wait(30)
        self._store.commit(batch)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


def submission(task_id: str, ticket: object, payload: bytes = b"") -> Submit:
    spec = TaskSpec(task_id, "echo", payload, task_id.encode(), requirements_for("echo"))
    return Submit(ticket, [spec], "one", {}, 0, False)


async def turns_beside_a_commit(
    mesh: Mesh, monkeypatch: pytest.MonkeyPatch, handled_before_its_end: int
) -> list[int]:
    """Hold a commit, post three commands, each in a turn of the loop of its own, wait until so many are handled.

    Let the commit go on and return how many commands each turn of the mesh handled.
    """
    ns = mesh.namespaces["default"]
    held = HeldStore(mesh.store)
    monkeypatch.setattr(mesh.commits, "_store", held)

    asked = [asyncio.ensure_future(mesh.ask(ns, partial(submission, "first")))]
    assert await asyncio.to_thread(held.begun.wait, 30)
    sizes: list[int] = []

    def counted(ns: Namespace, batch: list[Any], now: Now, out: Effects) -> None:
        sizes.append(len(batch))
        handle(ns, batch, now, out)

    monkeypatch.setattr(mesh_module, "handle", counted)
    for n in range(3):
        asked.append(asyncio.ensure_future(mesh.ask(ns, partial(submission, f"later-{n}"))))
        for _ in range(5):
            await asyncio.sleep(0)
    try:
        async with asyncio.timeout(10):
            # What is awaited has no event: turns of the mesh, which run in the loop's own.
            while sum(sizes) < handled_before_its_end:  # noqa: ASYNC110
                await asyncio.sleep(0)
        assert sum(sizes) == handled_before_its_end
    finally:
        held.go.set()
    await asyncio.gather(*asked)
    return [size for size in sizes if size]


async def test_what_comes_while_a_commit_is_written_shares_one_turn(
    mesh: Mesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mesh_module, "LONGEST_WAIT_S", 1_000.0)
    assert await turns_beside_a_commit(mesh, monkeypatch, 0) == [3]


async def test_a_turn_does_not_wait_long_for_a_commit(mesh: Mesh, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mesh_module, "LONGEST_WAIT_S", 0.0)
    assert sum(await turns_beside_a_commit(mesh, monkeypatch, 3)) == 3


async def test_what_leaves_together_with_opened_must_be_accepted_in_time_too(mesh: Mesh) -> None:
    mesh.begin()
    ns = mesh.namespaces["default"]
    stream = AgentStream(ns)
    features = frozenset({int(Feature.ACCEPT)})
    spec = TaskSpec("t1", "work", b"", b"", Requirements(frozenset()))
    answers = [asyncio.get_running_loop().create_future() for _ in range(2)]
    # In one turn: the task is assigned to the stream that opens, and both leave with one commit.
    mesh.post(ns, Submit(answers[0], [spec], "operator:test", {}, 0, False))
    mesh.post(ns, OpenStream(answers[1], stream, "a", "s1", b"", 1, True, features, None, []))
    await asyncio.gather(*answers)
    kinds = [type(frame) for frame in await stream.take()]
    assert kinds == [Opened, Assign]
    assert [due[2] for due in ns.accept_due] == [stream]


async def test_who_gave_up_waiting_for_a_disk_that_lags_behind_leaves_nothing(
    mesh: Mesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mesh_module, "LONGEST_WAIT_S", 0.0)
    monkeypatch.setattr(commits_module, "MAX_UNCOMMITTED_AGE_S", -1.0)
    mesh._sweep.stop()
    ns = mesh.namespaces["default"]
    held = HeldStore(mesh.store)
    monkeypatch.setattr(mesh.commits, "_store", held)
    first = asyncio.ensure_future(mesh.ask(ns, partial(submission, "first")))
    assert await asyncio.to_thread(held.begun.wait, 30)
    late = [asyncio.ensure_future(mesh.ask(ns, partial(submission, f"t{number}"))) for number in range(2)]
    late += [asyncio.ensure_future(mesh.commits.settled()) for _ in range(2)]
    await asyncio.sleep(0)
    mesh._turn()
    for each in (late[0], late[2]):
        each.cancel()
    mesh.audit.deny(Call(ANONYMOUS, "GetTask", "", AccessRule(Action.READ, "tasks", Scope.NAMESPACE)), "no")
    mesh._sweep.begin()
    assert len(mesh.commits.effects.replies) == 2
    assert not mesh.commits.writes.audit
    held.go.set()
    async with asyncio.timeout(10):
        await asyncio.gather(first, late[1], late[3])
        monkeypatch.setattr(commits_module, "MAX_UNCOMMITTED_AGE_S", 1_000.0)
        mesh._sweep.begin()
        await mesh.commits.settled()
    assert mesh.audit.head("_mesh")[0] == 1


async def test_what_waits_for_a_commit_at_the_end_is_still_answered(
    mesh: Mesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mesh_module, "LONGEST_WAIT_S", 1_000.0)
    ns = mesh.namespaces["default"]
    held = HeldStore(mesh.store)
    monkeypatch.setattr(mesh.commits, "_store", held)
    asked = [asyncio.ensure_future(mesh.ask(ns, partial(submission, "first")))]
    assert await asyncio.to_thread(held.begun.wait, 30)
    asked.append(asyncio.ensure_future(mesh.ask(ns, partial(submission, "later"))))
    await asyncio.sleep(0)
    ending = asyncio.ensure_future(mesh.shutdown())
    await asyncio.sleep(0)
    held.go.set()
    async with asyncio.timeout(10):
        await asyncio.gather(ending, *asked)


@pytest.fixture
def ids_that_leave_memory(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Memory keeps the last two that ended; when these end together, the first is not among them."""
    for part in (state_module, mesh_module, commits_module):
        monkeypatch.setattr(part, "RECENT_TASKS", 2)
    return [f"t{number}" for number in range(5)]


async def end_all(mesh: Mesh, task_ids: list[str]) -> None:
    """End tasks in one turn, which is not durable yet."""
    for task_id in task_ids:
        mesh.post(mesh.namespaces["default"], Cancel(None, task_id, 0))
    await mesh.turned()


async def test_a_task_that_left_memory_before_its_end_is_durable_is_found_as_it_ended(
    mesh: Mesh, monkeypatch: pytest.MonkeyPatch, ids_that_leave_memory: list[str]
) -> None:
    ns = mesh.namespaces["default"]
    for task_id in ids_that_leave_memory:
        await mesh.ask(ns, partial(submission, task_id))
    held = HeldStore(mesh.store)
    monkeypatch.setattr(mesh.commits, "_store", held)
    await end_all(mesh, ids_that_leave_memory)

    async def read_at_once(read: Callable[..., Any], *args: Any) -> Any:
        return read(*args)

    monkeypatch.setattr(mesh.commits, "read", read_at_once)
    finding = asyncio.ensure_future(mesh.find_task(ns, "t0"))
    await asyncio.sleep(0)
    held.go.set()
    assert (await finding).state is TaskState.CANCELLED


async def test_a_task_of_long_ago_is_read_while_the_disk_hangs(
    mesh: Mesh, monkeypatch: pytest.MonkeyPatch, ids_that_leave_memory: list[str]
) -> None:
    ns = mesh.namespaces["default"]
    for task_id in ids_that_leave_memory:
        await mesh.ask(ns, partial(submission, task_id))
    await end_all(mesh, ids_that_leave_memory)
    await mesh.commits.settled()
    held = HeldStore(mesh.store)
    monkeypatch.setattr(mesh.commits, "_store", held)
    asked = asyncio.ensure_future(mesh.ask(ns, partial(submission, "new")))
    await asyncio.to_thread(held.begun.wait, 10)
    async with asyncio.timeout(10):
        assert (await mesh.find_task(ns, "t0")).state is TaskState.CANCELLED
    held.go.set()
    await asked


async def test_a_task_that_came_and_left_memory_while_it_was_looked_for_is_found(
    mesh: Mesh, monkeypatch: pytest.MonkeyPatch, ids_that_leave_memory: list[str]
) -> None:
    ns = mesh.namespaces["default"]

    async def read_slowly(read: Callable[..., Any], *args: Any) -> Any:
        found = read(*args)
        if not ns.ended_count:
            for task_id in ids_that_leave_memory:
                await mesh.ask(ns, partial(submission, task_id))
            await end_all(mesh, ids_that_leave_memory)
        return found

    monkeypatch.setattr(mesh.commits, "read", read_slowly)
    assert (await mesh.find_task(ns, "t0")).state is TaskState.CANCELLED


async def test_what_is_posted_twice_is_recorded_once(mesh: Mesh) -> None:
    ns = mesh.namespaces["default"]
    entry = Entry(Call(ANONYMOUS, "CancelTask", "", AccessRule(Action.WRITE, "tasks", Scope.NAMESPACE)))
    for _ in range(2):
        with pytest.raises(Refusal, match="no task"):
            await mesh.ask(ns, lambda ticket: Cancel(ticket, "t1", 0), entry)
    assert mesh.audit.head("default")[0] == 1


async def test_what_waits_for_its_turn_at_the_end_is_answered_and_what_comes_later_is_refused(
    mesh: Mesh,
) -> None:
    ns = mesh.namespaces["default"]
    asked = asyncio.ensure_future(mesh.ask(ns, partial(submission, "first")))
    await asyncio.sleep(0)
    async with asyncio.timeout(10):
        await mesh.shutdown()
        await asked
        with pytest.raises(Refusal) as refused:
            await mesh.ask(ns, partial(submission, "later"))
    assert refused.value.reason is Reason.SHUTTING_DOWN
    turns = mesh.turns
    mesh.post(ns, submission("later", None))
    await asyncio.sleep(0)
    assert mesh.turns == turns, "memory says no more than the disk"


@pytest.mark.parametrize("at_the_end", [False, True])
async def test_refusals_are_recorded_by_a_sweep_and_at_the_end(mesh: Mesh, at_the_end: bool) -> None:
    mesh.audit.flush_denials(mesh._clock().mono - 1_000.0)
    call = Call(ANONYMOUS, "SubmitTask", "", AccessRule(Action.WRITE, "tasks", Scope.NAMESPACE))
    mesh.audit.deny(call, "TOKEN_MISSING")
    if at_the_end:
        await mesh.shutdown()
        assert not mesh.commits.failed
    else:
        mesh._sweep.begin()
        await mesh.commits.settled()
    condition = AuditFilter(("_mesh",), denied_only=True)
    assert [record.reason for record in mesh.store.list_audit(condition).found] == ["TOKEN_MISSING"]


async def test_an_input_leaves_its_task_for_the_cache_once_it_is_in_a_row(mesh: Mesh) -> None:
    ns = mesh.namespaces["default"]
    await mesh.ask(ns, partial(submission, "t1", payload=b"in"))
    task = ns.tasks["t1"]
    assert task.spec.payload == b"", "a backlog of inputs stays on disk"
    assert await mesh.payload(task.key) == b"in"


async def test_a_task_that_comes_while_the_store_is_read_is_found(
    mesh: Mesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    ns = mesh.namespaces["default"]
    read = mesh.commits.read

    async def read_and_submit(*given: Any) -> Any:
        found = await read(*given)
        await mesh.ask(ns, partial(submission, "t1"))
        return found

    monkeypatch.setattr(mesh.commits, "read", read_and_submit)
    assert await mesh.find_task(ns, "t1") is ns.tasks["t1"]
