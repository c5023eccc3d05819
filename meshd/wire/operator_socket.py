"""The operator socket: a unix socket whose permissions are the permission to act as the local operator.

Rule: at no instant is it open to more than its mode says, and a socket is removed only when nobody answers on it (the
gRPC core itself would take over that of a running daemon).
"""

from __future__ import annotations

import contextlib
import errno
import grp
import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Final

from meshd.config import StartError, default_socket

MAX_PATH_BYTES: Final = 107
CONNECT_TIMEOUT_S: Final = 1.0


def open_socket(path: Path, mode: int, group: str, bind: Callable[[str], None]) -> None:
    """Make the socket at the path by ``bind``, which is given the address. Raises StartError."""
    if len(os.fsencode(path)) > MAX_PATH_BYTES:
        raise StartError(
            f"socket {path} is longer than the {MAX_PATH_BYTES} bytes of a socket's path",
            "set socket to a shorter path",
        )
    group_id = _group_id(group)
    _make_directory(path.parent, group_id)
    _remove_stale(path)
    # Whoever opens files on another thread meanwhile gets the same tight permissions: no harm.
    former = os.umask(0o177)
    try:
        bind(f"unix:{path}")
    except (RuntimeError, OSError):
        raise StartError(
            f"socket {path} cannot be made", "check that this user may write to its directory, or set socket"
        ) from None
    finally:
        os.umask(former)
    if group_id >= 0:
        _give(path, group_id, group)
    path.chmod(mode)


def _group_id(group: str) -> int:
    if not group:
        return -1
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        raise StartError(
            f'socket_group "{group}" is not a group of this host', "create it, or set another"
        ) from None


def _make_directory(directory: Path, group_id: int) -> None:
    if directory.is_dir():
        return
    try:
        # Only for the default: a path that was typed, or is on what is not mounted yet, is looked at by a person.
        directory.mkdir(mode=0o700, parents=directory == Path(default_socket()).parent, exist_ok=True)
        if group_id >= 0:
            os.chown(directory, -1, group_id)
            directory.chmod(0o710)
    except OSError as error:
        raise StartError(
            f"the socket's directory {directory} cannot be made: {error.strerror}",
            "set socket to a path this user may write, for example below $XDG_RUNTIME_DIR",
        ) from None


def _remove_stale(path: Path) -> None:
    try:
        kind = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(kind):
        raise StartError(f"{path} exists and is no socket", "move it away, or set socket to another path")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(CONNECT_TIMEOUT_S)
        try:
            probe.connect(os.fspath(path))
        except OSError as error:
            if error.errno not in {errno.ECONNREFUSED, errno.ENOENT}:
                raise StartError(
                    f"socket {path} may belong to a running process: {error.strerror or error}",
                    "stop that process, or set socket to another path",
                ) from None
        else:
            raise StartError(
                f"another process, probably a meshd, serves the socket {path}",
                "stop it, or set socket to another path",
            )
    with contextlib.suppress(FileNotFoundError):
        path.unlink()


def _give(path: Path, group_id: int, group: str) -> None:
    try:
        os.chown(path, -1, group_id)
    except PermissionError:
        raise StartError(
            f'the socket cannot be given to socket_group "{group}"',
            "make meshd's user a member of that group",
        ) from None
