"""The soak: `make soak`. Many tasks, many cancelled streams, agents that come and go, and what is left of them in meshd.

Prints resident memory, file handles and the database's size after each part, and at the end what one more of each costs.
Growth is counted from the half on: until then caches fill, which are bounded.
"""

from __future__ import annotations

import argparse
import asyncio
import secrets
import sqlite3
import subprocess
import time
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import grpc.aio

from agentmesh.v1 import (
    agent_pb2,
    auth_service_pb2_grpc,
    registry_service_pb2,
    registry_service_pb2_grpc,
    session_pb2,
)
from bench.load import LOCAL, issue
from bench.processes import LOAD_CORE, end, first_line, meshd, start
from meshd.store.opening import DATABASE
from meshd.store.sqlite import SqliteStore

PARTS: Final = 10
MIB: Final = 1024 * 1024
SWEEP_PIECE: Final = 500


class Growth:
    """What meshd holds, sampled after each part of a phase."""

    def __init__(self, what: str, server: subprocess.Popen[str], database: Path) -> None:
        self._what = what
        self._proc = Path(f"/proc/{server.pid}")
        self._database = database
        self.samples: list[tuple[int, int]] = []

    def sample(self, done: int) -> None:
        """Note and print what is held after so many."""
        (rss_kib,) = (
            int(line.split()[1])
            for line in (self._proc / "status").read_text().splitlines()
            if line.startswith("VmRSS")
        )
        self.samples.append((done, rss_kib * 1024))
        handles = len(list((self._proc / "fd").iterdir()))
        size = sum(file.stat().st_size for file in self._database.glob("*.db*"))
        print(
            f"{self._what:18} {done:9,}  RSS {rss_kib / 1024:6.1f} MiB  handles {handles:4}  "
            f"database {size / MIB:7.1f} MiB",
            flush=True,
        )

    def verdict(self) -> str:
        """Return the slope over the second half."""
        (first, before), (last, after) = self.samples[len(self.samples) // 2], self.samples[-1]
        slope = (after - before) / (last - first)
        return f"{self._what:18} {slope:8.0f} bytes each, {slope * 10_000 / MIB:6.2f} MiB per 10,000"


def data_folder(pid: int) -> Path:
    """Return where a meshd keeps its database."""
    words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    return Path(words[words.index("--data-dir") + 1])


def work_off(address: str, tasks: int, agents: int) -> None:
    """Have tasks done by agents that come for them and vanish afterwards."""
    load = start(
        LOAD_CORE, "bench.load", address, "--tasks", str(tasks), "--agents", str(agents), "--principals", "8"
    )
    try:
        if first_line(load) != "ready" or not first_line(load):
            raise RuntimeError("the load failed; see above")
    finally:
        end(load)


class Opener:
    """One agent that opens its stream again and again."""

    def __init__(self, address: str, name: str) -> None:
        self._channel = grpc.aio.insecure_channel(address, options=LOCAL)
        self._registry: Any = registry_service_pb2_grpc.RegistryServiceStub(self._channel)
        self._auth: Any = auth_service_pb2_grpc.AuthServiceStub(self._channel)
        self._name = name
        self._seq = 0

    async def register(self) -> None:
        """Begin the session."""
        self._metadata = await issue(self._auth, self._name, agent_pb2.AGENT_TYPE_WORKER)
        spec = agent_pb2.AgentSpec(agent_id=self._name, type=agent_pb2.AGENT_TYPE_WORKER, slots=1)
        request = registry_service_pb2.RegisterAgentRequest(spec=spec, session_key=secrets.token_bytes(16))
        self._registered = await self._registry.RegisterAgent(request, metadata=self._metadata)

    async def open_and_cancel(self, times: int) -> None:
        """Open the stream, wait until it is open, break it."""
        for _ in range(times):
            self._seq += 1
            call = self._registry.Heartbeat(metadata=self._metadata)
            opening = session_pb2.Open(
                agent_id=self._name,
                session_id=self._registered.session_id,
                resume_token=self._registered.resume_token,
                stream_seq=self._seq,
                protocol=1,
            )
            frames = [session_pb2.AgentFrame(open=opening)]
            await call.write(registry_service_pb2.HeartbeatRequest(frames=frames))
            await call.read()
            call.cancel()

    async def close(self) -> None:
        """Vanish."""
        await self._channel.close()


async def cancel_streams(address: str, prefix: str, streams: int, agents: int) -> None:
    """Open and cancel streams by several agents at once, new ones in each part."""
    openers = [Opener(address, f"{prefix}-{n}") for n in range(agents)]
    await asyncio.gather(*(opener.register() for opener in openers))
    await asyncio.gather(*(opener.open_and_cancel(streams // agents) for opener in openers))
    await asyncio.gather(*(opener.close() for opener in openers))


def sweep(folder: Path) -> str:
    """Delete every ended task, as retention does in its time, and tell what the database is then."""
    store = SqliteStore(folder)
    deleted = 0
    try:
        while swept := store.sweep(time.time_ns() // 1_000_000 + 1, SWEEP_PIECE):
            deleted += swept
        size = store.measure().database_bytes
    finally:
        store.close()
    with closing(sqlite3.connect(folder / DATABASE)) as database:
        (page_bytes,) = database.execute("PRAGMA page_size").fetchone()
        (free_pages,) = database.execute("PRAGMA freelist_count").fetchone()
    free = page_bytes * free_pages
    return f"swept {deleted:,} tasks; the database is {size / MIB:.1f} MiB, {free / MIB:.1f} MiB of it free for new rows"


def main() -> None:
    """Run both phases and print what grew."""
    parser = argparse.ArgumentParser(prog="bench.soak", description=__doc__)
    parser.add_argument("--tasks", type=int, default=1_000_000)
    parser.add_argument("--streams", type=int, default=100_000)
    parser.add_argument("--agents", type=int, default=8, help="at a time; each part has new ones")
    options = parser.parse_args()
    with meshd() as (server, address):
        folder = data_folder(server.pid)
        tasks = Growth("tasks", server, folder)
        for part in range(PARTS):
            work_off(address, options.tasks // PARTS, options.agents)
            tasks.sample((part + 1) * options.tasks // PARTS)
        streams = Growth("cancelled streams", server, folder)
        for part in range(PARTS):
            asyncio.run(cancel_streams(address, f"part-{part}", options.streams // PARTS, options.agents))
            streams.sample((part + 1) * options.streams // PARTS)
        end(server)
        print(f"\n{tasks.verdict()}\n{streams.verdict()}\n{sweep(folder)}")


if __name__ == "__main__":
    main()
