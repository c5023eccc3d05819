"""Feeds: the changes of all agents or tasks of a namespace that match a filter, for everybody who watches them.

A feed is shared by all watchers with the same filter. Its log has the newest state of each agent or task that changed,
encoded once, in order of revision; a watcher is no more than its place in the log. Invariants: the log covers every
change after ``base``; what a watcher is shown of one item never goes back; nothing is shown before it is durable.

What it costs at most. A watcher that stopped reading: the one message it is being sent, 64 KiB (or one item, if that
is larger), and as much in gRPC; it delays nobody. A feed, however many watch: its log, 4 MiB or 8,192 items; while a
filter watches, the key of each item that it has shown; while snapshots are read, one list of the items; and there are
at most MAX_FEEDS that are watched in a namespace. When nobody watches: nothing, a minute after the last one left.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable, Iterable
from enum import IntEnum
from functools import partial
from typing import Any, Final, Generic, NamedTuple, Protocol, Self, TypeVar
from weakref import ref

from meshd.domain.errors import Reason, Refusal

T = TypeVar("T")
T_contra = TypeVar("T_contra", contravariant=True)

MAX_LOG_ENTRIES: Final = 8_192
MAX_LOG_BYTES: Final = 4 * 1024 * 1024
MAX_MESSAGE_BYTES: Final = 64 * 1024
"""Size up to which changes are put into one message."""
MAX_CHUNK_ITEMS: Final = 500
"""Items of a snapshot looked at in one go: a few milliseconds."""
KEPT_PIECES: Final = 8
"""Encoded pieces kept for other watchers that are at the same place."""
PACE_S: Final = 0.02
"""A feed wakes its watchers at most this often; the first change after a quiet time leaves at once."""
WAKE_SLICE: Final = 32
"""Watchers woken in one turn of the event loop, so that a thousand of them do not hold up a beat."""
LINGER_S: Final = 60.0
"""How long a feed is kept after its last watcher left, for those who come back."""
MAX_IDLE_FEEDS: Final = 64
MAX_FEEDS: Final = 128
"""Different filters watched at a time in a namespace: each change is compared with all of them."""
REFUSED_RETRY_MS: Final = 5_000


class ResetReason(IntEnum):
    """Why a snapshot begins; the numbers are those of the contract."""

    START = 1
    EPOCH = 2
    HISTORY = 3
    BEHIND = 4


class Position(NamedTuple):
    """Up to where a watcher has seen everything."""

    epoch: int
    revision: int


class Filter(Protocol[T_contra]):
    """Which items are meant; hashable."""

    def matches(self, item: T_contra, /) -> bool:
        """Return whether an item is meant as it is now."""


class Encoding(Protocol[T_contra]):
    """How one kind of items becomes parts of messages; parts that are joined are one message."""

    def key(self, item: T_contra, /) -> Hashable:
        """Return what stays the same through an item's changes."""

    def over(self, item: T_contra, /) -> bool:
        """Return whether an item will not change any more."""

    def item(self, item: T_contra, revision: int, /) -> bytes:
        """Return the part that shows an item; revision 0 in snapshots."""

    def gone(self, item: T_contra, revision: int, /) -> bytes:
        """Return the part that says that an item stopped matching."""

    def position(self, revision: int, /) -> bytes:
        """Return the part that says that everything up to a revision was shown."""

    def reset(self, reason: ResetReason, /) -> bytes:
        """Return the part that begins a snapshot."""


class Piece(NamedTuple):
    """Changes encoded together; ``end`` is a revision, or an index into the list of a snapshot."""

    parts: bytes
    end: int
    revision: int
    """Revision of the state that it shows."""


class Change(Generic[T]):
    """One changed item; encoded at most once, in the turn of its change."""

    __slots__ = ("encoding", "gone", "item", "key", "revision", "shown")

    def __init__(self, key: Hashable, revision: int, item: T, encoding: Encoding[T]) -> None:
        self.key = key
        self.revision = revision
        self.item = item
        self.encoding = encoding
        self.shown = b""
        self.gone = b""

    def part(self, *, gone: bool) -> bytes:
        """Return the encoded change."""
        if gone:
            self.gone = self.gone or self.encoding.gone(self.item, self.revision)
            return self.gone
        self.shown = self.shown or self.encoding.item(self.item, self.revision)
        return self.shown


