"""Agents that stand by, as a process of their own: they beat, and answer every assignment at once by Accept and Done.

Prints `ready`; then, for each line on standard input, one line of JSON: results acknowledged so far, agents whose stream
ended, and the longest time in which an agent had no answer to its beats.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from typing import Any

import grpc.aio
import uvloop

from agentmesh.v1 import agent_pb2, auth_service_pb2_grpc, scheduler_service_pb2, session_pb2
from bench.load import LOCAL, PAYLOAD, connect, issue


class Fleet:
    """What the agents have seen."""

    def __init__(self) -> None:
        self.acked = 0
        self.streams_ended = 0
        self.longest_silence_s = 0.0


async def work(call: Any, beat_s: float, fleet: Fleet) -> None:
    """Answer assignments, beat, and note for how long nothing came."""
    writing = asyncio.Lock()  # gRPC takes one write at a time
    heard_mono = time.monotonic()

    async def send(frames: list[session_pb2.AgentFrame]) -> None:
        async with writing:
            await call.write(scheduler_service_pb2.WorkRequest(frames=frames))

    async def beat() -> None:
        seq = 0
        while True:
            await asyncio.sleep(beat_s)
            seq += 1
            await send([session_pb2.AgentFrame(beat=session_pb2.Beat(seq=seq))])

    beating = asyncio.create_task(beat())
    try:
        while (message := await call.read()) is not grpc.aio.EOF:
            now = time.monotonic()
            fleet.longest_silence_s = max(fleet.longest_silence_s, now - heard_mono)
            heard_mono = now
            answers: list[session_pb2.AgentFrame] = []
            for frame in message.frames:
                kind = frame.WhichOneof("frame")
                if kind == "assign":
                    fence = frame.assign.fence
                    answers.append(session_pb2.AgentFrame(accept=session_pb2.Accept(fence=fence)))
                    answers.append(session_pb2.AgentFrame(done=session_pb2.Done(fence=fence, output=PAYLOAD)))
                elif kind == "ack":
                    fleet.acked += 1
            if answers:
                await send(answers)
    finally:
        beating.cancel()
        fleet.streams_ended += 1


async def main(options: argparse.Namespace) -> None:
    """Connect the agents and submitters' tokens, then answer questions until the end of the input."""
    channel = grpc.aio.insecure_channel(options.address, options=LOCAL)
    auth: Any = auth_service_pb2_grpc.AuthServiceStub(channel)
    fleet = Fleet()
    working = []
    for n in range(options.agents):
        own = grpc.aio.insecure_channel(options.address, options=LOCAL)
        metadata = await issue(auth, f"agent-{n}", agent_pb2.AGENT_TYPE_WORKER)
        working.append(asyncio.create_task(work(*await connect(own, f"agent-{n}", metadata), fleet)))
    print("ready", flush=True)
    loop = asyncio.get_running_loop()
    while await loop.run_in_executor(None, sys.stdin.readline):
        fleet.longest_silence_s, silence_s = 0.0, fleet.longest_silence_s
        figures = {
            "acked": fleet.acked,
            "streams_ended": fleet.streams_ended,
            "silence_s": round(silence_s, 2),
        }
        print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("address")
    parser.add_argument("--agents", type=int, default=100)
    uvloop.run(main(parser.parse_args()))
