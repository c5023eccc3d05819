"""The oracle: what clients, agents and the disk have seen, and what must therefore hold.

It knows the promises, not the domain's ways: it keeps its own account of signs of life, of acknowledgements and of what
is durable, and compares. Every method raises Violation.
"""

from __future__ import annotations

from collections.abc import Iterable
from copy import copy
from typing import TYPE_CHECKING, Final

from meshd.domain import commands as c
from meshd.domain import frames as f
from meshd.domain.drains import Drain
from meshd.domain.effects import Effects
from meshd.domain.errors import Reason, Refusal
from meshd.domain.invariants import violations
from meshd.domain.placement.matching import fits
from meshd.domain.state import Namespace
from meshd.domain.transitions import Event, IllegalTransitionError, advance
from meshd.domain.values import (
    AttemptState,
    Now,
    OutcomeReason,
    Session,
    Task,
    TaskState,
)
from meshd.ports.store import Restored
from tests.simulation import unsendable
from tests.simulation.durable import HELD_STATES, Durable
from tests.simulation.fleet import Agents
from tests.simulation.leases import Leases
from tests.simulation.memory import check_kept
from tests.simulation.picture import Picture, Turn
from tests.simulation.placing import Placing
from tests.simulation.plan import KINDS
from tests.simulation.telling import Telling
from tests.simulation.timing import Timing
from tests.simulation.violation import Violation

if TYPE_CHECKING:
    from tests.simulation.agents import Agent as Process
    from tests.simulation.daemon import Daemon
    from tests.simulation.network import Link
    from tests.simulation.world import World

STATES_OF_HELD: Final = {
    *((state, AttemptState.STOPPING) for state in HELD_STATES),
    (TaskState.ASSIGNED, AttemptState.ASSIGNED),
    (TaskState.RUNNING, AttemptState.RUNNING),
}

LOOK_EVERY: Final = 8
"""Of turns in which nobody but beats came and of which nothing came, so many go by before one is judged."""
WHOLE_EVERY: Final = 10
"""All invariants are checked over everything after so many turns that changed something, at a start and at the end."""


