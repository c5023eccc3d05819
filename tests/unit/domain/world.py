"""A small world around the machine: one namespace, a clock that moves when told, effects that are durable at once."""

from __future__ import annotations

from random import Random
from typing import Any

from meshd.domain import commands as c
from meshd.domain import frames as f
from meshd.domain.effects import Effects
from meshd.domain.invariants import violations
from meshd.domain.limits import SessionRules
from meshd.domain.liveness import Fleet, silent
from meshd.domain.machine import expire, handle
from meshd.domain.state import Counter, Namespace
from meshd.domain.values import (
    AgentSpec,
    AgentType,
    NamespaceInfo,
    Now,
    Requirements,
    Session,
    Task,
    TaskSpec,
)

ALL_FEATURES = frozenset(int(x) for x in f.Feature)


class FakeStream:
    """Where frames for one stream end up."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.frames: list[Any] = []
        self.closed = False

    def of(self, kind: type) -> list[Any]:
        """Frames of one kind."""
        return [x for x in self.frames if type(x) is kind]


class World:
    """One namespace and everything that happens to it."""

    def __init__(self, seed: int = 1, rules: SessionRules | None = None) -> None:
        self.rules = rules or SessionRules()
        self.fleet = Fleet(self.rules)
        self.rng = Random(seed)
        info = NamespaceInfo("default", "", 0, 1)
        self.ns = Namespace(info, self.rules, self.fleet, Counter(1), self.rng)
        self.mono = 100.0
        self.seqs: dict[str, int] = {}
        self.outputs: dict[int, bytes] = {}
        self.ended_twice: list[str] = []
        self.counts: dict[tuple[str, str], int] = {}

    @property
    def now(self) -> Now:
        """The time."""
        return Now(self.mono, int(self.mono * 1000))

    def do(self, *batch: c.Command) -> list[Any]:
        """Handle a batch; return the replies in order."""
        out = Effects()
        handle(self.ns, list(batch), self.now, out)
        return self._release(out)

    def sweep(self) -> None:
        """Run the sweep of leases."""
        out = Effects()
        quiet = silent(self.ns.sessions.values(), self.mono)
        expired = self.fleet.expired(quiet, len(self.ns.sessions), self.mono)
        expire(self.ns, expired, quiet, self.now, out)
        self._release(out)

    def doubts_itself(self) -> bool:
        """Return whether the mesh suspects itself now."""
        return self.mono < self.fleet.brake_until_mono

    def wait(self, seconds: float, step: float = 0.25) -> None:
        """Let time pass, with sweeps and timers."""
        end = self.mono + seconds
        while self.mono < end - 1e-9:
            self.mono = min(end, self.mono + step)
            self.sweep()

    def _release(self, out: Effects) -> list[Any]:
        for key, value in out.counts.items():
            self.counts[key] = self.counts.get(key, 0) + value
        for task_key, output in out.writes.outputs:
            if task_key in self.outputs:
                self.ended_twice.append(str(task_key))
            self.outputs[task_key] = output
        assigned: dict[FakeStream, list[f.Assign]] = {}
        for stream, frame in out.urgent + out.sends:
            if isinstance(stream, FakeStream) and not stream.closed:
                stream.frames.append(frame)
                if type(frame) is f.Assign:
                    assigned.setdefault(stream, []).append(frame)
        for stream, frames in assigned.items():
            self.ns.sent(stream, frames, self.mono)
        for stream in out.closes:
            if isinstance(stream, FakeStream):
                stream.closed = True
        broken = violations(self.ns)
        assert not broken, broken
        assert not self.ended_twice
        return [reply for _, reply in out.replies]

    # ---- shorthands

    def agent(
        self,
        agent_id: str,
        *,
        slots: int = 1,
        can: tuple[str, ...] = ("work",),
        features: frozenset[int] = ALL_FEATURES,
        lease_ttl_ms: int = 0,
    ) -> tuple[Session, FakeStream]:
        """Register an agent and open its Work stream."""
        spec = AgentSpec(
            agent_id,
            AgentType.WORKER,
            capabilities=frozenset(can),
            slots=slots,
            lease_ttl_ms=lease_ttl_ms,
        )
        life = self.seqs[agent_id] = self.seqs.get(agent_id, 0) + 1
        key = f"{agent_id}-{life}"
        self.do(c.Register(None, spec, key, key.encode(), key.encode()))
        session = self.ns.sessions[key]
        return session, self.open(session, features=features)

    def open(
        self, session: Session, held: list[c.Held] | None = None, features: frozenset[int] = ALL_FEATURES
    ) -> FakeStream:
        """Open a stream of a session."""
        stream = FakeStream(session.session_id)
        replies = self.do(
            c.OpenStream(
                None,
                stream,
                session.agent.spec.agent_id,
                session.session_id,
                session.resume_hash,
                session.stream_seq + 1,
                True,
                features,
                None,
                held or [],
            )
        )
        assert replies == [session], replies
        return stream

    def submit(self, task_id: str, task_type: str = "work", /, **fields: Any) -> Any:
        """Submit one task; return its result."""
        spec = TaskSpec(
            task_id, task_type, b"x", fields.pop("digest", b"d"), Requirements(frozenset((task_type,)))
        )
        for name, value in fields.items():
            setattr(spec, name, value)
        (results,) = self.do(c.Submit(None, [spec], "operator:test", {}, self.ns.ended_count, True))
        return results[0]

    def send(self, session: Session, *frames: f.UpFrame) -> None:
        """Have frames arrive on the session's stream."""
        assert session.stream is not None
        self.do(c.Frames(session, session.stream, list(frames)))

    def break_stream(self, session: Session) -> None:
        """End the session's stream without Bye."""
        assert session.stream is not None
        self.do(c.StreamEnded(session, session.stream))

    def task(self, task_id: str) -> Task:
        """Return a task, open or ended."""
        task = self.ns.tasks.get(task_id) or self.ns.recent.get(task_id)
        assert task is not None
        return task


def fence(stream: FakeStream, index: int = -1) -> bytes:
    """Return the fence of one of the assignments that a stream got; the newest, if not told otherwise."""
    value: bytes = stream.of(f.Assign)[index].fence
    return value
