"""A worker for the end-to-end tests: its environment says who it is and where the mesh is."""

from __future__ import annotations

import asyncio
import time

from agentmesh import Agent, TaskContext

agent = Agent(slots=4)


@agent.task("data-processing")
def process(task: TaskContext) -> dict[str, object]:
    return {"got": task.json()}


@agent.task("nap")
async def nap(task: TaskContext) -> int:
    await asyncio.sleep(float(task.text()))
    return task.attempt


@agent.task("burn")
def burn(task: TaskContext) -> int:
    end = time.monotonic() + float(task.text())
    while time.monotonic() < end:
        pass
    return task.attempt


if __name__ == "__main__":
    agent.run()
