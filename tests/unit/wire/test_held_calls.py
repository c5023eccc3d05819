"""When a connection counts as full of calls that last."""

from __future__ import annotations

import time
from contextlib import ExitStack

import pytest

from meshd.wire.held_calls import REPORT_INTERVAL_S, HeldCalls

HERE, THERE = "ipv4:10.0.0.1:1", "ipv4:10.0.0.1:2"


def test_a_full_connection_is_reported_when_its_last_place_is_taken() -> None:
    full: list[tuple[str, int]] = []
    held_calls = HeldCalls(2, lambda peer, places: full.append((peer, places)))
    with held_calls.on(HERE), held_calls.on(THERE):
        assert full == []
        with held_calls.on(HERE), held_calls.on(HERE):
            assert full == [(HERE, 2)]


def test_no_more_than_one_is_reported_in_a_minute_however_many_are_full(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    full: list[str] = []
    held_calls = HeldCalls(1, lambda peer, _places: full.append(peer))
    for peer in (HERE, HERE, THERE):
        with held_calls.on(peer):
            assert full == [HERE]
    now_mono = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now_mono + REPORT_INTERVAL_S + 1)
    with held_calls.on(THERE):
        assert full == [HERE, THERE]


def test_connections_on_the_socket_look_alike_and_are_not_counted() -> None:
    full: list[str] = []
    held_calls = HeldCalls(1, lambda peer, _places: full.append(peer))
    with ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(held_calls.on("unix:"))
    assert full == []
