"""Commits: closes batches, has the store write them, and lets out what waited for them.

Invariant: one batch is being written at a time, on one thread; meanwhile the next collects. After a failure, of a write or
of a read that shows the disk broken, nothing is written or let out any more, everybody who waits is told, and ``on_failure``
ends the process: memory and disk never disagree. Who comes after the end is refused.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, TypeVar

from meshd.domain.commit_barrier import CommitBarrier
from meshd.domain.effects import Effects
from meshd.domain.errors import Reason, Refusal
from meshd.domain.limits import RECENT_TASKS
from meshd.domain.records import Writes
from meshd.ports.observer import Observer
from meshd.ports.store import Stop, StorageBrokenError, StorageError, Store

T = TypeVar("T")
C = TypeVar("C")

QUIET_S = 0.001
"""When nobody came for so long, nobody is waited for any more."""

RATE_MEMORY_S = 0.1
"""Time over which the rate of replies is averaged."""

MAX_UNCOMMITTED_AGE_S = 1.0
"""When a change has waited for longer than this, the disk lags behind, and what can be refused is."""

RETRY_MS = 250

READER_THREADS = 4

LIST_TIME_S = 0.25
"""Time in which a list fills its page; one that looks long for few matches lets others have their turn between pages."""


class Commits:
    """Group commit over the store."""

    def __init__(
        self,
        store: Store,
        observer: Observer,
        taken: Callable[[Writes], None],
        release: Callable[[Effects], None],
        on_failure: Callable[[StorageError], None],
        window_s: float,
    ) -> None:
        self._store = store
        self._observer = observer
        self._taken = taken
        self._release = release
        self._on_failure = on_failure
        self._window_s = window_s
        self._barrier = CommitBarrier()
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="writer")
        self._readers = ThreadPoolExecutor(READER_THREADS, thread_name_prefix="reader")
        self._lister = ThreadPoolExecutor(1, thread_name_prefix="lister")
        self._loop = asyncio.get_running_loop()
        self._replies_per_s = 0.0
        self._counted_mono = time.monotonic()
        self._scheduled = False
        self._oldest_mono = 0.0
        self._in_flight_bytes = 0
        self.failed = False
        self._closed = False

    @property
    def effects(self) -> Effects:
        """The batch that collects now."""
        return self._barrier.collecting

    @property
    def writes(self) -> Writes:
        """What the batch that collects now will make durable; append in the same turn as the change in memory."""
        return self._barrier.collecting.writes

    @property
    def in_flight(self) -> bool:
        """True while a batch is being written."""
        return self._barrier.in_flight

    @property
    def uncommitted_bytes(self) -> int:
        """Bytes of payloads and results that are not durable yet."""
        return self.writes.payload_bytes + self._in_flight_bytes

    @property
    def uncommitted_age_s(self) -> float:
        """How long the oldest change that is not durable has waited."""
        return time.monotonic() - self._oldest_mono if self._barrier.pending and self._oldest_mono else 0.0

    @property
    def lags(self) -> bool:
        """True when the disk lags so far behind that no more should wait for it."""
        return self.uncommitted_age_s > MAX_UNCOMMITTED_AGE_S

    def forget_who_gave_up(self) -> None:
        """Drop the replies for which nobody waits any more; a disk that hangs lets them become many."""
        replies = self.effects.replies
        replies[:] = [
            each for each in replies if not (isinstance(each[0], asyncio.Future) and each[0].done())
        ]

    def flush(self) -> None:
        """Let out what waits for nothing; see that the rest gets committed. Call after every turn of changes."""
        if self.failed or self._closed:
            return
        let_out = [self._let_out(effects) for effects in self._barrier.idle()]
        if not all(let_out):
            return
        if self._scheduled or self._barrier.in_flight or not self._barrier.pending:
            return
        if not self._oldest_mono:
            self._oldest_mono = time.monotonic()
        self._scheduled = True
        if self._window_s and self.company:
            self._wait(time.monotonic() + self._window_s, 0)
        else:
            self._loop.call_soon(self._begin)

    @property
    def company(self) -> bool:
        """True while callers come so fast that another one can be expected at once."""
        return self._replies_per_s * QUIET_S >= 1.0

    def _wait(self, until_mono: float, seen: int) -> None:
        """Wait on while callers come, until the window is over: they share one commit and the messages it lets out."""
        came = len(self.effects.replies)
        if came == seen or time.monotonic() >= until_mono:
            self._begin()
        else:
            self._loop.call_later(QUIET_S, self._wait, until_mono, came)

    async def settled(self) -> None:
        """Return when everything computed so far is durable. Raises Refusal when the storage failed or is closed."""
        self._refuse_if_over()
        self.flush()
        if self._barrier.pending:
            done: asyncio.Future[None] = self._loop.create_future()
            self.effects.replies.append((done, None))
            await done

    async def recall(self) -> None:
        """See that what has left memory is in the store as it is. Raises Refusal when the storage failed or is closed.

        Waits for the disk if so many tasks are not durable that one of them may have ended and left memory already.
        """
        # Half of them: as many again may end before the answer is used, and whoever uses it looks again after that.
        if self._barrier.pending_tasks > RECENT_TASKS // 2:
            await self.settled()

    async def read(self, read: Callable[..., T], *args: Any) -> T:
        """Run a read of the store on a reader thread. Raises Refusal when that failed or is closed."""
        return await self._read_on(self._readers, read, *args)

    async def read_list(self, read: Callable[[C, Stop], T], condition: C) -> T:
        """Run a list of the store, which may look at all there is, on a thread that no other read waits for.

        It ends its page when its time is over, and when its caller has gone. Raises Refusal when the store failed or is
        closed.
        """
        gone = threading.Event()

        def listed() -> T:
            end_mono = time.monotonic() + LIST_TIME_S
            return read(condition, lambda: gone.is_set() or time.monotonic() >= end_mono)

        try:
            return await self._read_on(self._lister, listed)
        finally:
            gone.set()

    async def _read_on(self, threads: ThreadPoolExecutor, read: Callable[..., T], *args: Any) -> T:
        self._refuse_if_over()
        try:
            return await self._loop.run_in_executor(threads, read, *args)
        except StorageError as error:
            if isinstance(error, StorageBrokenError):
                self.fail(error)
            if not self.failed:
                raise
            # A read that waited for a thread while a commit failed is told the same as one that comes now.
            raise storage_failed() from error

    async def write_aside(self, write: Callable[..., T], *args: Any) -> T:
        """Run maintenance of the store on the writer thread, between commits."""
        return await self._loop.run_in_executor(self._writer, write, *args)

    async def close(self) -> None:
        """Commit what is pending, refuse whatever comes later, and stop the threads; ``failed`` says whether it was."""
        # The refusal is for callers; of a failed commit ``on_failure`` was told.
        with suppress(Refusal):
            await self.settled()
            while self._barrier.pending:  # Others went on meanwhile.
                await self.settled()
        self._closed = True
        await asyncio.to_thread(self._writer.shutdown)
        await asyncio.to_thread(self._readers.shutdown)
        await asyncio.to_thread(self._lister.shutdown)

    def fail(self, error: StorageError) -> None:
        """Write and let out nothing any more, tell who waits for what collects, and have the daemon end."""
        first, self.failed = not self.failed, True
        refuse_waiting(ticket for ticket, _ in self.effects.replies)
        if first:
            self._on_failure(error)

    def _refuse_if_over(self) -> None:
        if self.failed:
            raise storage_failed()
        if self._closed:
            raise shutting_down()

    def _begin(self) -> None:
        self._scheduled = False
        if self.failed or self._closed:
            return
        taken = self._barrier.take()
        if taken is None:
            self.flush()
            return
        batch_no, effects = taken
        self._in_flight_bytes = effects.writes.payload_bytes
        self._oldest_mono = time.monotonic()
        self._count(len(effects.replies), self._oldest_mono)
        try:
            rows = self._store.snapshot(effects.writes)
            self._taken(effects.writes)
        except Exception as error:  # noqa: BLE001 - whatever it is, this batch will never be durable
            self._fail(effects, StorageError(f"a batch could not be made ready for the disk: {error!r}"))
            return
        future = self._loop.run_in_executor(self._writer, self._timed_commit, rows)
        future.add_done_callback(lambda done: self._committed(batch_no, effects, done))

    def _count(self, replies: int, now_mono: float) -> None:
        """Average the rate of replies over the recent past, forgetting exponentially."""
        passed_s = now_mono - self._counted_mono
        self._counted_mono = now_mono
        kept = math.exp(-passed_s / RATE_MEMORY_S)
        self._replies_per_s = self._replies_per_s * kept + replies / RATE_MEMORY_S * kept

    def _timed_commit(self, rows: Any) -> float:
        start = time.monotonic()
        self._store.commit(rows)
        return time.monotonic() - start

    def _committed(self, batch_no: int, effects: Effects, done: asyncio.Future[float]) -> None:
        error = done.exception()
        if error is not None or self.failed:
            # When memory came into doubt meanwhile, what was computed from it stays in too.
            self._fail(effects, error)
            return
        writes = effects.writes
        rows = len(writes.new_tasks) + len(writes.changed_tasks) + len(writes.audit) + len(writes.attempts)
        self._observer.committed(rows, done.result())
        self._in_flight_bytes = 0
        self._oldest_mono = time.monotonic() if self._barrier.collecting.writes else 0.0
        let_out = [self._let_out(released) for released in self._barrier.durable(batch_no)]
        if all(let_out):
            self.flush()

    def _let_out(self, effects: Effects) -> bool:
        """Release effects; a bug that keeps some of them in must not leave their callers waiting for ever."""
        try:
            self._release(effects)
        except Exception as error:  # noqa: BLE001 - whatever it is, what was let out and what was not is in doubt
            self._fail(effects, StorageError(f"what was durable could not be let out: {error!r}"))
            return False
        return True

    def _fail(self, effects: Effects, error: BaseException | None) -> None:
        """Fail with a batch that is not let out."""
        refuse_waiting(ticket for ticket, _ in effects.replies)
        self.fail(error if isinstance(error, StorageError) else StorageError(f"the commit failed: {error!r}"))


def refuse_waiting(tickets: Iterable[object]) -> None:
    """Tell those of the tickets who wait that the storage failed."""
    for ticket in tickets:
        if isinstance(ticket, asyncio.Future) and not ticket.done():
            ticket.set_exception(storage_failed())


def shutting_down() -> Refusal:
    """Return the refusal of what comes too late to be taken or answered."""
    return Refusal(Reason.SHUTTING_DOWN, "meshd is going down; try again in a moment", retry_ms=1_000)


def disk_lags() -> Refusal:
    """Return the refusal of what must not wait for a disk that lags behind."""
    return Refusal(Reason.OVERLOADED, "meshd's disk lags behind; try again shortly", retry_ms=RETRY_MS)


def storage_failed() -> Refusal:
    """Return the refusal of everything after a failed write, or a read of what is broken."""
    message = (
        "the daemon's storage failed and it is going down; the outcome of this call is unknown, ask again"
    )
    return Refusal(Reason.SHUTTING_DOWN, message, retry_ms=1_000)
