"""NATS JetStream: a file-backed work queue, one pulling worker with explicit acknowledgements.

Batched publishing leaves without waiting for acknowledgements, or, when synced, in the server's atomic batches, which
share a sync but cost headers: whichever was faster. The worker pulls batches. Results go straight to the submitter and
are stored nowhere; when synced, in a stream of their own before the task is acknowledged, as ours are.
`python -m bench.peers.jetstream URL` is the worker.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import uuid
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any

import nats
from nats.js.api import AckPolicy, ConsumerConfig, RetentionPolicy, StorageType, StreamConfig

from bench.peers.peer import PAYLOAD, Processes, Setting, answers, free_port, python_module

BATCH, BATCHES_IN_FLIGHT = 250, 40
IN_FLIGHT = 256
ACK_S = 30
# Built from the newest release where there is a Go toolchain; else what the system has.
SERVER = next(
    (str(path) for path in [Path("build/peers/bin/nats-server").resolve()] if path.exists()), "nats-server"
)


async def publish(client: Any, messages: Sequence[tuple[str, bytes]]) -> None:
    """Publish a batch atomically; returns when it is stored."""
    batch_id = uuid.uuid4().hex
    for number, (subject, payload) in enumerate(messages, 1):
        headers = {"Nats-Batch-Id": batch_id, "Nats-Batch-Sequence": str(number)}
        if number < len(messages):
            await client.publish(subject, payload, headers=headers)
    headers["Nats-Batch-Commit"] = "1"
    acknowledged = await client.request(subject, payload, timeout=ACK_S, headers=headers)
    if b'"error"' in acknowledged.data:
        raise RuntimeError(f"the batch was refused: {acknowledged.data.decode()}")


async def work(url: str) -> None:
    """Answer no-ops until ended."""
    client = await nats.connect(url)
    stored = "BENCH_STORED" in os.environ
    stream = client.jetstream()
    queue = await stream.pull_subscribe_bind("workers", "WORK")
    print("ready", flush=True)
    while True:
        try:
            messages = await queue.fetch(BATCH, timeout=1)
        except nats.errors.TimeoutError:
            continue
        results = [(f"result.{message.subject.partition('.')[2]}", b"") for message in messages]
        if stored:
            await publish(client, results)
        else:
            for subject, output in results:
                await client.publish(subject, output)
        for message in messages:
            await message.ack()


class Here:
    """One server and one worker process."""

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self._processes = Processes()
        self._loop = asyncio.new_event_loop()
        self._client: Any = None
        self._left = 0
        self._all = asyncio.Event()

    def start(self) -> None:
        if shutil.which(SERVER) is None:
            raise RuntimeError("there is no nats-server: install it, or a Go toolchain to build it with")
        port = free_port()
        settings = self._processes.folder / "nats.conf"
        sync = "sync_interval: always" if self._setting.synced else ""
        settings.write_text(
            f"listen: 127.0.0.1:{port}\njetstream {{ store_dir: '{self._processes.folder}'\n{sync} }}\n"
        )
        self._processes.start(self._setting.server_cores, SERVER, "--config", str(settings))
        self._processes.until(lambda: answers(port))
        url = f"nats://127.0.0.1:{port}"
        self._run(self._connect(url))
        environment = {"BENCH_STORED": "1"} if self._setting.synced else {}
        worker = python_module("bench.peers.jetstream", url)
        self._processes.start(self._setting.load_cores, *worker, **environment)
        self._processes.until(lambda: "ready" in self._processes.log())

    def submit(self, count: int) -> None:
        self._left += count
        self._all.clear()
        self._run(self._submit(count))

    def wait(self) -> None:
        self._run(asyncio.wait_for(self._all.wait(), 120))

    def stop(self) -> None:
        if self._client is not None:
            self._run(self._client.close())
        self._loop.close()
        self._processes.stop()

    def _run(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        self._loop.run_until_complete(coroutine)

    async def _connect(self, url: str) -> None:
        self._client = await nats.connect(url, pending_size=64 * 1024 * 1024)
        stream = self._client.jetstream()
        file = StorageType.FILE
        queue = RetentionPolicy.WORK_QUEUE
        await stream.add_stream(
            StreamConfig("WORK", subjects=["work.*"], storage=file, retention=queue, allow_atomic=True)
        )
        consumer = ConsumerConfig("workers", ack_policy=AckPolicy.EXPLICIT, max_ack_pending=-1)
        await stream.add_consumer("WORK", consumer)
        if self._setting.synced:
            await stream.add_stream(
                StreamConfig("RESULTS", subjects=["result.*"], storage=file, allow_atomic=True)
            )
        await self._client.subscribe("result.*", cb=self._on_result)

    async def _on_result(self, _message: Any) -> None:
        self._left -= 1
        if self._left == 0:
            self._all.set()

    async def _submit(self, count: int) -> None:
        stream = self._client.jetstream()
        step = BATCH if self._setting.batched else 1
        starts = iter(range(0, count, step))

        async def submitter() -> None:
            for start in starts:
                messages = [(f"work.{number}", PAYLOAD) for number in range(start, min(start + step, count))]
                if not self._setting.batched:
                    await stream.publish(*messages[0], timeout=ACK_S)
                elif self._setting.synced:
                    await publish(self._client, messages)
                else:
                    await asyncio.gather(*[await stream.publish_async(*message) for message in messages])

        in_flight = BATCHES_IN_FLIGHT if self._setting.batched else IN_FLIGHT
        await asyncio.gather(*(submitter() for _ in range(in_flight)))


if __name__ == "__main__":
    asyncio.run(work(sys.argv[1]))
