"""Dask: a scheduler and two worker processes; `map` publishes all at once. Nothing is kept on disk."""

from __future__ import annotations

from typing import Any

from distributed import Client

from bench.peers.peer import PAYLOAD, Processes, Setting, answers, free_port, python_module


def no_op(_payload: bytes) -> None:
    return None


class Here:
    """One scheduler and two workers of two threads."""

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self._processes = Processes()
        self._client: Any = None
        self._waiting: list[Any] = []

    def start(self) -> None:
        port = free_port()
        address = f"tcp://127.0.0.1:{port}"
        scheduler = ("distributed.cli.dask_scheduler", "--host=127.0.0.1", f"--port={port}", "--no-dashboard")
        self._processes.start(self._setting.server_cores, *python_module(*scheduler))
        self._processes.until(lambda: answers(port))
        local = (
            "--nworkers=2",
            "--nthreads=2",
            "--no-dashboard",
            f"--local-directory={self._processes.folder}",
        )
        worker = python_module("distributed.cli.dask_worker", address, *local)
        self._processes.start(self._setting.load_cores, *worker)
        self._client = Client(address, timeout=30)
        self._client.wait_for_workers(2, timeout=30)

    def submit(self, count: int) -> None:
        # Not pure: else equal calls would be computed once.
        self._waiting.extend(self._client.map(no_op, [PAYLOAD] * count, pure=False))

    def wait(self) -> None:
        self._client.gather(self._waiting)
        self._waiting.clear()

    def stop(self) -> None:
        if self._client is not None:
            self._client.close()
        self._processes.stop()
