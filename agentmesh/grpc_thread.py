"""The one thread of this process on which gRPC's asyncio side runs.

Rule: every asyncio channel of the SDK lives on this loop. gRPC does not bear several loops in one process, and a loop
of its own keeps an agent's beats going while a handler blocks the user's loop. Callers on other loops or threads cross
over by `on_grpc_thread` (awaitable) and `wait_for_grpc_thread` (blocking).
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")

_lock = threading.Lock()
_loop: asyncio.AbstractEventLoop | None = None


def grpc_loop() -> asyncio.AbstractEventLoop:
    """The loop; its daemon thread starts with the first call and lives as long as the process."""
    global _loop  # noqa: PLW0603 - one per process is the point
    with _lock:
        if _loop is None:
            _loop = asyncio.new_event_loop()
            threading.Thread(target=_run, args=(_loop,), name="agentmesh-grpc", daemon=True).start()
        return _loop


def submit(work: Coroutine[Any, Any, T]) -> Future[T]:
    """Starts a coroutine on the gRPC thread."""
    return asyncio.run_coroutine_threadsafe(work, grpc_loop())


async def on_grpc_thread(work: Coroutine[Any, Any, T]) -> T:
    """Runs a coroutine on the gRPC thread and returns its result here; cancelling this cancels it."""
    loop = grpc_loop()
    if asyncio.get_running_loop() is loop:
        return await work
    return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, loop))


def wait_for_grpc_thread(work: Coroutine[Any, Any, T]) -> T:
    """Runs a coroutine on the gRPC thread and blocks until it is done; Ctrl-C cancels it."""
    future = submit(work)
    try:
        return future.result()
    except BaseException:
        future.cancel()
        raise


def _run(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    loop.run_forever()
