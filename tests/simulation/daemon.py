"""The model daemon: turns, sweeps and commits around the real machine, as meshd/engine does them, in virtual time.

One object is one life of the process. It dies at any of the points around a commit, or between them; what it had not
written is gone, and what was being written has landed or has not. While it is frozen nothing of it runs, and what is
due meanwhile happens in any order when it goes on.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Any, Final

from meshd.domain import commands as c
from meshd.domain import frames as f
from meshd.domain.commit_barrier import CommitBarrier
from meshd.domain.effects import Effects
from meshd.domain.liveness import Fleet, pause_s, silent
from meshd.domain.machine import expire, handle
from meshd.domain.state import Counter, Namespace
from meshd.domain.values import Now, Session
from meshd.engine.restore import build
from tests.simulation import unsendable
from tests.simulation.disk import Batch, snapshot
from tests.simulation.network import Call, Link
from tests.simulation.plan import pick
from tests.simulation.violation import Violation

if TYPE_CHECKING:
    from tests.simulation.world import World

SWEEP_S: Final = 0.25
SLACK_S: Final = 0.01
WINDOW_S: Final = 0.003

KILL_POINTS: Final = ("apply", "append", "land", "release", "released")
"""Before a batch is handled, before it is written, while it is, when it is durable but not let out, and after."""


class Daemon:
    """One life of meshd."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.dead = False
        self.frozen_until = 0.0
        self.start_mono = world.time.now
        self.links: dict[Link, None] = {}
        self.calls: dict[Call, None] = {}
        self.fleet = Fleet(world.rules)
        self.barrier = CommitBarrier()
        self.in_flight: Batch | None = None
        self._inbox: dict[Namespace, list[c.Command]] = {}
        self._scheduled = False
        self._committing = False
        self._flushes = 0
        self._last_turn = self.start_mono
        self._armed = inf
        restored = world.disk.restore()
        keys = Counter(restored.next_key)
        self.namespaces = build(restored, world.rules, self.fleet, keys, world.rng, self.clock())
        world.oracle.started(self, restored)
        self.listening = False
        self.later(self.start_mono + world.rng.choice((0.0, 0.0, 0.8)) * world.rng.random(), self._listen)
        self.later(self.start_mono + SWEEP_S, self._sweep)
        self._turn()

    # ---- running

    def _listen(self) -> None:
        """Let callers in; agents that come back have the hold from now on."""
        self.listening = True
        # What the process did before is no stall.
        self._last_turn = self.world.time.now
        self.fleet.restart_hold(self.sessions(), self.world.time.now)
        self.world.oracle.leases.listening(self)

    def later(self, due: float, call: Callable[..., None], *arguments: Any) -> None:
        """Have this life do something at a time."""
        self.world.time.at(due, self.run, call, arguments)

    def run(self, call: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        """Have this life do something now, or when it goes on."""
        if self.dead:
            return
        if self.world.time.now < self.frozen_until:
            wake = self.frozen_until + self.world.rng.random() * 0.02
            self.later(wake, call, *arguments)
            return
        call(*arguments)

    def clock(self) -> Now:
        """The two clocks of the host."""
        mono = self.world.time.now
        return Now(mono, int(mono * 1000) + self.world.wall_shift_ms)

    def post(self, namespace: str, command: c.Command) -> None:
        """Hand a command to a namespace."""
        self._inbox.setdefault(self.namespaces[namespace], []).append(command)
        if not self._scheduled:
            self._scheduled = True
            self.later(self.world.time.now, self._turn)

    def _now(self) -> Now:
        now = self.clock()
        stall_s = pause_s(self._last_turn, now.mono, SWEEP_S)
        self._last_turn = now.mono
        if stall_s:
            self.fleet.stalled(stall_s, self.sessions(), now.mono)
            for ns in self.namespaces.values():
                ns.postpone_accepts(stall_s, now.mono)
        return now

    def sessions(self) -> list[Session]:
        """All sessions of all namespaces."""
        return [session for ns in self.namespaces.values() for session in ns.sessions.values()]

    def _turn(self) -> None:
        self._scheduled = False
        if self.world.reached("apply"):
            return
        now = self._now()
        inbox, self._inbox = self._inbox, {}
        for ns in self.namespaces.values():
            if ns.must_dispatch or ns.next_due() <= now.mono:
                inbox.setdefault(ns, [])
        for ns, batch in inbox.items():
            self._handle(ns, batch, now)
        self._flush()

    def _sweep(self) -> None:
        self.later(self.world.time.now + SWEEP_S, self._sweep)
        now = self._now()
        sessions = self.sessions()
        quiet = silent(sessions, now.mono)
        self.world.oracle.leases.pace.counted(len(sessions))
        expired = self.fleet.expired(quiet, len(sessions), now.mono)
        for ns in self.namespaces.values():
            if ns.sessions:
                over = [session for session in expired if session.agent.namespace == ns.name]
                late = [session for session in quiet if session.agent.namespace == ns.name]
                self._handle(ns, [], now, (over, late))
        self.world.oracle.swept(self, now)
        self._flush()

    def _handle(
        self,
        ns: Namespace,
        batch: list[c.Command],
        now: Now,
        found: tuple[list[Session], list[Session]] | None = None,
    ) -> None:
        """Apply commands, or the expired and the silent sessions that a sweep found."""
        out = self.barrier.collecting
        oracle = self.world.oracle
        if self.world.history is not None:
            for command in batch:
                self.world.note("meshd: %s", command)
        oracle.before(ns, batch, out)
        try:
            if found is None:
                handle(ns, batch, now, out)
            else:
                expire(ns, *found, now, out)
        except Violation:
            raise
        except Exception as error:
            raise Violation(f"the domain raised {error!r} on {batch}") from error
        oracle.after(self, ns, batch, out, now)
        for stream, frame in out.urgent:
            if isinstance(stream, Link):
                stream.down([frame])
        out.urgent.clear()
        for task in out.changed:
            now_is = (task.generation, task.state, task.outcome)
            out.callbacks.append(partial(oracle.watched, task.key, task.spec.task_id, now_is))
        out.changed.clear()
        out.changed_agents.clear()
        out.progress.clear()
        out.output.clear()
        out.counts.clear()

    def _arm(self) -> None:
        due = inf
        for ns in self.namespaces.values():
            due = min(due, ns.next_due())
        if due < self._armed:
            self._armed = due
            self.later(max(due, self.world.time.now) + SLACK_S, self._due, due)

    def _due(self, due: float) -> None:
        # Otherwise an earlier one was armed since, and has armed this one again.
        if due == self._armed:
            self._armed = inf
            self._turn()

    # ---- commits

    def _flush(self) -> None:
        if _leaves(self.barrier.collecting):
            for effects in self.barrier.idle():
                self._release(effects)
        # At times also while one is in flight: the barrier must refuse a second.
        self._flushes += 1
        wanted = self.in_flight is None or not self._flushes % 4
        if wanted and not (self.dead or self._committing) and self.barrier.pending:
            self._committing = True
            window = pick(self.world.rng, (0.0, WINDOW_S))
            self.later(self.world.time.now + window, self._begin)
        if not self.dead:
            self._arm()

    def _begin(self) -> None:
        self._committing = False
        if self.world.reached("append"):
            return
        taken = self.barrier.take()
        if taken is None:
            return
        number, effects = taken
        self.in_flight = snapshot(effects.writes)
        for task in effects.writes.new_tasks.values():
            task.spec.payload = b""
        # The disk goes on while the process is frozen, not when it is dead.
        self.world.time.after(self.world.disk_delay(), self._land, number, effects)

    def _land(self, number: int, effects: Effects) -> None:
        if self.dead or self.world.reached("land"):
            return
        if self.world.take_disk_failure():
            self.world.kill("fsync failed")
            return
        assert self.in_flight is not None
        batch, self.in_flight = self.in_flight, None
        self.world.oracle.durable.written(self.world.disk.write(batch))
        self.run(self._committed, (number, effects))

    def _committed(self, number: int, effects: Effects) -> None:
        if self.world.reached("release"):
            return
        if number % 8 == 0:
            self._misuse_the_barrier(number - 1, number + 1)
        released = self.barrier.durable(number)
        if number % 8 == 0:
            self._misuse_the_barrier(number)
        if not released or released[0] is not effects:
            raise Violation("the barrier let out another batch than the one that is durable")
        for each in released:
            self._release(each)
        if not self.world.reached("released"):
            self._flush()

    def _misuse_the_barrier(self, *numbers: int) -> None:
        """Ask it to let out batches that are not in flight, and to commit nothing: it must refuse."""
        for number in numbers:
            try:
                self.barrier.durable(number)
            except AssertionError:
                continue
            raise Violation("the barrier let out a batch that is not in flight")
        if not self.barrier.pending and self.barrier.take() is not None:
            raise Violation("the barrier commits nothing")

    def _release(self, effects: Effects) -> None:
        self.world.oracle.released(effects)
        self._send(effects)
        for stream in effects.closes:
            if isinstance(stream, Link):
                stream.close()
        for ticket, reply in effects.replies:
            if ticket is not None:
                ticket.answer(reply)  # type: ignore[attr-defined]  # every ticket here is a Call or an Opening
        for callback in effects.callbacks:
            callback()
        if not self.dead:
            self.world.oracle.told(effects)

    def _send(self, effects: Effects) -> None:
        if not effects.sends:
            return
        messages: dict[Link, list[f.DownFrame]] = {}
        if self.world.history is not None:
            for stream, frame in effects.sends:
                self.world.note("    to %s: %s", getattr(stream, "agent", None), frame)
        for stream, frame in effects.sends:
            if isinstance(stream, Link):
                messages.setdefault(stream, []).append(frame)
        for link, frames in messages.items():
            assigned = [frame for frame in frames if type(frame) is f.Assign]
            if assigned and not link.closing:
                self.namespaces[link.namespace].sent(link, assigned, self.world.time.now)
                self.world.oracle.assigned(link, [frame.fence for frame in assigned])
            unfit = [frame for frame in assigned if not unsendable.fits(self.world.plan, frame)]
            for frame in unfit:
                # Found when its turn to be written comes, which is later while the peer reads slowly.
                late_s = 3.0 * self.world.rng.random() ** 3 if frame.attempt <= 3 else 0.0
                self.later(
                    self.world.time.now + late_s, self.post, link.namespace, c.Unsendable(link, frame, 1_000)
                )
            link.down([frame for frame in frames if frame not in unfit] if unfit else frames)

    # ---- the end

    def die(self) -> None:
        """End this life now: connections break, what was being written has landed or has not."""
        self.dead = True
        if self.in_flight is not None and self.world.rng.random() < 0.5:
            self.world.oracle.durable.written(self.world.disk.write(self.in_flight))
        for call in list(self.calls):
            call.lose()
        for link in list(self.links):
            link.daemon_died()


def _leaves(effects: Effects) -> bool:
    """Return whether there is anything to let out."""
    return bool(effects.sends or effects.replies or effects.closes or effects.callbacks)
