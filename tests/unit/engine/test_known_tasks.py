"""Which submitted ids cost a look into the store, and that no caller's look costs another one his answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import pytest

from meshd.domain.commands import KnownTask
from meshd.domain.errors import Refusal
from meshd.domain.values import TaskState
from meshd.engine import known_tasks as module
from meshd.engine.commits import Commits, shutting_down
from meshd.engine.known_tasks import PIECE, KnownTasks
from meshd.ports.store import StorageError, Store, StoredDigest

pytestmark = pytest.mark.anyio


class FakeStore:
    """Knows some ids of the namespace ``default``, and which it was asked for."""

    def __init__(self, ids: list[str]) -> None:
        self.ids = ids
        self.asked: list[str] = []

    def list_ids(self, after_key: int, limit: int) -> list[tuple[int, str, str]]:
        return [(n, "default", each) for n, each in enumerate(self.ids, 1) if n > after_key][:limit]

    def find_digests(self, namespace: str, task_ids: list[str]) -> list[StoredDigest]:
        self.asked += task_ids
        found = [each for each in task_ids if each in self.ids and namespace == "default"]
        return [StoredDigest(each, 7, b"digest", TaskState.QUEUED) for each in found]


class DirectCommits:
    """Reads at once; what waits for the disk is written when somebody waits for it."""

    def __init__(self) -> None:
        self.before_recall: Callable[[], None] = lambda: None

    async def recall(self) -> None:
        self.before_recall()

    async def read(self, read: Callable[..., Any], *args: Any) -> Any:
        return read(*args)


def known_tasks(store: FakeStore) -> KnownTasks:
    return KnownTasks(cast("Store", store), cast("Commits", DirectCommits()))


async def test_before_the_earlier_ids_are_learnt_every_id_is_looked_up() -> None:
    store = FakeStore(["old"])
    known = known_tasks(store)
    assert await known.find("default", ["new"]) == {}
    assert await known.find("default", ["old"]) == {"old": KnownTask(7, b"digest")}
    assert store.asked == ["new", "old"]


async def test_then_only_ids_that_may_be_known_are() -> None:
    store = FakeStore([f"old-{n}" for n in range(2 * PIECE + 1)])
    known = known_tasks(store)
    await known.learn()
    last = store.ids[-1]
    assert await known.find("default", ["new-1", last, "new-2"]) == {last: KnownTask(7, b"digest")}
    assert store.asked == [last]


async def test_learning_ends_when_meshd_does() -> None:
    class GoneCommits(DirectCommits):
        async def read(self, read: Callable[..., Any], *args: Any) -> Any:
            raise shutting_down()

    known = KnownTasks(cast("Store", FakeStore([])), cast("Commits", GoneCommits()))
    await known.learn()
    with pytest.raises(Refusal):
        await known.find("default", ["new"])


async def test_an_id_submitted_twice_is_looked_up_the_second_time() -> None:
    store = FakeStore([])
    known = known_tasks(store)
    await known.learn()
    await known.find("default", ["task"])
    store.ids.append("task")
    assert await known.find("default", ["task"]) == {"task": KnownTask(7, b"digest")}
    await known.find("other", ["task"])
    assert store.asked == ["task"]


async def test_of_too_many_ids_each_is_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    store = FakeStore([])
    known = known_tasks(store)
    await known.learn()
    monkeypatch.setattr(module, "MAX_FILTER_BYTES", 0)
    await known.find("default", ["first"])
    await known.find("default", ["second"])
    assert store.asked == ["second"]
    assert known._taken is None


class HeldCommits:
    """Reads once it is let go."""

    def __init__(self) -> None:
        self.go = asyncio.Event()

    async def recall(self) -> None:
        pass

    async def read(self, read: Callable[..., Any], *args: Any) -> Any:
        await self.go.wait()
        return read(*args)


async def test_who_gives_up_while_ids_are_looked_up_costs_the_others_nothing() -> None:
    commits = HeldCommits()
    known = KnownTasks(cast("Store", FakeStore(["a", "b"])), cast("Commits", commits))
    leaving, staying = [asyncio.ensure_future(known.find("default", [each])) for each in ("a", "b")]
    for _ in range(3):
        await asyncio.sleep(0)
    leaving.cancel()
    commits.go.set()
    async with asyncio.timeout(10):
        assert (await staying)["b"] == KnownTask(7, b"digest")
        assert await known.find("default", ["a"]) == {"a": KnownTask(7, b"digest")}


async def test_an_error_is_told_to_all_who_asked_and_to_nobody_later(monkeypatch: pytest.MonkeyPatch) -> None:
    store = FakeStore(["a"])
    known = known_tasks(store)

    def broken(namespace: str, task_ids: list[str]) -> list[StoredDigest]:
        raise StorageError("no disk")

    async with asyncio.timeout(10):
        with monkeypatch.context() as patched:
            patched.setattr(store, "find_digests", broken)
            asked = [known.find("default", [each]) for each in ("a", "b")]
            for outcome in await asyncio.gather(*asked, return_exceptions=True):
                assert isinstance(outcome, StorageError)
        assert await known.find("default", ["a"]) == {"a": KnownTask(7, b"digest")}


async def test_a_look_waits_for_what_is_being_written() -> None:
    store, commits = FakeStore([]), DirectCommits()
    known = KnownTasks(cast("Store", store), cast("Commits", commits))
    await known.learn()
    await known.find("default", ["task"])
    commits.before_recall = lambda: store.ids.append("task")
    assert await known.find("default", ["task"]) == {"task": KnownTask(7, b"digest")}
