"""The oracle's account of what is due: retries, deadlines, graces. Nothing comes early, nothing much too late.

It counts on the monotonic clock from what it saw happen in this life of the daemon; across restarts deadlines are wall
times, so it judges lateness only while the wall clock has not jumped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from meshd.domain.state import Namespace
from meshd.domain.values import AttemptState, Now, OutcomeReason, Task, TaskState
from tests.simulation.violation import Violation

if TYPE_CHECKING:
    from tests.simulation.daemon import Daemon
    from tests.simulation.world import World

LATE_S: Final = 1.0
HELD_STATES: Final = (TaskState.ASSIGNED, TaskState.RUNNING)


class Timing:
    """What is due in one world."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._waiting: dict[Task, float] = {}
        self._queued: dict[Task, float] = {}
        """Since when."""
        self._running: dict[tuple[Task, int], float] = {}
        self._stopping: dict[tuple[Task, int], tuple[float, int]] = {}
        """attempt -> when it is over at the latest, and the grace that says so."""
        self.ran: set[int] = set()
        """Keys of tasks that an agent took in this life of the daemon: their time in the queue counts no more."""
        self._handed_over: set[tuple[Task, int]] = set()
        self._start = 0.0

    def started(self, daemon: Daemon) -> None:
        """A life of the daemon begins."""
        self._waiting.clear()
        self._queued.clear()
        self._running.clear()
        self._stopping.clear()
        self.ran.clear()
        self._start = self.world.time.now
        for ns in daemon.namespaces.values():
            for task in ns.tasks.values():
                if task.state is TaskState.WAITING:
                    self._waiting[task] = self._start
                if task.attempt_state is AttemptState.STOPPING and task.state in HELD_STATES:
                    hold = max(self._start, daemon.fleet.hold_until_mono)
                    grace_ms = task.cancel_grace_ms
                    self._stopping[task, task.attempt] = (hold + grace_ms / 1000, grace_ms)

    def turned(self, daemon: Daemon, ns: Namespace, now: Now) -> None:
        """Note what began and judge what is over."""
        mono, queued = now.mono, self._queued
        for task in ns.tasks.values():
            state = task.state
            if state is TaskState.QUEUED:
                if task not in queued:
                    queued[task] = mono
                continue
            if task in queued:
                del queued[task]
            if state is TaskState.WAITING:
                if task not in self._waiting:
                    self._waiting[task] = mono
            elif task.attempt_state is AttemptState.RUNNING:
                attempt = (task, task.attempt)
                if attempt not in self._running:
                    self._running[attempt] = mono
                    self.ran.add(task.key)
            elif task.attempt_state is AttemptState.STOPPING:
                self._note_stop((task, task.attempt), mono)
        if self._waiting:
            self._judge_waiting(mono)

    def _judge_waiting(self, mono: float) -> None:
        for task, since in list(self._waiting.items()):
            if task.state is not TaskState.WAITING:
                del self._waiting[task]
                if not task.terminal and since > self._start:
                    self._judge_retry(task, mono - since)

    def _note_stop(self, attempt: tuple[Task, int], mono: float) -> None:
        task = attempt[0]
        grace_ms = task.cancel_grace_ms
        due = mono + grace_ms / 1000
        known = self._stopping.get(attempt)
        if known is None:
            self._stopping[attempt] = (due, grace_ms)
            if task.cancel_cause is OutcomeReason.NONE:
                self._handed_over.add(attempt)
            if task.cancel_cause is OutcomeReason.EXECUTION_TIMEOUT:
                self._judge_execution(task, mono)
        elif task.cancel_cause is OutcomeReason.EXECUTION_TIMEOUT and attempt in self._handed_over:
            raise Violation(f"{task.spec.task_id} is handed over and charged with a timeout")
        elif known[1] != grace_ms:
            self._stopping[attempt] = (min(known[0], due), grace_ms)

    def _judge_execution(self, task: Task, mono: float) -> None:
        since = self._running.get((task, task.attempt), mono)
        if mono - since < task.spec.execution_timeout_ms / 1000 - 0.001:
            raise Violation(f"{task.spec.task_id} was stopped {mono - since:.3f} s after it began")

    @staticmethod
    def _pause_s(task: Task) -> float:
        retry = task.spec.retry
        doubled = retry.initial_backoff_ms * retry.multiplier ** (task.failures - 1)
        return float(min(retry.max_backoff_ms, doubled)) / 1000

    def _judge_retry(self, task: Task, waited: float) -> None:
        if waited < 0.8 * self._pause_s(task) - 0.002:
            raise Violation(f"{task.spec.task_id} is tried again after {waited:.3f} s")

    def swept(self, daemon: Daemon, ns: Namespace, now: Now) -> None:
        """Nothing that is due may be left undone."""
        frozen = sum(length for end, length in self.world.daemon_freezes if end > now.mono - 60.0)
        for task in ns.tasks.values():
            name = task.spec.task_id
            late = LATE_S + frozen
            if task.state is TaskState.WAITING:
                since = self._waiting.get(task, self._start)
                if now.mono - since > self._pause_s(task) + late:
                    raise Violation(f"{name} is not tried again after {now.mono - since:.1f} s")
            attempt = (task, task.attempt)
            stopping = self._stopping.get(attempt)
            if stopping is not None and task.state in HELD_STATES:
                if now.mono - stopping[0] > late:
                    raise Violation(f"{name} is not stopped {now.mono - stopping[0]:.1f} s after its grace")
                continue
            self._judge_deadline(task, now, late, daemon)
            limit_s = task.spec.execution_timeout_ms / 1000
            running = self._running.get(attempt)
            if (
                limit_s
                and running is not None
                and task.state is TaskState.RUNNING
                and now.mono - running > limit_s + late
            ):
                raise Violation(f"{name} runs for {now.mono - running:.1f} s, {limit_s} are allowed")

    def _judge_deadline(self, task: Task, now: Now, late: float, daemon: Daemon) -> None:
        if self.world.jumped or now.mono - self._start < late:
            return
        over_s = (now.wall_ms - task.deadline_ms) / 1000
        if task.deadline_ms and over_s > late:
            raise Violation(f"{task.spec.task_id} is open {over_s:.1f} s after its deadline")
        over_s = (now.wall_ms - task.queue_deadline_ms) / 1000
        untouched = task.state is TaskState.QUEUED and not (task.failures or task.losses or task.taken)
        # Back from an agent that did not take it, it is looked at again within a second.
        over_s = min(over_s, now.mono - self._queued.get(task, now.mono))
        if task.queue_deadline_ms and untouched and over_s > late + 0.3:
            raise Violation(f"{task.spec.task_id} is queued {over_s:.1f} s after its queue deadline")
