"""Submitting: when new work is refused, and one audit entry a call, however often the store is asked."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from meshd.domain.access import ANONYMOUS, AccessRule, Action, Call, Scope
from meshd.domain.commands import LookAgain, Submit
from meshd.domain.errors import Reason, Refusal
from meshd.domain.state import Namespace
from meshd.domain.values import Requirements, TaskSpec
from meshd.engine.known_tasks import KnownTasks
from meshd.engine.mesh import Entry, Mesh
from meshd.engine.submission import Submission

pytestmark = pytest.mark.anyio

CALL = Call(ANONYMOUS, "SubmitTask", "default", AccessRule(Action.WRITE, "tasks", Scope.NAMESPACE))


class ForgetfulMesh:
    """Wants the store to be looked at again, once."""

    def __init__(self) -> None:
        self.replies: list[Any] = [LookAgain(), ["taken"]]
        self.entries: list[Entry] = []

    async def ask(self, ns: Namespace, make: Callable[[object], Submit], entry: Entry) -> Any:
        assert make(None).specs
        self.entries.append(entry)
        return self.replies.pop(0)


class KnowsNothing:
    """Has seen no id."""

    async def find(self, namespace: str, task_ids: list[str]) -> dict[str, Any]:
        return {}


async def test_a_call_that_looks_again_posts_the_same_entry() -> None:
    mesh = ForgetfulMesh()
    submission = Submission(cast("Mesh", mesh), cast("KnownTasks", KnowsNothing()), 1)
    ns = cast("Namespace", SimpleNamespace(name="default", ended_count=0))
    spec = TaskSpec("t1", "work", b"", b"d", Requirements(frozenset(("work",))))
    results: list[Any] = list(await submission.submit(ns, [spec], CALL, copies=False))
    assert results == ["taken"]
    first, second = mesh.entries
    assert first is second


def submission_while(*, closing: bool = False, behind_bytes: int = 0, low_space: bool = False) -> Submission:
    """Return what admits up to 100 bytes that are not durable, in this state of the mesh and its disk."""
    commits = SimpleNamespace(uncommitted_bytes=behind_bytes)
    store = SimpleNamespace(low_space=lambda: low_space)
    mesh = SimpleNamespace(closing=closing, commits=commits, store=store)
    return Submission(cast("Mesh", mesh), cast("KnownTasks", KnowsNothing()), 100)


def test_new_work_is_taken_while_the_disk_keeps_up() -> None:
    submission_while(behind_bytes=100).admit()


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        ({"closing": True}, Reason.SHUTTING_DOWN),
        ({"behind_bytes": 101}, Reason.OVERLOADED),
        ({"low_space": True}, Reason.STORAGE_LOW),
    ],
)
def test_new_work_is_refused_with_a_time_to_come_again(state: dict[str, Any], reason: Reason) -> None:
    with pytest.raises(Refusal) as refused:
        submission_while(**state).admit()
    assert refused.value.reason is reason
    assert refused.value.retry_ms
