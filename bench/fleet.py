"""A part of a fleet, as a process of its own: idle agents on the generated stubs, each with a connection of its own.

``python -m bench.fleet ADDRESS OPERATOR FIRST COUNT`` connects agents FIRST to FIRST + COUNT - 1, prints ``ready`` when all are
connected, and then answers every line on stdin by one line of JSON. An agent beats as the mesh prescribes and comes back after
random pauses of up to a second, as the SDK does, with the SDK's channel options.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import resource
import secrets
import sys
import time
from typing import Any

import grpc.aio

from agentmesh.connection import AGENT_KEEPALIVE_MS, channel_options
from agentmesh.v1 import (
    agent_pb2,
    auth_service_pb2_grpc,
    registry_service_pb2,
    registry_service_pb2_grpc,
    scheduler_service_pb2,
    scheduler_service_pb2_grpc,
    session_pb2,
)
from bench.load import issue

AT_ONCE = 32
"""Agents of a process that connect at the same time."""
CAPABILITIES = 100
ZONES = 5


class Fleet:
    """What its agents have seen."""

    def __init__(self, address: str, size: int) -> None:
        self.address = address
        self.size = size
        self.connected = 0
        self.deaths = 0
        """Sessions that the mesh gave up though their agents lived."""
        self.returned_mono = 0.0
        """When the last agent came back."""
        self.door = asyncio.Semaphore(AT_ONCE)
        self.complete = asyncio.Event()

    def report(self) -> dict[str, float]:
        """Return what the parent asks for."""
        return {
            "connected": self.connected,
            "deaths": self.deaths,
            "returned_ago_s": time.monotonic() - self.returned_mono,
        }


class Member:
    """One agent."""

    def __init__(self, fleet: Fleet, number: int, metadata: Any) -> None:
        self.fleet = fleet
        self.metadata = metadata
        self.spec = agent_pb2.AgentSpec(
            agent_id=f"fleet-{number:05}",
            type=agent_pb2.AGENT_TYPE_WORKER,
            capabilities=["fleet", f"skill-{number % CAPABILITIES}", f"team-{number // 20}"],
            labels={"rack": str(number // 20), "zone": f"z{number % ZONES}"},
            slots=4,
        )
        self.session: Any = None
        self.stream_seq = 0
        self.interval_s = 1.0

    async def live(self) -> None:
        """Be present for ever."""
        while True:
            options = channel_options(AGENT_KEEPALIVE_MS)
            async with grpc.aio.insecure_channel(self.fleet.address, options=options) as channel:
                try:
                    await self._stream(channel)
                except (grpc.aio.AioRpcError, asyncio.InvalidStateError, grpc.aio.UsageError) as error:
                    if "the session is unknown or over" in str(error):
                        self._lost()
            await asyncio.sleep(random.uniform(0, 1))

    def _lost(self) -> None:
        self.fleet.deaths += 1
        self.session = None

    async def _stream(self, channel: grpc.aio.Channel) -> None:
        scheduler: Any = scheduler_service_pb2_grpc.SchedulerServiceStub(channel)
        async with self.fleet.door:
            if self.session is None:
                await self._register(channel)
            call = scheduler.Work(metadata=self.metadata)
            self.stream_seq += 1
            opening = session_pb2.Open(
                agent_id=self.spec.agent_id,
                session_id=self.session.session_id,
                resume_token=self.session.resume_token,
                stream_seq=self.stream_seq,
                protocol=1,
                features=[
                    session_pb2.FEATURE_ACCEPT,
                    session_pb2.FEATURE_LEASE_ACK,
                    session_pb2.FEATURE_GO_AWAY,
                ],
            )
            await _send(call, open=opening)
            first = await call.read()
        if first is grpc.aio.EOF:
            raise grpc.aio.UsageError("the stream ended before Opened")
        self._paced(first.frames[0].opened.limits.beat_interval)
        self.fleet.connected += 1
        self.fleet.returned_mono = time.monotonic()
        if self.fleet.connected == self.fleet.size:
            self.fleet.complete.set()
        beating = asyncio.create_task(self._beat(call))
        try:
            await self._read(call)
        finally:
            self.fleet.connected -= 1
            beating.cancel()

    async def _register(self, channel: grpc.aio.Channel) -> None:
        registry: Any = registry_service_pb2_grpc.RegistryServiceStub(channel)
        request = registry_service_pb2.RegisterAgentRequest(
            spec=self.spec, session_key=secrets.token_bytes(16)
        )
        self.session = await registry.RegisterAgent(request, metadata=self.metadata)
        self.stream_seq = 0

    async def _read(self, call: Any) -> None:
        while (message := await call.read()) is not grpc.aio.EOF:
            for frame in message.frames:
                if frame.HasField("lease_ack") and frame.lease_ack.HasField("lease_ttl"):
                    self._paced(frame.lease_ack.beat_interval)
                    await _send(call, beat=session_pb2.Beat(seq=1, lease_ttl=frame.lease_ack.lease_ttl))
                elif (
                    frame.HasField("go_away")
                    and frame.go_away.reason == session_pb2.GO_AWAY_REASON_SESSION_LOST
                ):
                    self._lost()

    async def _beat(self, call: Any) -> None:
        while True:
            await asyncio.sleep(self.interval_s * random.uniform(0.8, 1.0))
            await _send(call, beat=session_pb2.Beat(seq=1))

    def _paced(self, interval: Any) -> None:
        self.interval_s = interval.ToMilliseconds() / 1000


async def _send(call: Any, **frame: Any) -> None:
    await call.write(scheduler_service_pb2.WorkRequest(frames=[session_pb2.AgentFrame(**frame)]))


async def main(address: str, operator: str, first: int, count: int) -> None:
    """Connect the agents and answer the parent."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    fleet = Fleet(address, count)
    channel = grpc.aio.insecure_channel(operator)
    auth: Any = auth_service_pb2_grpc.AuthServiceStub(channel)

    async def join(number: int) -> Member:
        async with fleet.door:
            metadata = await issue(auth, f"fleet-{number:05}", agent_pb2.AGENT_TYPE_WORKER)
        return Member(fleet, number, metadata)

    members = await asyncio.gather(*(join(number) for number in range(first, first + count)))
    await channel.close()
    living = [asyncio.create_task(member.live()) for member in members]
    await fleet.complete.wait()
    print("ready", flush=True)
    while await asyncio.to_thread(sys.stdin.readline):
        print(json.dumps(fleet.report()), flush=True)
    del living
    os._exit(0)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
