"""When a connection counts as full of calls that last."""

from __future__ import annotations

from contextlib import ExitStack

from meshd.wire.held_calls import HeldCalls

HERE, THERE = "ipv4:10.0.0.1:1", "ipv4:10.0.0.1:2"


def test_a_full_connection_is_reported_once_until_it_holds_nothing() -> None:
    full: list[tuple[str, int]] = []
    held_calls = HeldCalls(2, lambda peer, places: full.append((peer, places)))
    with held_calls.on(HERE), held_calls.on(THERE):
        assert full == []
        with held_calls.on(HERE), held_calls.on(HERE):
            assert full == [(HERE, 2)]
        with held_calls.on(HERE):
            assert full == [(HERE, 2)]
    with held_calls.on(HERE), held_calls.on(HERE):
        assert full == [(HERE, 2)] * 2


def test_connections_on_the_socket_look_alike_and_are_not_counted() -> None:
    full: list[str] = []
    held_calls = HeldCalls(1, lambda peer, _places: full.append(peer))
    with ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(held_calls.on("unix:"))
    assert full == []