class Oracle:
    """Everything that was seen in one world."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.leases = Leases(world)
        self.timing = Timing(world)
        self.placing = Placing(world)
        self.durable = Durable(world)
        self.fleet = Agents()
        self.telling = Telling()
        self.accepted: dict[tuple[str, str], bytes] = {}
        """(namespace, task id) -> digest of acknowledged submits."""
        self._taken: set[tuple[str, str]] = set()
        self.cancelled: set[tuple[str, str]] = set()
        self.seen: dict[int, tuple[int, TaskState, OutcomeReason]] = {}
        """key -> newest (generation, state, outcome) that left the mesh."""
        self.fence_numbers: dict[int, int] = {}
        self._fence_mark: dict[str, int] = {}
        self._keep: list[tuple[c.OpenStream, set[bytes]]] = []
        self._pictures: dict[Namespace, Picture] = {}
        """Each namespace at the end of its last turn that was judged."""
        self._quiet_turns = 0
        self._loud_turns = 0

    # ---- the daemon's life

    def started(self, daemon: Daemon, restored: Restored) -> None:
        """Compare what a new life knows with what is durable."""
        open_keys = {task.key for task in restored.tasks}
        for name, digest in self.accepted.items():
            key = self.world.disk.keys.get(name)
            if key is None:
                raise Violation(f"P1: the acknowledged task {name} is gone after a restart")
            task = self.world.disk.task(key)
            if task.spec.digest != digest:
                raise Violation(f"P3: task {name} has other content than was acknowledged")
            if key not in open_keys and not task.terminal:
                raise Violation(f"task {name} is neither restored nor ended")
        for task in restored.tasks:
            ns = daemon.namespaces[task.namespace]
            if task.state in HELD_STATES and task.session_id not in ns.sessions:
                raise Violation(f"P5: {task.spec.task_id} was restored without its session")
        self._pictures.clear()
        for ns in daemon.namespaces.values():
            self._fence_mark[ns.name] = ns.info.epoch << 40
            in_force = {drain_id for name, drain_id in self.world.disk.drains if name == ns.name}
            if ns.drains.keys() != in_force:
                raise Violation("the drains in force are not those that are durable")
            self._check_held(ns.sessions.values())
            self._invariants(ns)
            self._pictures[ns] = Turn(Picture(), ns).after
        self.placing.started()
        self.leases.started(daemon)
        self.timing.started(daemon)

    def before(self, ns: Namespace, batch: list[c.Command], out: Effects) -> None:
        """Note what a turn must not change without reason."""
        picture = self._pictures[ns]
        self.placing.before(batch)
        self._sends = len(out.sends)
        self.batch = batch
        self._amount = _amount(ns, out)
        self.leases.before(out, picture)
        self.fleet.before(ns, batch, out, picture)
        self.telling.before(ns, batch, out, picture)
        self._keep.clear()
        for command in batch:
            if type(command) is c.OpenStream and command.takes_work:
                session = ns.sessions.get(command.session_id)
                if session is not None:
                    self._keep.append((command, set(session.held)))

    def after(self, daemon: Daemon, ns: Namespace, batch: list[c.Command], out: Effects, now: Now) -> None:
        """Check one turn of a namespace."""
        said = self.leases.heard(ns, batch, out, now)
        if self._amount == _amount(ns, out) and not self._more_than_beats(batch):
            self._quiet_turns += 1
            if self._quiet_turns % LOOK_EVERY:
                return
        else:
            self._loud_turns += 1
        before = self._pictures[ns]
        if len(batch) == 1 and isinstance(batch[0], c.Unsendable):
            unsendable.check(before, ns, batch[0])
        turn = Turn(before, ns)
        self._pictures[ns] = turn.after
        self.leases.after(daemon, turn, batch, said, out, now)
        self.fleet.check_watchers(turn, batch, out, now.mono)
        self.telling.after(ns, turn, batch, out, self.world.plan.settings, now.mono)
        self._check_held(turn.sessions)
        if not self._loud_turns % WHOLE_EVERY:
            # What is derived and wrong stays wrong, so a few turns later is soon enough.
            self._invariants(ns)
        self.timing.turned(daemon, ns, now)
        self.placing.after(ns, self._fresh_assignments(ns, out), now.mono)
        for command, held_before in self._keep:
            self._check_opened(ns, command, held_before, out)
        self.fleet.after(ns, turn, batch)

    def swept(self, daemon: Daemon, now: Now) -> None:
        """Check what time alone should have done."""
        self.leases.swept(daemon, now)
        for ns in daemon.namespaces.values():
            self.timing.swept(daemon, ns, now)

    @staticmethod
    def _more_than_beats(batch: list[c.Command]) -> bool:
        return any(type(x) is not c.Frames or type(x.frames[0]) is not f.Beat for x in batch)

    @staticmethod
    def _invariants(ns: Namespace) -> None:
        found = violations(ns)
        if found:
            raise Violation("; ".join(found))
        check_kept(ns)

    @staticmethod
    def _check_held(sessions: Iterable[Session]) -> None:
        for session in sessions:
            used = len(session.held) + len(session.quarantine)
            if session.free_slots != (0 if session.drained else max(0, session.slots - used)):
                raise Violation("free slots are not derived")
            for task in session.held.values():
                if (task.state, task.attempt_state) not in STATES_OF_HELD:
                    words = f"{task.state.name} while its attempt is {task.attempt_state.name}"
                    raise Violation(f"{task.spec.task_id} is held and {words}")

    # ---- order

    def _fresh_assignments(self, ns: Namespace, out: Effects) -> list[tuple[Task, Session]]:
        mark = self._fence_mark[ns.name]
        fresh: list[tuple[Task, Session]] = []
        for stream, frame in out.sends[self._sends :]:
            if type(frame) is not f.Assign:
                continue
            task = ns.tasks.get(frame.task_id)
            session = next((s for s in ns.sessions.values() if s.stream is stream), None)
            if session is None or task is None or task.fence != frame.fence:
                continue
            self._check_times(task, frame)
            if frame.fence_number <= mark:
                continue
            self._fence_mark[ns.name] = max(self._fence_mark[ns.name], frame.fence_number)
            if frame.fence_number <= self.fence_numbers.get(task.key, 0):
                raise Violation(f"the fence number of {frame.task_id} does not rise")
            self.fence_numbers[task.key] = frame.fence_number
            if len(session.held) + len(session.quarantine) > session.slots:
                raise Violation(f"{session.agent.spec.agent_id} is given more than it has slots")
            if not fits(task.spec.requirements, session.agent.spec):
                raise Violation(f"{frame.task_id} went to an agent that does not fit")
            if session.drained:
                raise Violation(f"{frame.task_id} went to an agent that is drained")
            if task.cancel_ms:
                raise Violation(f"{frame.task_id} was handed out again though its cancel was asked for")
            fresh.append((task, session))
        return fresh

    @staticmethod
    def _check_times(task: Task, frame: f.Assign) -> None:
        own_ms = (task.accept_ms or task.assign_ms) + task.spec.execution_timeout_ms
        end_ms = task.deadline_ms
        if task.spec.execution_timeout_ms and (not end_ms or own_ms < end_ms):
            end_ms = own_ms
        if frame.deadline_ms != end_ms:
            raise Violation(f"the agent is told a wrong deadline of {frame.task_id}")

    def _check_opened(
        self, ns: Namespace, command: c.OpenStream, held_before: set[bytes], out: Effects
    ) -> None:
        opened = [frame for to, frame in out.sends if to is command.stream and type(frame) is f.Opened]
        session = ns.sessions.get(command.session_id)
        if not opened or session is None:
            return
        named = {held.fence for held in command.held}
        keep = set(opened[0].keep)
        # In the same turn a report may have ended an attempt before, on the old stream.
        if not named & session.held.keys() <= keep <= named & held_before:
            raise Violation("P5: Opened does not keep what is held")
        if set(opened[0].drop) != named - keep:
            raise Violation("Opened does not drop exactly what it does not keep")
        if session.stream is not command.stream:
            return
        told = {frame.fence for to, frame in out.sends if to is command.stream and type(frame) is f.Cancel}
        stopping = {x for x, t in session.held.items() if t.attempt_state is AttemptState.STOPPING}
        if (f.Feature.CANCEL in command.features and not stopping <= told) or (
            f.Feature.CANCEL not in command.features and told
        ):
            raise Violation("an agent that returns is not told what it must stop, or does not understand it")
        if command.slots is not None and session.slots != command.slots and len(self.batch) == 1:
            raise Violation("the slots told in Open do not count")
        grace_ms = session.agent.spec.disconnected_grace_ms or ns.rules.disconnected_grace_ms
        if opened[0].disconnected_grace_ms != grace_ms:
            raise Violation("Opened tells another grace than is in force")

    # ---- what is let out

    def released(self, effects: Effects) -> None:
        """Check that nothing of a batch tells what is not durable."""
        disk = self.world.disk
        for _, frame in effects.sends:
            kind = type(frame)
            if kind is f.Assign:
                assert isinstance(frame, f.Assign)
                if frame.task_key not in disk.tasks or disk.task(frame.task_key).attempt < frame.attempt:
                    raise Violation(f"the assignment of {frame.task_id} left before it was durable")
            elif kind is f.Ack:
                self._check_ack(frame.fence)  # type: ignore[union-attr]

    def told(self, effects: Effects) -> None:
        """A batch has been let out: watchers have seen all of its changes."""
        for tasks in (effects.writes.new_tasks, effects.writes.changed_tasks):
            for key in tasks:
                task = self.world.disk.task(key)
                if key not in self.seen or self.seen[key][0] < task.generation:
                    name = task.spec.task_id
                    raise Violation(f"watchers of {name} do not see generation {task.generation}")

    def _check_ack(self, fence: bytes) -> None:
        found = self.world.disk.by_fence(fence)
        if found is None:
            raise Violation("the report of an unknown fence was acknowledged")
        task, number = found
        succeeded = task.state is TaskState.SUCCEEDED and task.attempt == number
        if not succeeded and number not in self.world.disk.attempts.get(task.key, {}):
            raise Violation(f"a report about {task.spec.task_id} was acknowledged before it was durable")

    def watched(self, key: int, name: str, now: tuple[int, TaskState, OutcomeReason]) -> None:
        """A watcher sees a change of a task: its generation, state and outcome now."""
        before = self.seen.get(key)
        if before == now:
            return
        generation, state, _ = now
        if before is not None:
            if generation <= before[0]:
                raise Violation(f"watchers of {name} see generation {generation} after {before[0]}")
            if before[2] is not OutcomeReason.NONE:
                raise Violation(f"P3: watchers of {name} see {state.name} after its end")
        self.seen[key] = now
        durable = self.world.disk.tasks.get(key)
        if durable is None or self.world.disk.task(key).generation < generation:
            raise Violation(f"watchers see generation {generation} of {name}, which is not durable")

    def read(self, task: Task) -> None:
        """A reader got a task."""
        name = (task.namespace, task.spec.task_id)
        if task.key not in self.world.disk.tasks:
            raise Violation(f"a reader sees {name}, which is not durable")
        durable = self.world.disk.task(task.key)
        if durable.generation < task.generation:
            raise Violation(f"a reader sees a change of {name} that is not durable")
        outcome = self.durable.ended.get(task.key)
        if task.terminal and outcome is not task.outcome:
            raise Violation(f"P3: a reader sees {task.outcome.name} of {name}, which ended as {outcome}")

    def explained(self, daemon: Daemon, ns: Namespace, task: Task | None) -> None:
        """Somebody asks why a task waits, and how long the oldest has waited."""
        self.placing.explained(ns, task)
        self.leases.pace.told_operators(daemon)
        if not daemon.barrier.pending:
            for each in ns.tasks.values():
                self.durable.check_written(each)

    def submitted(self, namespace: str, task_id: str, digest: bytes, result: c.Submitted | Refusal) -> None:
        """A caller got the result of a submit."""
        name = (namespace, task_id)
        durable = self.world.disk.keys.get(name)
        if isinstance(result, Refusal):
            if result.reason is not Reason.TASK_EXISTS:
                raise Violation(f"submit of {name} was refused: {result}")
            if durable is None or self.world.disk.task(durable).spec.digest == digest:
                raise Violation(f"P3: {name} was refused though no other content of it is durable")
            return
        if durable is None:
            raise Violation(f"P1: {name} was acknowledged before it was durable")
        if self.world.disk.task(durable).spec.digest != digest:
            raise Violation(f"P3: {name} was acknowledged with other content")
        if not result.existed:
            if name in self._taken:
                raise Violation(f"P3: {name} was taken twice")
            self._taken.add(name)
        if result.task is not None:
            self.read(result.task)
        self.accepted[name] = digest

    def cancel_answered(self, namespace: str, task_id: str, reply: Task | Refusal, *, known: bool) -> None:
        """A caller got the answer of a cancel; ``known`` says that its submit was acknowledged before."""
        if isinstance(reply, Refusal):
            key = self.world.disk.keys.get((namespace, task_id))
            if key is not None and known and key not in self.durable.ended:
                raise Violation(f"a cancel does not find {task_id}, which was acknowledged and is open")
            return
        self.read(reply)
        if not reply.terminal:
            self.cancelled.add((namespace, task_id))
            if not self.world.disk.task(reply.key).cancel_ms:
                raise Violation(f"the cancel of {task_id} was acknowledged before it was durable")

    def drained(self, drain: Drain, reply: c.Drained) -> None:
        """An operator got the answer of a drain that nobody has lifted."""
        if (drain.namespace, drain.drain_id) not in self.world.disk.drains:
            raise Violation("a drain was acknowledged before it was durable")
        if reply.drain is None or reply.drain.selector != drain.selector:
            raise Violation("another drain was acknowledged than was asked for")

    # ---- agents

    def known(self, namespace: str, agent_id: str) -> None:
        """An agent was registered or declared, as its caller learned."""
        if (namespace, agent_id) not in self.world.disk.agents:
            raise Violation(f"{agent_id} was made known before that was durable")

    def unanswered(self, daemon: Daemon) -> None:
        """A caller's time is over and the daemon has not answered."""
        stalled = any(end > self.world.time.now - 5.0 for end, _ in self.world.daemon_freezes)
        if not daemon.dead and not stalled:
            raise Violation("a call was not answered within 5 s")

    def deserted(self, agent: Process) -> None:
        """An agent hung up because the daemon said nothing."""
        if not any(event.kind in KINDS for event in self.world.plan.events):
            raise Violation(f"P12: {agent} heard nothing for 1.5 TTL though nothing is wrong")

    def assigned(self, link: Link, fences: list[bytes]) -> None:
        """Assignments were let out to a stream."""
        self.leases.assigned(link, fences)

    def starts(self, agent: Process, fence: bytes) -> None:
        """An agent starts a handler."""
        if self.world.disk.by_fence(fence) is None:
            raise Violation(f"{agent} starts an attempt that is not durable")

    # ---- the end

    def finished(self, daemon: Daemon) -> None:
        """Everything has ended and a while has passed: nothing may be left over."""
        for name in self.accepted:
            if self.world.disk.keys[name] not in self.durable.ended:
                raise Violation(f"the acknowledged task {name} never ended")
        for ns in daemon.namespaces.values():
            self._invariants(ns)
            if ns.tasks:
                raise Violation(f"never ended: {sorted(ns.tasks)}")
            self._check_final(ns)
            for session in ns.sessions.values():
                agent = self.world.agent_of(session)
                if session.stream is None or agent is None or agent.machine.running_count:
                    continue
                if not agent.machine.is_open or not agent.hears:
                    continue
                if self.world.time.now < max(agent.up_blocked_until, agent.ended_last) + 0.1:
                    # What it said last is still on its way.
                    continue
                if agent.machine.held_count:
                    raise Violation(f"{agent} still holds what has ended")
                if session.held or session.quarantine:
                    kind = "quarantined" if session.quarantine else "held"
                    raise Violation(f"a slot of {agent} stays {kind} though nothing runs")

    @staticmethod
    def _check_final(ns: Namespace) -> None:
        """P3: terminal is final; nothing can happen to what has ended."""
        for task in list(ns.recent.values())[:1]:
            for event in Event:
                try:
                    advance(copy(task), event)
                except IllegalTransitionError:
                    continue
                raise Violation(f"P3: {task.spec.task_id} has ended, and {event.name} may happen to it")


def _amount(ns: Namespace, out: Effects) -> tuple[int, int, int]:
    """Return how much has come of the turns so far: the same after a turn of which nothing came."""
    writes = out.writes
    return (
        len(out.sends) + len(out.closes) + len(out.replies) + len(out.changed) + len(out.changed_agents),
        len(out.progress) + len(out.output) + len(ns.sessions) + len(ns.agents),
        len(writes.new_tasks) + len(writes.attempts) + len(writes.agents) + len(writes.changed_tasks),
    )
