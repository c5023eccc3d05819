"""Celery over Redis: prefork workers, late acknowledgement, results in Redis.

Celery has no call that publishes many tasks at once: a group is published one by one.
"""

from __future__ import annotations

import os
from typing import Any

from celery import Celery, group

from bench.peers.peer import PAYLOAD, Processes, Setting, python_module
from bench.peers.redis_server import start_redis

URL = os.environ.get("BENCH_REDIS", "")
app = Celery("bench", broker=URL, backend=URL)
app.conf.update(task_acks_late=True, worker_prefetch_multiplier=64, result_expires=3600)


@app.task  # type: ignore[untyped-decorator]  # not installed where mypy runs
def no_op(_payload: str) -> None:
    return None


class Here:
    """One Redis and one worker of two processes."""

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self._processes = Processes()
        self._waiting: list[Any] = []

    def start(self) -> None:
        url = start_redis(self._processes, self._setting)
        app.conf.update(broker_url=url, result_backend=url)
        worker = ("-A", "bench.peers.celery_redis", "worker", "--concurrency=2", "--loglevel=INFO")
        quiet = ("--without-gossip", "--without-mingle", "--without-heartbeat")
        command = python_module("celery", *worker, *quiet)
        self._processes.start(self._setting.load_cores, *command, BENCH_REDIS=url)
        self._processes.until(lambda: " ready." in self._processes.log())

    def submit(self, count: int) -> None:
        payload = PAYLOAD.decode()
        self._waiting.append(group(no_op.s(payload) for _ in range(count)).apply_async())

    def wait(self) -> None:
        while self._waiting:
            self._waiting.pop().join_native(timeout=120)

    def stop(self) -> None:
        self._processes.stop()