Entry = tuple[Hashable, int, bytes]
"""(key, revision, part) of a change that concerns a feed."""


class Roster(Generic[T]):
    """The items of a snapshot, shared by the watchers that began it at about the same time."""

    def __init__(self, revision: int, items: list[T]) -> None:
        self.revision = revision
        self.items = items
        self.pieces: OrderedDict[int, Piece] = OrderedDict()


class Feed(Generic[T]):
    """The changes of the items that match one filter."""

    def __init__(self, namespace: str, wanted: Filter[T], encoding: Encoding[T], revision: int) -> None:
        self.namespace = namespace
        self.wanted = wanted
        self.encoding = encoding
        self.base = revision
        """The log has every change after this revision."""
        self.revision = revision
        """Newest revision that is durable, and so in the log if it concerns the feed."""
        self.watches = 0
        self._everything = wanted == type(wanted)()
        self._shown: set[Hashable] = set()
        """Items that somebody was shown and that were not said to be gone; empty when everything matches."""
        self._log: OrderedDict[Hashable, tuple[int, bytes]] = OrderedDict()
        self._log_bytes = 0
        self._pieces: OrderedDict[int, Piece] = OrderedDict()
        self._roster: ref[Roster[T]] | None = None
        self._reading: set[Watch[T]] = set()
        self._waiting: OrderedDict[asyncio.Future[None], None] = OrderedDict()
        self._waking = False
        self._grown = False
        """The log grew since the last wave of waking began."""
        self._woke_mono = 0.0

    # ---- what happened

    def select(self, changes: Iterable[Change[T]]) -> list[Entry]:
        """Return those changes that concern the feed. Call in the turn of the changes."""
        entries: list[Entry] = []
        encoding = self.encoding
        for change in changes:
            if self._everything or self.wanted.matches(change.item):
                if not self._everything:
                    self._shown.add(change.key)
                entries.append((change.key, change.revision, change.part(gone=False)))
                if encoding.over(change.item):
                    self._shown.discard(change.key)
            elif change.key in self._shown:
                self._shown.discard(change.key)
                entries.append((change.key, change.revision, change.part(gone=True)))
        return entries

    def publish(self, entries: list[Entry], revision: int) -> None:
        """Add changes to the log and wake those who wait for them. Call when they are durable."""
        self.revision = revision
        if not entries:
            return
        log = self._log
        for key, changed, part in entries:
            old = log.pop(key, None)
            if old is not None:
                self._log_bytes -= len(old[1])
            log[key] = (changed, part)
            self._log_bytes += len(part)
        if len(log) > MAX_LOG_ENTRIES or self._log_bytes > MAX_LOG_BYTES:
            self._forget_oldest()
        self._pieces.clear()
        self._grown = True
        self._wake_soon()

    def _forget_oldest(self) -> None:
        while len(self._log) > MAX_LOG_ENTRIES or self._log_bytes > MAX_LOG_BYTES:
            _, (self.base, part) = self._log.popitem(last=False)
            self._log_bytes -= len(part)
        for watch in [w for w in self._reading if w.place < self.base]:
            watch.drop_roster()

    def _wake_soon(self) -> None:
        if self._grown and self._waiting and not self._waking:
            self._waking = True
            pause_s = max(0.0, self._woke_mono + PACE_S - time.monotonic())
            asyncio.get_running_loop().call_later(pause_s, self._wake)

    def _wake(self) -> None:
        self._woke_mono = time.monotonic()
        self._grown = False
        self._wake_slice(len(self._waiting))

    def _wake_slice(self, left: int) -> None:
        for _ in range(min(left, WAKE_SLICE, len(self._waiting))):
            waiter, _ = self._waiting.popitem(last=False)
            if not waiter.done():
                waiter.set_result(None)
        if left > WAKE_SLICE and self._waiting:
            asyncio.get_running_loop().call_soon(self._wake_slice, left - WAKE_SLICE)
            return
        self._waking = False
        # Those who were woken first may wait again for what was added during the wave.
        self._wake_soon()

    # ---- what watchers read

    def after(self, place: int) -> Piece | None:
        """Return the next piece of the log after a place that it covers; None at its end."""
        piece = self._pieces.get(place)
        if piece is None:
            newer: list[tuple[int, bytes]] = []
            for entry in reversed(self._log.values()):
                if entry[0] <= place:
                    break
                newer.append(entry)
            if not newer:
                return None
            size = 0
            parts: list[bytes] = []
            end = place
            while newer and (not parts or size + len(newer[-1][1]) <= MAX_MESSAGE_BYTES):
                end, part = newer.pop()
                parts.append(part)
                size += len(part)
            piece = Piece(b"".join(parts), end if newer else self.revision, self.revision)
            _keep(self._pieces, place, piece)
        return piece

    async def wait(self) -> None:
        """Return when the log may have grown."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[waiter] = None
        try:
            await waiter
        finally:
            self._waiting.pop(waiter, None)

    def read(self, watch: Watch[T], items: Callable[[], Iterable[T]], revision: int) -> Roster[T]:
        """Return the items for a watcher's snapshot; those of another that began lately, if the log covers them."""
        self._reading.add(watch)
        roster = self._roster() if self._roster is not None else None
        if roster is None or roster.revision < self.base:
            roster = Roster(revision, list(items()))
            self._roster = ref(roster)
        return roster

    def leave_roster(self, watch: Watch[T]) -> None:
        """Note that a watcher is not reading a snapshot any more."""
        self._reading.discard(watch)

    def piece_of(self, roster: Roster[T], index: int, place: int, revision: int) -> Piece:
        """Return the items from an index on as they are now, or were at ``place`` or later."""
        piece = roster.pieces.get(index)
        if piece is None or piece.revision < place:
            piece = self._snapshot_piece(roster.items, index, revision)
            _keep(roster.pieces, index, piece)
        return piece

    def _snapshot_piece(self, items: list[T], index: int, revision: int) -> Piece:
        parts: list[bytes] = []
        size = 0
        encoding = self.encoding
        end = min(len(items), index + MAX_CHUNK_ITEMS)
        for number in range(index, end):
            item = items[number]
            if encoding.over(item) or not (self._everything or self.wanted.matches(item)):
                continue
            part = encoding.item(item, 0)
            if parts and size + len(part) > MAX_MESSAGE_BYTES:
                end = number
                break
            if not self._everything:
                self._shown.add(encoding.key(item))
            parts.append(part)
            size += len(part)
        return Piece(b"".join(parts), end, revision)


