"""A worker for the end-to-end tests: its environment says who it is and where the mesh is."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time

from agentmesh import Agent, TaskContext

agent = Agent(slots=4, drain_timeout_s=float(os.environ.get("DRAIN_TIMEOUT_S", "30")))


@agent.task("data-processing")
def process(task: TaskContext) -> dict[str, object]:
    return {"got": task.json()}


@agent.task("nap")
async def nap(task: TaskContext) -> int:
    task.progress(message="begun")
    await asyncio.sleep(float(task.text()))
    return task.attempt


@agent.task("stubborn")
async def stubborn(task: TaskContext) -> int:
    """Will not be cancelled."""
    task.progress(message="begun")
    end = time.monotonic() + float(task.text())
    while time.monotonic() < end:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(end - time.monotonic())
    return task.attempt


@agent.task("burn")
def burn(task: TaskContext) -> int:
    task.progress(message="begun")
    end = time.monotonic() + float(task.text())
    while time.monotonic() < end:
        pass
    return task.attempt


if __name__ == "__main__":
    agent.run()
