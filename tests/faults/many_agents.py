"""Many agents written by hand in one process: each takes one task, keeps it over broken streams, and ends it when told.

`python -m tests.faults.many_agents COUNT TOKENS_ADDRESS ADDRESS`. Says on stdout `holding` when every agent has a task
and, after streams broke, `back SECONDS` when every agent has its own again; a line on stdin has all of them report.
"""

from __future__ import annotations

import asyncio
import random
import secrets
import sys
import time
from contextlib import suppress
from typing import Any

import grpc.aio

from agentmesh.v1 import (
    agent_pb2,
    auth_service_pb2,
    auth_service_pb2_grpc,
    payload_pb2,
    registry_service_pb2,
    registry_service_pb2_grpc,
    scheduler_service_pb2,
    scheduler_service_pb2_grpc,
    session_pb2,
)

TASK_TYPE = "hold"
LOCAL = [("grpc.use_local_subchannel_pool", 1)]
_MAX_BACKOFF_S = 1.0
_BEAT_S = 1.0


class Crowd:
    """What all agents know together."""

    def __init__(self, count: int) -> None:
        self.finish = asyncio.Event()
        self._count = count
        self._holding: set[str] = set()
        self._returned: set[str] = set()
        self._first_broke_s = 0.0

    def holds(self, agent_id: str) -> None:
        self._holding.add(agent_id)
        if len(self._holding) == self._count:
            print("holding", flush=True)

    def broke(self) -> None:
        self._first_broke_s = self._first_broke_s or time.monotonic()

    def back(self, agent_id: str) -> None:
        self._returned.add(agent_id)
        if len(self._returned) == self._count:
            print(f"back {time.monotonic() - self._first_broke_s:.2f}", flush=True)


class Holder:
    """One agent."""

    def __init__(self, agent_id: str, address: str, token: str, crowd: Crowd) -> None:
        self._agent_id = agent_id
        self._address = address
        self._metadata = (("authorization", f"Bearer {token}"),)
        self._crowd = crowd
        self._stream_seq = 0
        self._fence = b""

    async def live(self) -> None:
        """Register, take a task, come back whenever the stream breaks, report when told."""
        registered: Any = None
        while not (self._crowd.finish.is_set() and not self._fence and registered):
            # A channel of its own for every try: gRPC's own backoff may wait longer than a lease.
            async with grpc.aio.insecure_channel(self._address, options=LOCAL) as channel:
                try:
                    registered = registered or await self._register(channel)
                    await self._work(channel, registered)
                except grpc.aio.AioRpcError:
                    pass
            if not self._crowd.finish.is_set():
                self._crowd.broke()
                await asyncio.sleep(random.uniform(0.0, _MAX_BACKOFF_S))

    async def _register(self, channel: grpc.aio.Channel) -> Any:
        spec = agent_pb2.AgentSpec(
            agent_id=self._agent_id, type=agent_pb2.AGENT_TYPE_WORKER, capabilities=[TASK_TYPE], slots=1
        )
        request = registry_service_pb2.RegisterAgentRequest(spec=spec, session_key=secrets.token_bytes(16))
        registry: Any = registry_service_pb2_grpc.RegistryServiceStub(channel)
        return await registry.RegisterAgent(request, metadata=self._metadata)

    async def _work(self, channel: grpc.aio.Channel, registered: Any) -> None:
        scheduler: Any = scheduler_service_pb2_grpc.SchedulerServiceStub(channel)
        call = scheduler.Work(metadata=self._metadata)
        self._stream_seq += 1
        held = [session_pb2.HeldAttempt(fence=self._fence, phase=session_pb2.HELD_PHASE_RUNNING)]
        opening = session_pb2.Open(
            agent_id=self._agent_id,
            session_id=registered.session_id,
            resume_token=registered.resume_token,
            stream_seq=self._stream_seq,
            protocol=1,
            held=held if self._fence else [],
        )
        await _send(call, open=opening)
        ends = [asyncio.create_task(self._beat_and_report(call)), asyncio.create_task(self._listen(call))]
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for end in ends:
                end.cancel()
            await asyncio.gather(*ends, return_exceptions=True)
            call.cancel()

    async def _beat_and_report(self, call: Any) -> None:
        while not self._crowd.finish.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(self._crowd.finish.wait(), _BEAT_S)
            await _send(call, beat=session_pb2.Beat(seq=1))
        if self._fence:
            await _send(
                call, done=session_pb2.Done(fence=self._fence, output=payload_pb2.Payload(inline=b"1"))
            )
        await asyncio.Event().wait()

    async def _listen(self, call: Any) -> None:
        while (message := await call.read()) is not grpc.aio.EOF:
            for frame in message.frames:
                kind = frame.WhichOneof("frame")
                if kind == "opened" and self._fence:
                    if self._fence not in frame.opened.keep:
                        self._fence = b""  # the mesh gave the task away; its record tells
                    self._crowd.back(self._agent_id)
                elif kind == "assign":
                    self._fence = frame.assign.fence
                    await _send(call, accept=session_pb2.Accept(fence=self._fence))
                    self._crowd.holds(self._agent_id)
                elif kind == "ack" and self._crowd.finish.is_set():
                    self._fence = b""
                    return


async def _send(call: Any, **frame: Any) -> None:
    await call.write(scheduler_service_pb2.WorkRequest(frames=[session_pb2.AgentFrame(**frame)]))


async def main() -> None:
    count, tokens_address, address = int(sys.argv[1]), sys.argv[2], sys.argv[3]
    crowd = Crowd(count)
    async with (
        grpc.aio.insecure_channel(tokens_address, options=LOCAL) as channel,
        asyncio.TaskGroup() as agents,
    ):
        auth: Any = auth_service_pb2_grpc.AuthServiceStub(channel)
        for number in range(count):
            request = auth_service_pb2.IssueTokenRequest(
                namespace="default",
                agent_id=f"holder-{number}",
                type=agent_pb2.AGENT_TYPE_WORKER,
                capabilities=["*"],
            )
            token = (await auth.IssueToken(request)).token.value
            agents.create_task(Holder(f"holder-{number}", address, token, crowd).live())
        await asyncio.to_thread(sys.stdin.readline)
        crowd.finish.set()


if __name__ == "__main__":
    asyncio.run(main())
