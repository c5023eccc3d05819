"""Dramatiq over Redis, results in Redis. It has no call that publishes many messages at once."""

from __future__ import annotations

import os
from typing import Any

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from dramatiq.brokers.stub import StubBroker
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend

from bench.peers.peer import PAYLOAD, Processes, Setting, python_module
from bench.peers.redis_server import start_redis

Message = Any


def connect(url: str) -> None:
    """Make this process's broker the Redis at this URL."""
    broker = RedisBroker(url=url)
    broker.add_middleware(Results(backend=RedisBackend(url=url), store_results=True))
    dramatiq.set_broker(broker)
    no_op.broker = broker
    broker.declare_actor(no_op)


@dramatiq.actor(broker=StubBroker())  # type: ignore[untyped-decorator]  # not installed where mypy runs
def no_op(_payload: str) -> None:
    return None


if "BENCH_REDIS" in os.environ:
    connect(os.environ["BENCH_REDIS"])


class Here:
    """One Redis and workers in two processes of four threads."""

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self._processes = Processes()
        self._waiting: list[Message] = []

    def start(self) -> None:
        url = start_redis(self._processes, self._setting)
        connect(url)
        command = python_module("dramatiq", "bench.peers.dramatiq_redis", "--processes=2", "--threads=4")
        self._processes.start(self._setting.load_cores, *command, BENCH_REDIS=url)
        self._processes.until(lambda: self._processes.log().count("is ready for action") == 2)

    def submit(self, count: int) -> None:
        payload = PAYLOAD.decode()
        self._waiting.extend(no_op.send(payload) for _ in range(count))

    def wait(self) -> None:
        for message in self._waiting:
            message.get_result(block=True, timeout=120_000)
        self._waiting.clear()

    def stop(self) -> None:
        self._processes.stop()
