"""Feeds by themselves: what is shared, what is bounded, and what a watcher is shown in which order."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest

from meshd.domain.errors import Reason, Refusal
from meshd.engine import feeds as module
from meshd.engine.feeds import Feeds, Position, ResetReason, Watch

pytestmark = pytest.mark.anyio


@dataclass(eq=False)
class Thing:
    """An item: a name, a colour, and whether it has ended."""

    name: str
    colour: str = "red"
    ended: bool = False


class Coloured(NamedTuple):
    """A filter by colour."""

    colour: str = ""

    def matches(self, thing: Thing) -> bool:
        return self.colour in ("", thing.colour)


class Lines:
    """An encoding as lines of JSON; counts what it encoded."""

    def __init__(self) -> None:
        self.encoded = 0

    def key(self, thing: Thing) -> str:
        return thing.name

    def over(self, thing: Thing) -> bool:
        return thing.ended

    def _part(self, **words: Any) -> bytes:
        return json.dumps(words).encode() + b"\n"

    def item(self, thing: Thing, revision: int) -> bytes:
        self.encoded += 1
        return self._part(shown=thing.name, colour=thing.colour, ended=thing.ended, revision=revision)

    def gone(self, thing: Thing, revision: int) -> bytes:
        return self._part(gone=thing.name, revision=revision)

    def position(self, revision: int) -> bytes:
        return self._part(position=revision)

    def reset(self, reason: ResetReason) -> bytes:
        return self._part(reset=reason.name)


class World:
    """One namespace of things."""

    def __init__(self) -> None:
        self.things: dict[str, Thing] = {}
        self.revision = 0
        self.feeds: Feeds[Thing] = Feeds()
        self.lines = Lines()
        self.durable = asyncio.Event()
        self.durable.set()

    async def _settled(self) -> None:
        await self.durable.wait()

    def watch(self, colour: str = "", after: Position | None = None) -> Watch[Thing]:
        return self.feeds.watch(
            "default",
            Coloured(colour),
            after,
            self.lines,
            self.things.values,
            lambda: Position(1, self.revision),
            self._settled,
        )

    def put(self, *names: str, **fields: Any) -> Callable[[], None]:
        """Change things in one turn; return what publishes it."""
        changed = []
        for name in names:
            thing = self.things.setdefault(name, Thing(name))
            for field, value in fields.items():
                setattr(thing, field, value)
            changed.append(thing)
        self.revision += len(changed)
        return self.feeds.record("default", changed, self.revision) or (lambda: None)


async def said(watch: Watch[Thing]) -> list[dict[str, Any]]:
    """Return the parts of the next message."""
    message = await asyncio.wait_for(watch.next(), 5)
    return [json.loads(line) for line in message.splitlines()]


async def begun(world: World, colour: str = "") -> Watch[Thing]:
    """Return a watch whose snapshot is over."""
    watch = world.watch(colour)
    while not any("position" in part for part in await said(watch)):
        pass
    return watch


async def test_a_change_is_encoded_once_however_many_watch() -> None:
    world = World()
    watches = [await begun(world, colour) for colour in ("", "red", "") for _ in range(50)]
    world.put("a")()
    for watch in watches:
        assert (await said(watch))[0]["shown"] == "a"
    assert world.lines.encoded == 1


async def test_nothing_is_shown_before_it_is_durable() -> None:
    world = World()
    watch = await begun(world)
    publish = world.put("a")
    reading = asyncio.ensure_future(watch.next())
    late = world.watch()
    world.durable.clear()
    snapshot = asyncio.ensure_future(late.next())
    await asyncio.sleep(0.05)
    assert not reading.done()
    assert not snapshot.done()
    world.durable.set()
    publish()
    assert b'"shown": "a"' in await asyncio.wait_for(reading, 5)
    assert b'"shown": "a"' in await asyncio.wait_for(snapshot, 5)


async def test_changes_that_were_not_read_become_one() -> None:
    world = World()
    watch = await begun(world)
    for colour in ("red", "blue", "green"):
        world.put("a", "b", colour=colour)()
    message = await said(watch)
    assert [(part["shown"], part["colour"]) for part in message[:2]] == [("a", "green"), ("b", "green")]
    assert message[2:] == [{"position": 6}]


async def test_a_turn_shows_the_last_state_under_the_last_revision() -> None:
    world = World()
    watch = await begun(world)
    world.put("a", "b", "a")()
    assert [(p.get("shown"), p.get("revision")) for p in await said(watch)] == [
        ("b", 2),
        ("a", 3),
        (None, None),
    ]


async def test_what_ends_during_a_snapshot_is_shown_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_CHUNK_ITEMS", 1)
    world = World()
    world.put("a", "b")()
    watch = world.watch()
    seen = await said(watch)
    world.put("b", ended=True)()
    while "position" not in seen[-1]:
        seen += await said(watch)
    assert [part["shown"] for part in seen if "shown" in part] == ["a", "b"]


async def test_a_snapshot_never_takes_a_watcher_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_CHUNK_ITEMS", 1)
    world = World()
    world.put("a", "b")()
    slow, quick = world.watch(), world.watch()
    await said(slow)
    await said(quick)
    assert [part.get("shown") for part in await said(quick)] == ["b", None]
    world.put("b", colour="blue")()
    # The piece that the quick one was shown is older than the change that the slow one is shown first.
    shown = await said(slow) + await said(slow)
    assert [part["colour"] for part in shown if "shown" in part] == ["blue", "blue"]


async def test_who_waits_is_woken_by_what_comes_while_others_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WAKE_SLICE", 1)
    world = World()
    feed = (await begun(world))._feed
    waiting = [asyncio.ensure_future(feed.wait()) for _ in range(50)]
    await asyncio.sleep(0)
    world.put("a")()
    await waiting[0]
    again = asyncio.ensure_future(feed.wait())
    await asyncio.sleep(0)
    assert not waiting[-1].done()
    world.put("b")()
    await asyncio.wait_for(again, 5)
    await asyncio.gather(*waiting)


async def test_watchers_at_the_same_place_are_shown_the_newest_state_there_is() -> None:
    world = World()
    first, second = [await begun(world) for _ in range(2)]
    world.put("a")()
    assert (await said(first))[0]["colour"] == "red"
    world.put("a", colour="blue")()
    assert [part.get("colour") for part in await said(second)] == ["blue", None]


async def test_the_log_is_bounded_and_a_watcher_beyond_it_begins_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World()
    stalled = await begun(world)
    for limit, most in (("MAX_LOG_ENTRIES", 10), ("MAX_LOG_BYTES", 700)):
        with monkeypatch.context() as patch:
            patch.setattr(module, limit, most)
            for number in range(30):
                world.put(f"{limit}-{number}", f"{limit}-last")()
        feed = stalled._feed
        assert len(feed._log) <= 10
        assert feed._log_bytes == sum(len(part) for _, part in feed._log.values())
        message = await said(stalled)
        assert message[0] == {"reset": "BEHIND"}
        assert message[-1] == {"position": world.revision}
        assert len(message) == len(world.things) + 2


async def test_who_stalls_in_a_snapshot_holds_no_list_once_it_fell_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "MAX_CHUNK_ITEMS", 1)
    monkeypatch.setattr(module, "MAX_LOG_ENTRIES", 5)
    world = World()
    world.put("a", "b", "c")()
    stalled = world.watch()
    await said(stalled)
    for number in range(10):
        world.put(f"n{number}")()
    assert stalled._roster is None
    assert (await said(stalled))[0] == {"reset": "BEHIND"}


async def test_a_feed_is_kept_a_while_for_those_who_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    with await begun(world, "red"):
        world.put("a")()
    with world.watch("red", Position(1, 0)) as watch:
        assert (await said(watch))[0]["shown"] == "a"
    active = [world.feeds.active]
    monkeypatch.setattr(module, "LINGER_S", 0.0)
    world.put("a")()
    active.append(world.feeds.active)
    assert active == [True, False]
    # Of a new feed nobody knows what it had shown: it could not say what is gone.
    assert (await said(world.watch("red", Position(1, world.revision))))[0] == {"reset": "HISTORY"}


async def test_idle_feeds_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    for number in range(module.MAX_IDLE_FEEDS + 5):
        with world.watch(f"colour-{number}"):
            pass
    assert len(world.feeds._by_namespace["default"]) == module.MAX_IDLE_FEEDS


async def test_only_so_many_filters_are_watched_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_FEEDS", 2)
    world = World()
    with world.watch("red"), world.watch("red"):
        with world.watch("blue"):
            with pytest.raises(Refusal, match="2 different conditions") as caught:
                world.watch("green")
            assert caught.value.reason is Reason.OVERLOADED
            with world.watch("red"):
                pass
        with world.watch("green"):
            pass


async def test_who_gives_up_waiting_leaves_nothing_behind() -> None:
    world = World()
    watch = await begun(world)
    for _ in range(3):
        reading = asyncio.ensure_future(watch.next())
        await asyncio.sleep(0)
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
    assert not watch._feed._waiting
