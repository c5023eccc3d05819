"""The oracle of the fault tests: judges what clients and workers saw, and nothing else.

It reads no record of the mesh and knows nothing of its inside. A history is what was submitted and how that was
answered, what was read when, and what workers executed under which fence. A submit without an answer may have happened
or not: either is right, but for good.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum

NOT_FOUND = "NOT_FOUND"
TERMINAL = frozenset({"SUCCEEDED", "FAILED", "CANCELLED", "EXPIRED"})


@dataclass(frozen=True, slots=True)
class Submit:
    """A submit as its client saw it; `acked` is False when the outcome is unknown. Times are monotonic seconds."""

    task_id: str
    client: str
    ended_s: float
    acked: bool


@dataclass(frozen=True, slots=True)
class Read:
    """What a client was told about a task; `state` may be NOT_FOUND. `output` is the result of a succeeded one."""

    task_id: str
    client: str
    began_s: float
    ended_s: float
    state: str
    output: bytes = b""


@dataclass(frozen=True, slots=True)
class Execution:
    """A worker ran a task under a fence and returned `output`, which no other execution returns."""

    task_id: str
    agent_id: str
    fence_number: int
    output: bytes


@dataclass(slots=True)
class History:
    """All that was seen."""

    submits: list[Submit] = field(default_factory=list)
    reads: list[Read] = field(default_factory=list)
    executions: list[Execution] = field(default_factory=list)


class Rule(StrEnum):
    """What can be broken."""

    LOST = "an acknowledged or seen task was not found later"
    UNREAD = "nobody looked for an acknowledged task afterwards"
    NEVER_ENDED = "the last look at an acknowledged task shows no outcome"
    SECOND_OUTCOME = "two outcomes of one task were seen"
    TAKEN_BACK = "an outcome that was seen is gone"
    FOREIGN_RESULT = "a result comes from no execution of its task"
    FENCE_REUSED = "two executions ran under one fence number"


@dataclass(frozen=True, slots=True)
class Violation:
    """A broken rule."""

    rule: Rule
    task_id: str
    detail: str


def judge(history: History) -> list[Violation]:
    """Returns every violation; none means that all promises held."""
    reads: dict[str, list[Read]] = defaultdict(list)
    for read in sorted(history.reads, key=lambda read: read.began_s):
        reads[read.task_id].append(read)
    acked_s: dict[str, float] = {}
    for submit in history.submits:
        if submit.acked:
            acked_s[submit.task_id] = min(submit.ended_s, acked_s.get(submit.task_id, submit.ended_s))
    produced: dict[str, set[bytes]] = defaultdict(set)
    for execution in history.executions:
        produced[execution.task_id].add(execution.output)
    found: list[Violation] = []
    for task_id in sorted(acked_s.keys() | reads.keys()):
        found += _judge_existence(task_id, acked_s.get(task_id), reads[task_id])
        found += _judge_outcome(task_id, reads[task_id], produced[task_id])
    return [*found, *_judge_fences(history.executions)]


def _judge_existence(task_id: str, acked_s: float | None, reads: list[Read]) -> Iterable[Violation]:
    seen_s = [read.ended_s for read in reads if read.state != NOT_FOUND]
    exists_from_s = min([*seen_s, *([] if acked_s is None else [acked_s])], default=None)
    if exists_from_s is not None:
        for read in reads:
            if read.state == NOT_FOUND and read.began_s > exists_from_s:
                yield Violation(Rule.LOST, task_id, f"told to {read.client} at {read.ended_s:.3f}")
                return
    if acked_s is None:
        return
    later = [read for read in reads if read.began_s > acked_s]
    if not later:
        yield Violation(Rule.UNREAD, task_id, f"acknowledged at {acked_s:.3f}")
    elif later[-1].state not in TERMINAL:
        yield Violation(Rule.NEVER_ENDED, task_id, f"{later[-1].state} at {later[-1].ended_s:.3f}")


def _judge_outcome(task_id: str, reads: list[Read], produced: set[bytes]) -> Iterable[Violation]:
    ends = [read for read in reads if read.state in TERMINAL]
    if not ends:
        return
    outcomes = {(read.state, read.output) for read in ends}
    if len(outcomes) > 1:
        told = ", ".join(f"{read.client} at {read.ended_s:.3f}: {read.state}" for read in ends)
        yield Violation(Rule.SECOND_OUTCOME, task_id, told)
    first_seen_s = min(read.ended_s for read in ends)
    for read in reads:
        if read.began_s > first_seen_s and read.state not in TERMINAL:
            yield Violation(
                Rule.TAKEN_BACK, task_id, f"{read.client} read {read.state} at {read.ended_s:.3f}"
            )
            break
    for state, output in outcomes:
        if state == "SUCCEEDED" and output not in produced:
            yield Violation(Rule.FOREIGN_RESULT, task_id, f"{len(output)} bytes")


def _judge_fences(executions: list[Execution]) -> Iterable[Violation]:
    by_fence: dict[int, list[Execution]] = defaultdict(list)
    for execution in executions:
        by_fence[execution.fence_number].append(execution)
    for fence_number, same in by_fence.items():
        if len(same) > 1:
            who = ", ".join(f"{execution.agent_id} ran {execution.task_id}" for execution in same)
            yield Violation(Rule.FENCE_REUSED, same[0].task_id, f"fence {fence_number}: {who}")
