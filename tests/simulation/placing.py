"""The oracle's account of who gets which task: order, idle slots, declines, the choice among those that fit.

It knows the queue's order and the strategies from the design's words; it looks at what a turn handed out, never at the
order inside the domain's queues and pools.
"""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Final

from meshd.domain import census
from meshd.domain import commands as c
from meshd.domain import frames as f
from meshd.domain.placement.choice import has_preferences
from meshd.domain.placement.matching import fits, score
from meshd.domain.queue import TaskQueue
from meshd.domain.state import Namespace
from meshd.domain.values import AttemptState, Session, Strategy, Task, TaskState
from tests.simulation.violation import Violation

if TYPE_CHECKING:
    from tests.simulation.world import World

LEAST_LOADED: Final = Strategy.LEAST_LOADED
Fresh = list[tuple[Task, Session]]


def order(task: Task) -> tuple[int, int]:
    """Return the task's place: priority, then arrival."""
    return (-task.spec.priority, task.key)


class Placing:
    """What was handed out in one world."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._declined: dict[tuple[int, str], float] = {}
        """(key, agent id) -> until when the agent need not be asked again."""
        self._surely: dict[tuple[int, str], float] = {}
        """The same -> until when it must not be."""

    def started(self) -> None:
        """A life of the daemon begins: declines are not durable."""
        self._declined.clear()
        self._surely.clear()

    def before(self, batch: list[c.Command]) -> None:
        """Note who turns what down."""
        # Then what is given back may have been told to stop just before, and is no decline.
        told = any(isinstance(command, c.StartDrain) for command in batch)
        for command in batch:
            if not isinstance(command, c.Frames) or command.session.stream is not command.stream:
                continue
            agent_id = command.session.agent.spec.agent_id
            for frame in command.frames:
                if not isinstance(frame, (f.Decline, f.Stopped)):
                    continue
                task = command.session.held.get(frame.fence)
                if task is None or task.attempt_state is AttemptState.STOPPING:
                    continue
                asked_ms = frame.retry_in_ms if isinstance(frame, f.Decline) else 0
                until = self.world.time.now + (asked_ms or 1_000) / 1000
                self._declined[task.key, agent_id] = until
                if not told:
                    self._surely[task.key, agent_id] = until

    def after(self, ns: Namespace, fresh: Fresh, mono: float) -> None:
        """Judge what a turn handed out and what it left."""
        queued = [task for task in ns.tasks.values() if task.state is TaskState.QUEUED]
        free = [s for s in ns.sessions.values() if s.bucket >= 0 and s.free_slots > 0]
        for task in queued if free else ():
            for session in free:
                if self._may(task, session, mono):
                    raise Violation(f"{task.spec.task_id} waits though {_name(session)} is free and fits")
        if fresh:
            self._check_order(fresh, queued, mono)
            self._check_preferences(fresh, free, mono)
            self._check_choice(ns, fresh, queued, mono)
        for pool in ns.pools.by_requirements.values():
            if pool not in ns.pools.busy and len(pool.queue):
                raise Violation("a queue that nobody looks at keeps tasks in memory")

    def _may(self, task: Task, session: Session, mono: float) -> bool:
        """Return whether a session may be given a task: its agent fits and has not declined it lately."""
        declined = self._declined.get((task.key, _name(session)), 0.0) > mono
        return not declined and fits(task.spec.requirements, session.agent.spec)

    def _check_order(self, fresh: Fresh, queued: list[Task], mono: float) -> None:
        for number, (task, session) in enumerate(fresh):
            declined = self._surely.get((task.key, _name(session)), 0.0) > mono
            if declined or not fits(task.spec.requirements, session.agent.spec):
                raise Violation(
                    f"{task.spec.task_id} went to an agent that has just declined it, or does not fit"
                )
            mine = order(task)
            for other in chain(queued, (later for later, _ in fresh[number + 1 :])):
                if order(other) < mine and self._may(other, session, mono):
                    raise Violation(f"{task.spec.task_id} was handed out before {other.spec.task_id}")

    def _check_preferences(self, fresh: Fresh, free: list[Session], mono: float) -> None:
        """Whoever is still free now was free when a task went to somebody whom it prefers less."""
        for task, session in fresh:
            if not has_preferences(task):
                continue
            wanted = task.spec.requirements
            for other in free:
                better = score(wanted, other.agent.spec) > score(wanted, session.agent.spec)
                if better and self._may(task, other, mono):
                    raise Violation(f"{task.spec.task_id} prefers {_name(other)} to {_name(session)}")

    def _check_choice(self, ns: Namespace, fresh: Fresh, queued: list[Task], mono: float) -> None:
        """LEAST_LOADED: the least loaded; while the queue is deep one agent is kept for so many draws, and no more.

        Judged when all that was handed out asks for the same, so that one queue was served, in one go.
        """
        first = fresh[0][0]
        wanted = first.spec.requirements
        if any(until > mono for until in self._declined.values()):
            return
        if any(t.spec.requirements != wanted or t.spec.strategy is not LEAST_LOADED for t, _ in fresh):
            return
        last = order(fresh[-1][0])
        if any(t.spec.requirements != wanted and order(t) < last for t in queued):
            # Another queue's head came between, though its agents were full by then.
            return
        queued = [task for task in queued if task.spec.requirements == wanted]
        offered = [s for s in ns.sessions.values() if s.bucket >= 0 and fits(wanted, s.agent.spec)]
        used = {s: len(s.held) + len(s.quarantine) for s in offered}
        for _, session in fresh:
            used[session] -= 1
        free = sum(max(0, s.slots - used[s]) for s in offered)
        # A task with preferences is placed singly, among those whom it prefers most.
        deep = not has_preferences(first) and len(fresh) + len(queued) >= free
        liked = {s: score(wanted, s.agent.spec) for s in offered}
        kept: Session | None = None
        draws = 0
        for task, session in fresh:
            full = kept is not None and used[kept] >= kept.slots
            if deep and kept is not None and not full and draws < self.world.plan.settings.bounds.kept_draws:
                if session is not kept:
                    raise Violation(f"{task.spec.task_id} did not stay with {_name(kept)} in a deep queue")
            else:
                kept, draws = session, 0
                open_to = [s for s in offered if used[s] < s.slots]
                most = max(liked[s] for s in open_to)
                least = min(_sixteenths(s, used[s]) for s in open_to if liked[s] == most)
                if _sixteenths(session, used[session]) > least:
                    raise Violation(f"{task.spec.task_id} went to {_name(session)}, not to the least loaded")
            draws += 1
            used[session] += 1

    def explained(self, ns: Namespace, task: Task | None) -> None:
        """Check what is told about the queue to somebody who asks."""
        queued = [each for each in ns.tasks.values() if each.state is TaskState.QUEUED]
        oldest_ms = min((each.submit_ms for each in queued), default=None)
        if not self.world.jumped and census.oldest_queued_ms(ns) != oldest_ms:
            raise Violation(f"the oldest queued task is said to be of {census.oldest_queued_ms(ns)}")
        if task is None or task.state is not TaskState.QUEUED:
            return
        ahead = [
            each
            for each in queued
            if each.spec.requirements == task.spec.requirements and order(each) < order(task)
        ]
        left = sum(
            each.state is not TaskState.QUEUED and order(each) < order(task)
            for each in _entries(ns.pools.pool(task.spec.requirements).queue)
        )
        told = sum(ns.pools.pool(task.spec.requirements).queue.before(task))
        if not len(ahead) <= told <= len(ahead) + left:
            raise Violation(f"{told} tasks are said to go before {task.spec.task_id}, not {len(ahead)}")


def _name(session: Session) -> str:
    return session.agent.spec.agent_id


def _sixteenths(session: Session, used: int) -> int:
    """Return the load to which the design looks, to a sixteenth."""
    return 16 if used >= session.slots else 16 * used // session.slots


def _entries(queue: TaskQueue) -> list[Task]:
    """Everything that a queue keeps in memory."""
    return list(chain.from_iterable(queue._lines.values()))
