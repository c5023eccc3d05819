"""How long tasks take from stage to stage, read from the batches that are written.

Rule: the path of a task stays free of it. One pass over each batch counts durations per millisecond and hands the
counts over together, which costs half a microsecond a task; an observation per task and stage would cost ten times that.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from meshd.domain.records import Writes
from meshd.domain.values import AttemptState, Task, TaskState
from meshd.ports.observer import Observer, Stage

HANDED_OUT = (AttemptState.ASSIGNED, AttemptState.RUNNING)

Durations = Iterable[tuple[str, int]]
"""(namespace, milliseconds) of each task."""


def taken(writes: Writes, observer: Observer) -> None:
    """Measure what a batch says of its tasks; called when it is closed, before they change again."""
    batch = [*writes.new_tasks.values(), *writes.changed_tasks.values()]
    _hand_over(Stage.ASSIGNED, _assigned(batch), observer)
    reported = _reported(batch, writes)
    if reported:
        # A report may come without an Accept before it.
        accepted = [(task, end_ms) for task, end_ms in reported if task.accept_ms]
        _hand_over(Stage.ACCEPTED, ((t.namespace, t.accept_ms - t.assign_ms) for t, _ in accepted), observer)
        _hand_over(Stage.RAN, ((t.namespace, end_ms - t.accept_ms) for t, end_ms in accepted), observer)
        succeeded = (t for t, _ in reported if t.state is TaskState.SUCCEEDED)
        _hand_over(Stage.SUCCEEDED, ((t.namespace, t.end_ms - t.submit_ms) for t in succeeded), observer)


def durable(writes: Writes, wall_ms: int, observer: Observer) -> None:
    """Measure how long the new tasks of a batch waited for the disk."""
    if writes.new_tasks:
        new = writes.new_tasks.values()
        _hand_over(Stage.DURABLE, ((t.namespace, wall_ms - t.submit_ms) for t in new), observer)


def _assigned(tasks: Iterable[Task]) -> Iterator[tuple[str, int]]:
    # An attempt that is handed out and not being stopped got into the batch by its assignment alone.
    for task in tasks:
        if task.attempt == 1 and not task.end_ms and task.attempt_state in HANDED_OUT:
            yield task.namespace, task.assign_ms - task.submit_ms


def _reported(batch: list[Task], writes: Writes) -> list[tuple[Task, int]]:
    """Return the tasks whose present attempt ended with a report, and when it did."""
    reported = [(task, task.end_ms) for task in batch if task.state is TaskState.SUCCEEDED]
    if writes.attempts:
        changed = writes.changed_tasks
        reported += [
            (task, ended.end_ms)
            for ended in writes.attempts
            if ended.state is AttemptState.FAILED
            and (task := changed.get(ended.task_key)) is not None
            and task.attempt == ended.number
        ]
    return reported


def _hand_over(stage: Stage, durations: Durations, observer: Observer) -> None:
    by_namespace: dict[str, dict[int, int]] = {}
    for (namespace, ms), count in Counter(durations).items():
        by_namespace.setdefault(namespace, {})[ms] = count
    for namespace, count_by_ms in by_namespace.items():
        observer.staged(stage, namespace, count_by_ms)
