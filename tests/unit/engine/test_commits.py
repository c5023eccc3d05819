"""Group commit: who waits for company, and for how long; and that nothing leaves, or is written, after a failure."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from meshd.domain.effects import Effects
from meshd.domain.errors import Reason, Refusal
from meshd.domain.records import SigningKeyRecord, Writes
from meshd.engine import commits as commits_module
from meshd.engine.commits import Commits
from meshd.ports.observer import Observer
from meshd.ports.store import StorageBrokenError, StorageError, Store

pytestmark = pytest.mark.anyio

HOURS_S = 10_000.0


class CountingStore:
    """Counts commits; each takes no time."""

    def __init__(self) -> None:
        self.commits = 0

    def snapshot(self, writes: Writes) -> int:
        return len(writes.signing_keys)

    def commit(self, batch: int) -> None:
        assert batch
        self.commits += 1


def release(effects: Effects) -> None:
    for ticket, reply in effects.replies:
        cast("asyncio.Future[Any]", ticket).set_result(reply)


def failing_commits(
    store: CountingStore, release: Callable[[Effects], None], failures: list[StorageError]
) -> Commits:
    observer = SimpleNamespace(committed=lambda *_: None)
    return Commits(
        cast("Store", store), cast("Observer", observer), lambda _: None, release, failures.append, 0.0
    )


def commits_over(store: CountingStore, window_s: float, kind: type[Commits] = Commits) -> Commits:
    observer = SimpleNamespace(committed=lambda *_: None)
    return kind(
        cast("Store", store),
        cast("Observer", observer),
        lambda _: None,
        release,
        lambda error: pytest.fail(str(error)),
        window_s,
    )


async def change(commits: Commits) -> None:
    """Change something and wait until it is durable."""
    commits.writes.signing_keys.append(SigningKeyRecord("key", b"", 0))
    await commits.settled()


async def test_a_lone_caller_waits_for_nobody() -> None:
    store = CountingStore()
    commits = commits_over(store, HOURS_S)
    async with asyncio.timeout(10):
        for _ in range(3):
            await change(commits)
    assert store.commits == 3
    await commits.close()


class Crowded(Commits):
    """Expects company at all times."""

    @property
    def company(self) -> bool:
        return True


async def test_callers_in_a_crowd_share_a_commit_and_the_last_is_not_left_waiting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(commits_module, "QUIET_S", 0.2)  # so that a busy machine breaks no crowd up
    store = CountingStore()
    commits = commits_over(store, HOURS_S, Crowded)
    async with asyncio.timeout(30):
        started = []
        for _ in range(50):
            started.append(asyncio.create_task(change(commits)))
            await asyncio.sleep(0)
        await asyncio.gather(*started)
    assert store.commits < 10
    await commits.close()


async def test_company_is_expected_after_many_callers_and_no_more_when_they_stay_away() -> None:
    commits = commits_over(CountingStore(), HOURS_S)
    expected = [commits.company]
    for replies, seconds in ((100_000, 0), (0, 10)):
        commits._count(replies, commits._counted_mono + seconds)
        expected.append(commits.company)
    assert expected == [False, True, False]
    await commits.close()


async def test_without_a_window_nobody_waits() -> None:
    store = CountingStore()
    commits = commits_over(store, 0.0, Crowded)
    async with asyncio.timeout(10):
        await change(commits)
    assert store.commits == 1
    await commits.close()


async def test_a_bug_while_a_batch_is_made_ready_leaves_no_caller_waiting() -> None:
    class BrokenStore(CountingStore):
        def snapshot(self, writes: Writes) -> int:
            raise KeyError(len(writes.signing_keys))

    failures: list[StorageError] = []
    commits = failing_commits(BrokenStore(), release, failures)
    async with asyncio.timeout(10):
        with pytest.raises(Refusal):
            await change(commits)
    assert "made ready" in str(*failures)
    await commits.close()


async def test_a_bug_while_effects_are_let_out_leaves_no_caller_waiting() -> None:
    failures: list[StorageError] = []

    def broken(effects: Effects) -> None:
        raise KeyError(len(effects.replies))

    commits = failing_commits(CountingStore(), broken, failures)
    async with asyncio.timeout(10):
        with pytest.raises(Refusal):
            await change(commits)
    told = len(failures)
    assert told
    assert all("let out" in str(each) for each in failures)
    commits.flush()
    assert len(failures) == told, "nothing more was let out"
    await commits.close()


class HeldStore(CountingStore):
    """Fails its first commit, but only when it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.begun, self.go = threading.Event(), threading.Event()

    def commit(self, batch: int) -> None:
        super().commit(batch)
        self.begun.set()
        assert self.go.wait(30)
        if self.commits == 1:
            raise StorageError("the disk failed")


