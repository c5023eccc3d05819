"""A worker of the fault tests, made with the SDK: it writes down every execution before it returns its result.

Each execution returns bytes that no other one returns, so a result can be traced to the execution that made it.
`python -m tests.faults.recording_worker LOG [SLEEP_S]`; the rest comes from the environment, as for every agent.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
import uuid
from pathlib import Path

from agentmesh import Agent, TaskContext
from tests.faults.oracle import Execution

TASK_TYPE = "record"


def executions(log: Path) -> list[Execution]:
    """Reads what a worker wrote."""
    if not log.exists():
        return []
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    return [
        Execution(line["task_id"], line["agent_id"], line["fence_number"], line["output"].encode())
        for line in lines
    ]


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    descriptor = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    sleep_s = float(sys.argv[2]) if len(sys.argv) > 2 else 0.005
    agent = Agent(slots=32)

    @agent.task(TASK_TYPE)
    async def record(task: TaskContext) -> bytes:
        output = uuid.uuid4().hex
        line = {
            "task_id": task.id,
            "agent_id": agent.agent_id,
            "fence_number": task.fence_number,
            "output": output,
        }
        os.write(descriptor, json.dumps(line).encode() + b"\n")
        await asyncio.sleep(sleep_s)
        return output.encode()

    agent.run()


if __name__ == "__main__":
    main()
