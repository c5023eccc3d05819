"""The one thread of this process on which gRPC's asyncio side runs.

Rules:
- Every asyncio channel of the SDK lives on this loop. gRPC does not bear several loops in one process, and a loop of its
  own keeps an agent's beats going while a handler blocks the user's loop. Callers on other loops or threads cross over
  by `on_grpc_thread` (awaitable) and `wait_for_grpc_thread` (blocking).
- Nobody waits here for a thread that cannot answer: not in a child by fork, where it does not run, not on itself, and
  not while the interpreter ends.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

from agentmesh.errors import ConfigurationError

T = TypeVar("T")

_lock = threading.Lock()
_loop: asyncio.AbstractEventLoop | None = None
_thread: threading.Thread | None = None
_pid: int | None = None


def grpc_loop() -> asyncio.AbstractEventLoop:
    """The loop; its daemon thread starts with the first call and lives as long as the process."""
    global _loop, _thread, _pid  # noqa: PLW0603 - one per process is the point
    if _pid not in (None, os.getpid()):
        # A new loop is no way out: gRPC crashes the child when a channel was open at the fork.
        raise ConfigurationError(
            "this process is a fork of one that had used the mesh, which gRPC does not survive: start it by spawn or "
            "forkserver (multiprocessing.get_context), or use the mesh only after the fork"
        )
    with _lock:
        if _loop is None:
            _loop, _pid = asyncio.new_event_loop(), os.getpid()
            _thread = threading.Thread(target=_run, args=(_loop,), name="agentmesh-grpc", daemon=True)
            _thread.start()
        return _loop


def submit(work: Coroutine[Any, Any, T]) -> Future[T]:
    """Starts a coroutine on the gRPC thread. Raises ConfigurationError in a child by fork."""
    return asyncio.run_coroutine_threadsafe(work, _loop_for(work))


async def on_grpc_thread(work: Coroutine[Any, Any, T]) -> T:
    """Runs a coroutine on the gRPC thread and returns its result here; cancelling this cancels it.

    Raises ConfigurationError in a child by fork.
    """
    loop = _loop_for(work)
    if asyncio.get_running_loop() is loop:
        return await work
    return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, loop))


def wait_for_grpc_thread(work: Coroutine[Any, Any, T]) -> T:
    """Runs a coroutine on the gRPC thread and blocks until it is done; Ctrl-C cancels it.

    Raises ConfigurationError where it would block for ever.
    """
    if sys.is_finalizing():
        work.close()
        raise ConfigurationError("the interpreter is ending: nothing more can be asked of the mesh")
    if threading.current_thread() is _thread:
        work.close()
        raise ConfigurationError(
            "a blocking call on the gRPC thread would wait for itself: make it elsewhere"
        )
    future = submit(work)
    try:
        return future.result()
    except BaseException:
        future.cancel()
        raise


def _loop_for(work: Coroutine[Any, Any, T]) -> asyncio.AbstractEventLoop:
    try:
        return grpc_loop()
    except ConfigurationError:
        work.close()
        raise


def _run(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    loop.run_forever()