async def test_after_a_failed_commit_everybody_is_refused_and_nothing_is_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store, failures = HeldStore(), list[StorageError]()
    commits = failing_commits(store, release, failures)
    in_it = asyncio.ensure_future(change(commits))
    assert await asyncio.to_thread(store.begun.wait, 30)
    after_it = asyncio.ensure_future(change(commits))
    await asyncio.sleep(0)
    assert commits.uncommitted_age_s > 0
    monkeypatch.setattr(commits_module, "MAX_UNCOMMITTED_AGE_S", 0.0)
    assert commits.lags
    store.go.set()
    async with asyncio.timeout(10):
        reads = commits.read(int), commits.read_list(lambda _, stop: stop(), None)
        for waiting in (in_it, after_it, change(commits), commits.settled(), *reads):
            with pytest.raises(Refusal) as refused:
                await waiting
            assert refused.value.reason is Reason.SHUTTING_DOWN
    assert [str(failure) for failure in failures] == ["the disk failed"]
    await commits.close()
    assert store.commits == 1


async def test_what_collects_when_a_step_breaks_a_rule_is_never_written() -> None:
    store, failures = CountingStore(), list[StorageError]()
    commits = failing_commits(store, release, failures)
    collecting = asyncio.ensure_future(change(commits))
    await asyncio.sleep(0)
    for _ in range(2):
        commits.fail(StorageError("a rule"))  # As the mesh says when memory may be half changed.
    async with asyncio.timeout(10):
        with pytest.raises(Refusal):
            await collecting
    await commits.close()
    assert (store.commits, len(failures)) == (0, 1)


async def test_what_is_written_when_a_step_breaks_a_rule_is_not_let_out() -> None:
    store, let_out = HeldStore(), list[Effects]()
    store.commits = 1
    commits = failing_commits(store, let_out.append, [])
    in_it = asyncio.ensure_future(change(commits))
    assert await asyncio.to_thread(store.begun.wait, 30)
    commits.fail(StorageError("a rule"))
    store.go.set()
    async with asyncio.timeout(10):
        with pytest.raises(Refusal):
            await in_it
    await commits.close()
    assert not let_out


@pytest.mark.parametrize("lists", [False, True])
async def test_a_read_of_what_is_broken_is_the_end_and_another_that_fails_is_not(lists: bool) -> None:
    failures = list[StorageError]()
    commits = failing_commits(CountingStore(), release, failures)
    error = StorageError("no handle left")

    def read(*_: object) -> None:
        raise error

    def reading() -> Awaitable[None]:
        return commits.read_list(read, None) if lists else commits.read(read)

    async with asyncio.timeout(10):
        with pytest.raises(StorageError, match="no handle left"):
            await reading()
        await change(commits)
        error = StorageBrokenError("a page is damaged")
        for refused in (reading(), change(commits)):
            with pytest.raises(Refusal) as caught:
                await refused
            assert caught.value.reason is Reason.SHUTTING_DOWN
    assert [str(failure) for failure in failures] == ["a page is damaged"]
    await commits.close()


async def test_a_read_that_finds_the_storage_failed_meanwhile_is_refused_like_one_that_comes_later() -> None:
    commits = failing_commits(CountingStore(), release, [])
    begun, go = threading.Event(), threading.Event()

    def refused_read() -> None:
        begun.set()
        assert go.wait(30)
        raise StorageError("an earlier commit failed")

    reading = asyncio.ensure_future(commits.read(refused_read))
    assert await asyncio.to_thread(begun.wait, 30)
    commits.fail(StorageError("the disk failed"))
    go.set()
    with pytest.raises(Refusal) as refused:
        await reading
    assert refused.value.reason is Reason.SHUTTING_DOWN
    await commits.close()


async def test_payloads_count_until_they_are_durable() -> None:
    store = HeldStore()
    store.commits = 1
    commits = commits_over(store, 0.0)
    assert commits.uncommitted_bytes == 0
    commits.writes.payload_bytes += 1_000
    changed = asyncio.ensure_future(change(commits))
    assert await asyncio.to_thread(store.begun.wait, 30)
    commits.writes.payload_bytes += 10
    assert commits.uncommitted_bytes == 1_010
    store.go.set()
    await changed
    await commits.settled()
    assert commits.uncommitted_bytes == 0
    await commits.close()


async def test_what_comes_after_the_end_is_refused() -> None:
    commits = commits_over(CountingStore(), 0.0)
    await change(commits)
    await commits.close()
    async with asyncio.timeout(10):
        for late in (change(commits), commits.read(int), commits.read_list(lambda _, stop: stop(), None)):
            with pytest.raises(Refusal) as refused:
                await late
            assert refused.value.reason is Reason.SHUTTING_DOWN
    commits.flush()
    commits._begin()


async def test_what_others_change_while_the_end_commits_is_committed_too() -> None:
    store = CountingStore()
    commits = commits_over(store, 0.0)

    async def change_twice() -> None:
        await change(commits)
        await change(commits)

    changed = asyncio.ensure_future(change_twice())
    await asyncio.sleep(0)
    async with asyncio.timeout(10):
        await commits.close()
        await changed
    assert store.commits == 2
