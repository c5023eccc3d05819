"""Ray: two workers of one core each; calls go out without waiting. Nothing is kept on disk.

Its processes start one another and share their cores, so it is not pinned apart.
"""

from __future__ import annotations

from typing import Any

import ray

from bench.peers.peer import PAYLOAD, Setting


@ray.remote(num_cpus=1)  # type: ignore[untyped-decorator]  # not installed where mypy runs
def no_op(_payload: bytes) -> None:
    return None


class Here:
    """One head with two workers."""

    def __init__(self, setting: Setting) -> None:
        if setting.pinned:
            raise RuntimeError("Ray cannot be pinned: its daemon starts the workers on its own cores")
        self._waiting: list[Any] = []

    def start(self) -> None:
        quiet = {"include_dashboard": False, "log_to_driver": False, "logging_level": "error"}
        ray.init(num_cpus=2, object_store_memory=200_000_000, _node_ip_address="127.0.0.1", **quiet)

    def submit(self, count: int) -> None:
        self._waiting.extend(no_op.remote(PAYLOAD) for _ in range(count))

    def wait(self) -> None:
        ray.get(self._waiting, timeout=120)
        self._waiting.clear()

    def stop(self) -> None:
        ray.shutdown()