class Watch(Generic[T]):
    """One watcher: ``with`` it, ``await next()`` for each message."""

    def __init__(
        self,
        feeds: Feeds[T],
        feed: Feed[T],
        items: Callable[[], Iterable[T]],
        revision: Callable[[], int],
        settled: Callable[[], Awaitable[None]],
    ) -> None:
        self.place = revision()
        """Every change up to this revision was shown, or is in the snapshot."""
        self._feeds = feeds
        self._feed = feed
        self._items = items
        self._revision = revision
        self._settled = settled
        self._roster: Roster[T] | None = None
        self._index = 0
        self._reset: ResetReason | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.drop_roster()
        self._feeds.left(self._feed)

    def begin(self, reason: ResetReason) -> None:
        """Show everything anew."""
        self._reset = reason
        self._index = 0
        self._roster = self._feed.read(self, self._items, self._revision())
        self.place = self._roster.revision

    def resume(self, revision: int) -> None:
        """Go on after a revision that the log covers."""
        self.place = revision

    def drop_roster(self) -> None:
        """Let go of the items of the snapshot: it is over, or the watcher fell behind while it read them."""
        self._roster = None
        self._feed.leave_roster(self)

    async def next(self) -> bytes:
        """Wait for the next message. Raises Refusal when the storage failed."""
        while True:
            if self.place < self._feed.base:
                self.begin(ResetReason.BEHIND)
            if self._reset is None:
                piece = self._feed.after(self.place)
                if piece is not None:
                    self.place = piece.end
                    if self._roster is not None:
                        return piece.parts
                    return piece.parts + self._feed.encoding.position(piece.end)
            if self._roster is None:
                await self._feed.wait()
            elif message := await self._snapshot(self._roster):
                return message

    async def _snapshot(self, roster: Roster[T]) -> bytes:
        encoding = self._feed.encoding
        head = encoding.reset(self._reset) if self._reset is not None else b""
        self._reset = None
        piece = self._feed.piece_of(roster, self._index, self.place, self._revision())
        self._index = piece.end
        await self._settled()
        if piece.end < len(roster.items):
            # Others have their turn between two pieces.
            await asyncio.sleep(0)
            return head + piece.parts
        self.drop_roster()
        return head + piece.parts + encoding.position(self.place)


