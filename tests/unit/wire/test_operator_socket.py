"""The operator socket: open to nobody else at any instant, and never taken from a process that serves it."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from meshd.config import StartError
from meshd.wire.operator_socket import open_socket


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def binding(stack: ExitStack, modes: list[int]) -> Callable[[str], None]:
    """Return what makes a socket as gRPC does, and notes with which mode it begins."""

    def bind(address: str) -> None:
        path = Path(address.removeprefix("unix:"))
        made = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        made.bind(os.fspath(path))
        modes.append(stat.S_IMODE(path.stat().st_mode))
        made.listen(0)

    return bind


def test_it_is_its_owners_alone_until_it_has_the_mode_that_was_set(tmp_path: Path, stack: ExitStack) -> None:
    modes: list[int] = []
    former = os.umask(0o022)
    try:
        open_socket(tmp_path / "s", 0o660, "", binding(stack, modes))
        after = os.umask(former)
    finally:
        os.umask(former)
    assert modes == [0o600]
    assert stat.S_IMODE((tmp_path / "s").stat().st_mode) == 0o660
    assert after == 0o022, "files that meshd makes later have the modes they had before"


def test_what_a_dead_process_left_is_replaced(tmp_path: Path, stack: ExitStack) -> None:
    modes: list[int] = []
    bind = binding(stack, modes)
    bind(f"unix:{tmp_path / 's'}")
    stack.pop_all().close()
    open_socket(tmp_path / "s", 0o600, "", bind)
    assert len(modes) == 2


@pytest.mark.parametrize("busy", [False, True])
def test_one_that_somebody_serves_is_left_however_busy_he_is(
    tmp_path: Path, stack: ExitStack, busy: bool
) -> None:
    path, modes = tmp_path / "s", list[int]()
    bind = binding(stack, modes)
    bind(f"unix:{path}")
    made = path.stat().st_ino
    if busy:
        waiting = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        waiting.connect(os.fspath(path))  # The one connection that it keeps until it is accepted.
    with pytest.raises(StartError, match="may belong to a running process" if busy else "another process"):
        open_socket(path, 0o600, "", bind)
    assert path.stat().st_ino == made
