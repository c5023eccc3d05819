"""Nobody waits for a gRPC thread that cannot answer."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

from agentmesh.errors import ConfigurationError
from agentmesh.grpc_thread import wait_for_grpc_thread


async def answer() -> int:
    return 42


def test_a_blocking_call_on_the_thread_itself_is_refused() -> None:
    async def asks() -> int:
        return wait_for_grpc_thread(answer())

    with pytest.raises(ConfigurationError, match="would wait for itself"):
        wait_for_grpc_thread(asks())


def run(program: str) -> str:
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", textwrap.dedent(program)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert "never awaited" not in ran.stderr
    return ran.stdout


def test_a_child_by_fork_is_told_what_to_do() -> None:
    told = run("""
        import asyncio, os
        from agentmesh.grpc_thread import on_grpc_thread, wait_for_grpc_thread

        async def answer():
            return 42

        wait_for_grpc_thread(answer())
        child = os.fork()
        if child == 0:
            for ask in (wait_for_grpc_thread, lambda work: asyncio.run(on_grpc_thread(work))):
                try:
                    print(ask(answer()), flush=True)
                except Exception as error:
                    print(type(error).__name__, "spawn" in str(error), flush=True)
            os._exit(0)
        os.waitpid(child, 0)
        print(wait_for_grpc_thread(answer()))
    """)
    assert told.split("\n") == ["ConfigurationError True"] * 2 + ["42", ""]


def test_an_iterator_that_is_left_over_does_not_keep_the_process() -> None:
    told = run("""
        from agentmesh.blocking import _iterate
        from agentmesh.grpc_thread import wait_for_grpc_thread

        async def numbers():
            yield 1
            yield 2

        def asks_at_the_end():
            try:
                yield
            finally:
                try:
                    wait_for_grpc_thread(numbers().aclose())
                except Exception as error:
                    print(error, flush=True)

        left, asking = _iterate(numbers()), asks_at_the_end()
        next(asking)
        print(next(left), flush=True)
    """)
    assert told.split("\n") == ["1", "the interpreter is ending: nothing more can be asked of the mesh", ""]