class Feeds(Generic[T]):
    """All feeds of one kind of items, by namespace and filter."""

    def __init__(self) -> None:
        self._by_namespace: dict[str, dict[Filter[T], Feed[T]]] = {}
        self._idle: OrderedDict[Feed[T], float] = OrderedDict()
        """Feeds without watchers, with the monotonic time when the last one left."""

    @property
    def active(self) -> bool:
        """True when anybody watches, or left within the last minute."""
        return bool(self._by_namespace)

    @property
    def watchers(self) -> int:
        """How many watch."""
        return sum(feed.watches for feeds in self._by_namespace.values() for feed in feeds.values())

    def watch(
        self,
        namespace: str,
        wanted: Filter[T],
        after: Position | None,
        encoding: Encoding[T],
        items: Callable[[], Iterable[T]],
        now: Callable[[], Position],
        settled: Callable[[], Awaitable[None]],
    ) -> Watch[T]:
        """Begin to watch what matches, from a position on if that is possible.

        ``items`` returns all items, ``now`` the position of the state in memory, ``settled`` returns when that state
        is durable. Raises Refusal when too many other filters are watched.
        """
        feeds = self._by_namespace.setdefault(namespace, {})
        feed = feeds.get(wanted)
        if feed is None and sum(other.watches > 0 for other in feeds.values()) >= MAX_FEEDS:
            message = (
                f"namespace {namespace} is watched under {MAX_FEEDS} different conditions, which is the most; watch"
                " without conditions and choose from what comes"
            )
            raise Refusal(Reason.OVERLOADED, message, retry_ms=REFUSED_RETRY_MS)
        epoch, revision = now()
        # Of a new feed only those know what was shown to whom who were shown everything.
        known = feed is not None or wanted == type(wanted)()
        if feed is None:
            feed = feeds[wanted] = Feed(namespace, wanted, encoding, revision)
        feed.watches += 1
        self._idle.pop(feed, None)
        watch = Watch(self, feed, items, lambda: now().revision, settled)
        if after is None:
            watch.begin(ResetReason.START)
        elif after.epoch != epoch:
            watch.begin(ResetReason.EPOCH)
        elif not known or not feed.base <= after.revision <= revision:
            watch.begin(ResetReason.HISTORY)
        else:
            watch.resume(after.revision)
        return watch

    def left(self, feed: Feed[T]) -> None:
        """Note that a watcher left."""
        feed.watches -= 1
        if feed.watches == 0:
            self._idle[feed] = time.monotonic()
            self._drop_idle()

    def record(self, namespace: str, changed: list[T], revision: int) -> Callable[[], None] | None:
        """Take the changes of a turn, the last of which made the revision; return what publishes them.

        Call in that turn, and what is returned when the changes are durable. None: nobody watches the namespace.
        """
        self._drop_idle()
        feeds = self._by_namespace.get(namespace)
        if not feeds or not changed:
            return None
        encoding = next(iter(feeds.values())).encoding
        newest: dict[Hashable, Change[T]] = {}
        for number, item in enumerate(changed, revision - len(changed) + 1):
            key = encoding.key(item)
            newest.pop(key, None)
            newest[key] = Change(key, number, item, encoding)
        selected = [(feed, feed.select(newest.values())) for feed in feeds.values()]
        return partial(_publish, selected, revision)

    def _drop_idle(self) -> None:
        oldest_mono = time.monotonic() - LINGER_S
        while self._idle:
            feed, left_mono = next(iter(self._idle.items()))
            if left_mono > oldest_mono and len(self._idle) <= MAX_IDLE_FEEDS:
                return
            del self._idle[feed]
            feeds = self._by_namespace[feed.namespace]
            del feeds[feed.wanted]
            if not feeds:
                del self._by_namespace[feed.namespace]


def _publish(selected: list[tuple[Feed[Any], list[Entry]]], revision: int) -> None:
    for feed, entries in selected:
        feed.publish(entries, revision)


def _keep(pieces: OrderedDict[int, Piece], place: int, piece: Piece) -> None:
    pieces[place] = piece
    if len(pieces) > KEPT_PIECES:
        pieces.popitem(last=False)
