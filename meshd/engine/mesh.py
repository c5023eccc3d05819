"""The mesh in memory: namespaces with their mailboxes, timers and streams, around the pure machine.

Commands of one turn of the event loop, and those that come while a commit is written, are handled together: one dispatch,
one commit, one message per stream. Every reply leaves through the commit barrier.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from math import inf
from random import Random
from typing import Any

import structlog

from meshd.domain import commands as c
from meshd.domain.access import SYSTEM_NAMESPACE, Call
from meshd.domain.discovery import AgentFilter, TaskConditions
from meshd.domain.effects import Effects, Stream, Ticket
from meshd.domain.errors import Reason, Refusal
from meshd.domain.frames import Assign, DownFrame, Feature, GoAway, GoAwayReason
from meshd.domain.handlers.submit import task_not_found
from meshd.domain.limits import RECENT_TASKS, SessionRules
from meshd.domain.liveness import Fleet, pause_s
from meshd.domain.machine import expire, handle
from meshd.domain.records import Writes
from meshd.domain.state import Counter, Namespace
from meshd.domain.values import Agent, NamespaceInfo, Now, Session, Task
from meshd.engine import stages, sweep
from meshd.engine.audit import AuditLog, refused_in
from meshd.engine.byte_cache import ByteCache
from meshd.engine.commits import Commits, refuse_waiting, shutting_down, storage_failed
from meshd.engine.feeds import Encoding, Position, Watch
from meshd.engine.notices import Notices
from meshd.engine.restore import build, new_namespace
from meshd.engine.streams import AgentStream
from meshd.engine.task_steps import steps_of
from meshd.engine.watch import WatchHub
from meshd.ports.observer import Observer
from meshd.ports.store import Restored, StorageError, Store
from meshd.ports.task_steps import StepListener, TaskStep

TIMER_SLACK_S = 0.01
LONGEST_WAIT_S = 0.1
"""How long a turn waits for a commit that is being written: a disk that hangs holds up no lease, cancel or refusal."""

PAYLOAD_CACHE_BYTES = 64 * 1024 * 1024
OUTPUT_CACHE_BYTES = 32 * 1024 * 1024

log = structlog.get_logger()


class Entry:
    """What the audit log keeps of one command, once, however often that is posted; the ticket is of its reply."""

    __slots__ = ("call", "count", "digest", "object", "recorded", "ticket")

    def __init__(self, call: Call, object: str = "", count: int = 1, digest: bytes = b"") -> None:
        self.call = call
        self.object = object
        self.count = count
        self.digest = digest
        self.recorded = False
        self.ticket: Ticket = None


class Mesh:
    """All namespaces of this daemon."""

    def __init__(
        self,
        store: Store,
        restored: Restored,
        rules: SessionRules,
        observer: Observer,
        on_failure: Callable[[StorageError], None],
        commit_window_s: float = 0.02,
        step_listeners: Sequence[StepListener] = (),
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self.store = store
        self.rules = rules
        self.observer = observer
        # Seeded by the system; nothing secret depends on it.
        self.rng = Random()  # noqa: S311
        self.fleet = Fleet(rules)
        self._keys = Counter(restored.next_key)
        self.namespaces = build(restored, rules, self.fleet, self._keys, self.rng, self._clock())
        self._step_listeners = step_listeners
        self._steps: list[TaskStep] = []
        """Of the batch that is being written; told once it is durable."""
        self.commits = Commits(store, observer, self._taken, self._release, on_failure, commit_window_s)
        self.audit = AuditLog(self.commits, restored.audit_heads)
        self.hub = WatchHub()
        self._notices = Notices()
        self.payloads = ByteCache(PAYLOAD_CACHE_BYTES)
        self.outputs = ByteCache(OUTPUT_CACHE_BYTES)
        self.streams: set[AgentStream] = set()
        self.closing = False
        self._inbox: dict[Namespace, list[c.Command]] = {}
        self._entries: list[tuple[str, Entry]] = []
        self._scheduled = False
        self.turns = 0
        self._awaited_turn: asyncio.Future[None] | None = None
        self._late_turn: asyncio.TimerHandle | None = None
        self._last_turn_mono = time.monotonic()
        self._timer: asyncio.TimerHandle | None = None
        self._armed_mono = inf
        self._sweep = sweep.Sweep(
            self.sessions, self._end_silent, lambda: not (self.closing or self.commits.failed)
        )
        if restored.tasks:
            self._turn()

    def begin(self) -> None:
        """Count time from now on, as agents can come from now on: a large state takes seconds to build."""
        now = self._clock()
        self.fleet.restart_hold(self.sessions(), now.mono)
        self._last_turn_mono = now.mono

    # ---- asking

    def namespace(self, name: str) -> Namespace:
        """Return a namespace. Raises Refusal."""
        ns = self.namespaces.get(name)
        if ns is None:
            message = f"no namespace {name}; `meshctl namespace create {name}` creates it"
            raise Refusal(Reason.NAMESPACE_NOT_FOUND, message, field="namespace")
        return ns

    async def ask(
        self,
        ns: Namespace,
        make: Callable[[object], c.Command],
        entry: Entry | None = None,
    ) -> Any:
        """Post a command made with a ticket and wait for its reply. A refusal in the reply is raised, or of what is late."""
        if self.commits.failed:
            raise storage_failed()
        if self.closing:
            raise shutting_down()
        ticket: asyncio.Future[Any] = self._loop.create_future()
        if entry is not None:
            entry.ticket = ticket
        self.post(ns, make(ticket), entry)
        reply = await ticket
        if isinstance(reply, Refusal):
            raise reply
        return reply

    def post(self, ns: Namespace, command: c.Command, entry: Entry | None = None) -> None:
        """Hand a command to a namespace; it is handled at the end of this turn of the event loop.

        Nothing of it could leave before the commit that is being written, so it waits for that one first, for a while.
        Raises Refusal when the token of its call was revoked; the revocation returns after what was posted before it.
        """
        if entry is not None:
            _check_caller(entry)
            if not entry.recorded:
                entry.recorded = True
                self._entries.append((ns.name, entry))
        self._inbox.setdefault(ns, []).append(command)
        if not self._scheduled:
            self._scheduled = True
            if self.commits.in_flight:
                self._late_turn = self._loop.call_later(LONGEST_WAIT_S, self._turn)
            else:
                self._loop.call_soon(self._turn)

    async def turned(self) -> None:
        """Wait until what was posted so far has been handled."""
        if self._awaited_turn is None:
            self._awaited_turn = self._loop.create_future()
        await asyncio.shield(self._awaited_turn)

    async def create_namespace(self, name: str, description: str, entry: Entry) -> tuple[NamespaceInfo, bool]:
        """Create a namespace; return it and whether it is new. Raises Refusal when it exists with another description."""
        existing = self.namespaces.get(name)
        if existing is not None and existing.info.description != description:
            message = (
                f"namespace {name} exists with another description; leave the description out or repeat it"
            )
            raise Refusal(Reason.NAMESPACE_EXISTS, message, field="name")
        if existing is None:
            # One of this name may have been undone by a restore, up to which _mesh counted with it.
            epoch = self.namespaces[SYSTEM_NAMESPACE].info.epoch
            info = NamespaceInfo(name, description, self._clock().wall_ms, epoch)
            self.namespaces[name] = new_namespace(info, self.rules, self.fleet, self._keys, self.rng)
            self.commits.writes.namespaces.append(info)
        self._record("_mesh", entry)
        await self.commits.settled()
        return self.namespaces[name].info, existing is None

    def record(self, namespace: str, entry: Entry) -> None:
        """Append an audit record to the commit that collects now. Raises Refusal when the call's token was revoked."""
        _check_caller(entry)
        self._record(namespace, entry)

    def _record(self, namespace: str, entry: Entry, refused: str = "") -> None:
        self.audit.record(
            entry.call,
            namespace=namespace,
            object=entry.object,
            count=entry.count,
            object_digest=entry.digest,
            words=refused,
        )

    async def find_task(self, ns: Namespace, task_id: str) -> Task:
        """Return a task in memory, or one read from the store. Raises Refusal."""
        moved = True
        while moved:
            task = ns.tasks.get(task_id) or ns.recent.get(task_id)
            if task is not None:
                return task
            ended_seen = ns.ended_count
            await self.commits.recall()
            stored = await self.commits.read(self.store.get_task, ns.name, task_id)
            moved = ns.ended_count - ended_seen > RECENT_TASKS // 2
        # It may have been submitted meanwhile; memory knows better.
        task = ns.tasks.get(task_id) or ns.recent.get(task_id) or stored
        if task is None:
            raise task_not_found(ns.name, task_id)
        return task

    def watch_agents(
        self, ns: Namespace, wanted: AgentFilter, after: Position | None, encoding: Encoding[Agent]
    ) -> Watch[Agent]:
        """Begin to watch a namespace's agents. Raises Refusal."""
        return self.hub.agents.watch(
            ns.name,
            wanted,
            after,
            encoding,
            ns.agents.values,
            lambda: Position(ns.info.epoch, ns.agent_revision),
            self.commits.settled,
        )

    def watch_tasks(
        self, ns: Namespace, wanted: TaskConditions, after: Position | None, encoding: Encoding[Task]
    ) -> Watch[Task]:
        """Begin to watch a namespace's tasks. Raises Refusal."""
        return self.hub.tasks.watch(
            ns.name,
            wanted,
            after,
            encoding,
            ns.tasks.values,
            lambda: Position(ns.info.epoch, ns.task_revision),
            self.commits.settled,
        )

    async def payload(self, key: int) -> bytes:
        """Return the encoded input of a task."""
        cached = self.payloads.get(key)
        return cached if cached is not None else await self.commits.read(self.store.get_payload, key)

    async def output(self, key: int) -> bytes:
        """Return the encoded result of a task."""
        cached = self.outputs.get(key)
        return cached if cached is not None else await self.commits.read(self.store.get_output, key)

    def sessions(self) -> Iterator[Session]:
        """All sessions of all namespaces."""
        for ns in self.namespaces.values():
            yield from ns.sessions.values()

    # ---- turning

    def _clock(self) -> Now:
        return Now(time.monotonic(), time.time_ns() // 1_000_000)

    def _now(self) -> Now:
        """Return the time; notice when the daemon itself stood still and give every lease its time back."""
        now = self._clock()
        stall_s = pause_s(self._last_turn_mono, now.mono, sweep.INTERVAL_S)
        self._last_turn_mono = now.mono
        if stall_s:
            self.fleet.stalled(stall_s, self.sessions(), now.mono)
            for ns in self.namespaces.values():
                ns.postpone_accepts(stall_s, now.mono)
            self.observer.stalled(stall_s)
            log.warning("meshd stood still; every lease is extended", seconds=round(stall_s, 3))
        return now

    def _turn(self) -> None:
        self._scheduled = False
        if self._late_turn is not None:
            self._late_turn.cancel()
            self._late_turn = None
        if self.closing:
            # Nobody waits for what comes now: streams go on after the restart.
            return
        inbox, self._inbox = self._inbox, {}
        self._trusting_memory(partial(self._handle, inbox))
        if self.commits.failed:
            refuse_waiting(getattr(command, "ticket", None) for batch in inbox.values() for command in batch)
        self.turns += 1
        if self._awaited_turn is not None:
            self._awaited_turn.set_result(None)
            self._awaited_turn = None

    def _handle(self, inbox: dict[Namespace, list[c.Command]]) -> None:
        """Handle what came, and what is due."""
        now = self._now()
        entries, self._entries = self._entries, []
        due = [ns for ns in self.namespaces.values() if ns.must_dispatch or ns.next_due() <= now.mono]
        for ns in due:
            inbox.setdefault(ns, [])
        out = self.commits.effects
        before = len(out.replies)
        for ns, batch in inbox.items():
            handle(ns, batch, now, out)
            self._after_handling(ns, out)
        refused = refused_in(out.replies[before:]) if entries else {}
        for namespace, entry in entries:
            self._record(namespace, entry, refused.get(entry.ticket, ""))
        self.commits.flush()
        self._arm()

    def _trusting_memory(self, step: Callable[[], None]) -> None:
        """Do what changes memory, as long as that can be trusted; stop the daemon when it fails half-way."""
        if self.commits.failed:
            return
        try:
            step()
        except Exception as error:
            # Memory may be half changed, or changed without its record: only what is durable can be trusted, and a
            # restart brings that back.
            log.exception("a change failed half-way; meshd stops")
            self.commits.fail(StorageError(f"state in memory is in doubt after {error!r}; start meshd again"))

    def _after_handling(self, ns: Namespace, out: Effects) -> None:
        """Serve those who watch, and measure; both at once, since the state may change again in the next turn."""
        for stream, frame in out.urgent:
            if isinstance(stream, AgentStream):
                stream.push(frame)
        out.urgent.clear()
        self._notices.note(ns.name, out)
        ns.task_revision += len(out.changed)
        if self.hub.active:
            self.hub.tell(ns, out)
        out.changed.clear()
        out.changed_agents.clear()
        out.progress.clear()
        out.output.clear()
        for (state, outcome), count in out.ended.items():
            self.observer.ended(ns.name, state, outcome, count)
        out.ended.clear()
        if out.counts:
            _measure(self.observer, ns.name, out.counts)
            out.counts.clear()

    def _taken(self, writes: Writes) -> None:
        """Measure what was written; move fresh inputs, which are in rows now, from tasks to the bounded cache."""
        stages.taken(writes, self.observer)
        if self._step_listeners:
            self._steps = steps_of(writes)
        for task in writes.new_tasks.values():
            if not task.terminal:
                self.payloads.put(task.key, task.spec.payload)
            task.spec.payload = b""

    def _release(self, effects: Effects) -> None:
        """Let out effects whose commit is durable: frames first, then replies."""
        if self._late_turn is not None:
            # Before the next commit begins.
            self._late_turn.cancel()
            self._late_turn = None
            self._loop.call_soon(self._turn)
        writes = effects.writes
        stages.durable(writes, self._clock().wall_ms, self.observer)
        for key, output in writes.outputs:
            self.outputs.put(key, output)
            self.payloads.drop(key)
        self._send(effects.sends)
        for closed in effects.closes:
            if isinstance(closed, AgentStream):
                closed.close()
        for ticket, reply in effects.replies:
            if isinstance(ticket, asyncio.Future) and not ticket.done():
                ticket.set_result(reply)
        for callback in effects.callbacks:
            callback()
        if self._steps:
            steps, self._steps = self._steps, []
            for listener in self._step_listeners:
                listener(steps)

    def _send(self, sends: list[tuple[Stream, DownFrame]]) -> None:
        """Put frames into their outboxes; the time to accept an assignment starts now."""
        assigned: dict[AgentStream, list[Assign]] = {}
        for stream, frame in sends:
            if isinstance(stream, AgentStream):
                stream.push(frame)
                if type(frame) is Assign:
                    assigned.setdefault(stream, []).append(frame)
        if not assigned:
            return
        mono = time.monotonic()
        for stream, frames in assigned.items():
            # Also of a stream that opens with them, whose session is set only by the reply.
            stream.namespace.sent(stream, frames, mono)
        self._arm()

    def _arm(self) -> None:
        """Have the next timer call a turn. A turn that comes too early finds nothing due and arms again."""
        due = min(ns.next_due() for ns in self.namespaces.values())
        if self.closing or due >= self._armed_mono:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._armed_mono = due
        # A little late, so that what is due close together is handled in one turn.
        self._timer = self._loop.call_later(max(0.0, due - time.monotonic()) + TIMER_SLACK_S, self._due)

    def _due(self) -> None:
        self._timer = None
        self._armed_mono = inf
        self._turn()

    def _end_silent(self, quiet: list[Session], total: int) -> None:
        """End those of the silent whose lease is over, of so many sessions."""
        if self._scheduled:
            # A beat that came in time may wait behind a commit. What waits may also end sessions.
            self._turn()
            quiet = [session for session in quiet if session.agent.session is session]
        self._trusting_memory(partial(self._judge, quiet, total))

    def _judge(self, quiet: list[Session], total: int) -> None:
        now = self._now()
        brake_mono = self.fleet.brake_until_mono
        expired = self.fleet.expired(quiet, total, now.mono)
        if self.fleet.brake_until_mono > brake_mono:
            log.warning(
                "more than half of the agents' leases ended together; waiting one more TTL",
                agents=total,
            )
        over, late = _by_namespace(expired), _by_namespace(quiet)
        out = self.commits.effects
        for ns in self.namespaces.values():
            if ns.sessions:
                expire(ns, over.get(ns.name, []), late.get(ns.name, []), now, out)
                self._after_handling(ns, out)
        if self.commits.lags:
            self.commits.forget_who_gave_up()
        else:
            self.audit.flush_denials(now.mono)
        self.commits.flush()
        self._arm()

    async def shutdown(self) -> None:
        """Send agents away, commit what is pending, stop. Attempts stay with their agents."""
        if self._scheduled:
            # What waits for its turn, or for the commit that is being written, came before the end.
            self._turn()
        self.closing = True
        self._sweep.stop()
        self._notices.write()
        if self._timer is not None:
            self._timer.cancel()
        for stream in list(self.streams):
            if stream.session is not None and Feature.GO_AWAY in stream.session.features:
                stream.push(GoAway(GoAwayReason.SHUTTING_DOWN))
            stream.close()
        self.audit.flush_denials(time.monotonic(), 0.0)
        await self.commits.close()


def _check_caller(entry: Entry) -> None:
    call = entry.call
    if call.check_not_revoked is not None:
        call.check_not_revoked(call)


def _by_namespace(sessions: list[Session]) -> dict[str, list[Session]]:
    found: dict[str, list[Session]] = {}
    for session in sessions:
        found.setdefault(session.agent.namespace, []).append(session)
    return found


def _measure(observer: Observer, namespace: str, counts: dict[tuple[str, str], int]) -> None:
    for (what, detail), count in counts.items():
        if what == "submitted":
            observer.submitted(namespace, count)
        elif what == "assigned":
            observer.assigned(namespace, count)
        elif what == "lost":
            observer.lost(namespace, detail, count)
        elif what in ("declined", "unaccepted"):
            observer.returned(namespace, what, count)
        elif what == "stale":
            observer.stale(namespace, count)
