"""The load of one round, as a process of its own: hand-made agents and submitters on the generated stubs.

Agents answer a message of assignments by one message of Accept and Done; submitters keep a fixed number of calls in
flight. Every call carries a real token, and submitters take turns with as many principals as they are told; or, with
none, they submit over the operator's socket without a token. Prints one line of JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import secrets
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import grpc.aio

from agentmesh.connection import HELD_CONNECTIONS, spreading_options
from agentmesh.errors import from_rpc_error
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
    task_pb2,
)

SLOTS = 50
PAYLOAD = payload_pb2.Payload(inline=b"x" * 200)
LOCAL = [("grpc.use_local_subchannel_pool", 1)]
Metadata = tuple[tuple[str, str], ...]


class Run:
    """Counts what came back."""

    def __init__(self, tasks: int, *, watched: bool) -> None:
        self.left = tasks
        self.watched = watched
        self.done = asyncio.Event()
        self.assigned_s: dict[str, float] = {}
        self.acked_s: dict[str, float] = {}
        self.id_of: dict[bytes, str] = {}

    def acked(self, fence: bytes) -> None:
        """Note that a result is durable."""
        self.acked_s[self.id_of[fence]] = time.monotonic()
        if not self.watched:
            self.ended(1)

    def ended(self, count: int) -> None:
        """Count so many tasks that have ended."""
        self.left -= count
        if self.left == 0:
            self.done.set()


async def connect(channel: grpc.aio.Channel, agent_id: str, metadata: Metadata) -> tuple[Any, float]:
    """Register an agent and open its Work stream; returns it and the pace of beats it was told, in seconds."""
    registry: Any = registry_service_pb2_grpc.RegistryServiceStub(channel)
    scheduler: Any = scheduler_service_pb2_grpc.SchedulerServiceStub(channel)
    spec = agent_pb2.AgentSpec(
        agent_id=agent_id, type=agent_pb2.AGENT_TYPE_WORKER, capabilities=["work"], slots=SLOTS
    )
    registered = await registry.RegisterAgent(
        registry_service_pb2.RegisterAgentRequest(spec=spec, session_key=secrets.token_bytes(16)),
        metadata=metadata,
    )
    opening = session_pb2.Open(
        agent_id=agent_id,
        session_id=registered.session_id,
        resume_token=registered.resume_token,
        stream_seq=1,
        protocol=1,
        features=[session_pb2.FEATURE_ACCEPT, session_pb2.FEATURE_LEASE_ACK],
    )
    call = scheduler.Work(metadata=metadata)
    await call.write(scheduler_service_pb2.WorkRequest(frames=[session_pb2.AgentFrame(open=opening)]))
    opened = await call.read()
    return call, opened.frames[0].opened.limits.beat_interval.ToTimedelta().total_seconds()


async def work(call: Any, beat_s: float, run: Run) -> None:
    """Answer assignments until the load ends."""
    writing = asyncio.Lock()  # gRPC takes one write at a time

    async def send(frames: list[session_pb2.AgentFrame]) -> None:
        async with writing:
            await call.write(scheduler_service_pb2.WorkRequest(frames=frames))

    async def beat() -> None:
        while True:
            await asyncio.sleep(beat_s)
            await send([session_pb2.AgentFrame(beat=session_pb2.Beat(seq=1))])

    beating = asyncio.create_task(beat())
    while (message := await call.read()) is not grpc.aio.EOF:
        now = time.monotonic()
        answers: list[session_pb2.AgentFrame] = []
        for frame in message.frames:
            kind = frame.WhichOneof("frame")
            if kind == "assign":
                fence = frame.assign.fence
                run.id_of[fence] = frame.assign.task_id
                run.assigned_s[frame.assign.task_id] = now
                answers.append(session_pb2.AgentFrame(accept=session_pb2.Accept(fence=fence)))
                answers.append(session_pb2.AgentFrame(done=session_pb2.Done(fence=fence, output=PAYLOAD)))
            elif kind == "ack":
                run.acked(frame.ack.fence)
        if answers:
            await send(answers)
    beating.cancel()


async def issue(auth: Any, agent_id: str, kind: agent_pb2.AgentType.ValueType) -> Metadata:
    """Return the metadata of a fresh principal."""
    request = auth_service_pb2.IssueTokenRequest(
        namespace="default", agent_id=agent_id, type=kind, capabilities=["*"]
    )
    return (("authorization", "Bearer " + (await auth.IssueToken(request)).token.value),)


def spec_of(task_id: str) -> task_pb2.TaskSpec:
    """Return a no-op task."""
    return task_pb2.TaskSpec(task_id=task_id, task_type="work", payload=PAYLOAD)


async def make(call: Callable[[], Any]) -> None:
    """Make a call, again when it was refused for now: a disk that lags must not end a long run."""
    while True:
        try:
            await call()
            return
        except grpc.aio.AioRpcError as error:
            pause_s = from_rpc_error(error).retry_after_s
            if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED or pause_s is None:
                raise
        await asyncio.sleep(pause_s)


async def submit_all(
    scheduler: Any, options: argparse.Namespace, principals: list[Metadata]
) -> dict[str, float]:
    """Submit every task, `in_flight` calls at a time or at a fixed rate; return when each was submitted."""
    submitted_s: dict[str, float] = {}
    prefix = secrets.token_hex(4)
    starts = iter(range(0, options.tasks, options.batch))
    # At a fixed rate not before all of them wait for their time: making them is no delay of the mesh's.
    begin = time.monotonic() + (1.0 if options.rate else 0.0)

    async def one(start: int) -> None:
        metadata = principals[start // options.batch % len(principals)]
        ids = [f"{prefix}-{n}" for n in range(start, min(start + options.batch, options.tasks))]
        now = time.monotonic()
        submitted_s.update(dict.fromkeys(ids, now))
        method: Any = scheduler.SubmitTasks
        request: Any = scheduler_service_pb2.SubmitTasksRequest(specs=[spec_of(i) for i in ids])
        if options.batch == 1:
            method = scheduler.SubmitTask
            request = scheduler_service_pb2.SubmitTaskRequest(spec=spec_of(ids[0]))
        await make(partial(method, request, metadata=metadata))

    async def submitter() -> None:
        for start in starts:
            await one(start)

    async def on_time(start: int) -> None:
        await asyncio.sleep(max(0.0, begin + start / options.rate - time.monotonic()))
        await one(start)

    if options.rate:
        await asyncio.gather(*(on_time(start) for start in starts))
    else:
        await asyncio.gather(*(submitter() for _ in range(options.in_flight)))
    return submitted_s


async def watch(scheduler: Any, metadata: Metadata, run: Run) -> asyncio.Task[None]:
    """Follow all tasks to their ends, as a submitter does that wants every result; returns once it follows."""
    succeeded = [task_pb2.TASK_STATE_SUCCEEDED]
    call = scheduler.WatchTasks(
        scheduler_service_pb2.WatchTasksRequest(namespace="default", states=succeeded), metadata=metadata
    )
    while not (await call.read()).HasField("position"):
        pass

    async def follow() -> None:
        while (message := await call.read()) is not grpc.aio.EOF:
            run.ended(len(message.changes))

    return asyncio.create_task(follow())


def percentiles_ms(values: list[float]) -> dict[str, float]:
    """Return median and 99th percentile in milliseconds."""
    ordered = sorted(values)
    at = {"p50": ordered[len(ordered) // 2], "p99": ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)]}
    return {name: round(value * 1000, 2) for name, value in at.items()}


async def main(options: argparse.Namespace) -> None:
    """Run one round and print its figures."""
    # One connection would carry fewer calls than shall be in flight.
    channel = grpc.aio.insecure_channel(
        options.address, options=[*LOCAL, *spreading_options(HELD_CONNECTIONS)]
    )
    auth: Any = auth_service_pb2_grpc.AuthServiceStub(channel)
    run = Run(options.tasks, watched=options.watch)
    working = []
    for n in range(options.agents):
        own = grpc.aio.insecure_channel(options.address, options=LOCAL)
        metadata = await issue(auth, f"agent-{n}", agent_pb2.AGENT_TYPE_WORKER)
        working.append(asyncio.create_task(work(*await connect(own, f"agent-{n}", metadata), run)))
    principals = [
        await issue(auth, f"submitter-{n}", agent_pb2.AGENT_TYPE_ORCHESTRATOR)
        for n in range(options.principals)
    ]
    # A token is verified once in its life of up to an hour, then known: that is not what is measured here.
    registry: Any = registry_service_pb2_grpc.RegistryServiceStub(channel)
    for metadata in principals:
        await registry.GetMeshStatus(registry_service_pb2.GetMeshStatusRequest(), metadata=metadata)
    principals = principals or [(("agentmesh-namespace", "default"),)]
    scheduler: Any = scheduler_service_pb2_grpc.SchedulerServiceStub(channel)
    if options.watch:
        working.append(await watch(scheduler, principals[0], run))
    gc.collect()
    gc.freeze()  # A search through all of this load's own objects would be taken for the mesh's time.
    print("ready", flush=True)  # the parent reads the server's processor time now
    begin = time.monotonic()
    submitted_s = await submit_all(scheduler, options, principals)
    async with asyncio.timeout(120):
        await run.done.wait()
    seconds = time.monotonic() - begin
    figures = {
        "per_s": options.tasks / seconds,
        "assigned_ms": percentiles_ms([run.assigned_s[i] - at for i, at in submitted_s.items()]),
        "result_ms": percentiles_ms([run.acked_s[i] - at for i, at in submitted_s.items()]),
    }
    print(json.dumps(figures), flush=True)
    # The streams are the server's to clean up; closing each in order would take longer than the round.
    os._exit(0)


def parse() -> argparse.Namespace:
    """Return the options of a round."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("address")
    parser.add_argument("--agents", type=int, default=8)
    parser.add_argument("--tasks", type=int, default=10_000)
    parser.add_argument("--batch", type=int, default=250)
    parser.add_argument("--in-flight", type=int, default=40)
    parser.add_argument("--rate", type=float, default=0.0)
    parser.add_argument("--principals", type=int, default=1_000, help="0: the operator's socket, no token")
    parser.add_argument("--watch", action="store_true", help="end when the submitter has seen all results")
    return parser.parse_args()


if __name__ == "__main__":
    asyncio.run(main(parse()))
