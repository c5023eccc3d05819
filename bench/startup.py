"""What a command costs from a shell: `meshctl execute` of a no-op beside the same two calls by the bare stubs.

`python -m bench.startup call ADDRESS` is that bare program: it submits a task and waits for its end. Both include the
start of the interpreter and their imports. `python -m bench.startup work ADDRESS` is the agent that answers.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

from bench.processes import LOAD_CORE, end, meshd, start

TIMES = 7
MESHCTL = Path(sys.executable).with_name("meshctl")


def call(address: str) -> None:
    """Submit a no-op and wait for it, by the generated stubs alone."""
    import grpc  # noqa: PLC0415 - the imports of a bare program are a part of what it costs

    from agentmesh.v1 import scheduler_service_pb2, scheduler_service_pb2_grpc, task_pb2  # noqa: PLC0415

    with grpc.insecure_channel(address) as channel:
        scheduler: Any = scheduler_service_pb2_grpc.SchedulerServiceStub(channel)
        spec = task_pb2.TaskSpec(task_id=os.urandom(8).hex(), task_type="work")
        scheduler.SubmitTask(scheduler_service_pb2.SubmitTaskRequest(namespace="default", spec=spec))
        waiting = scheduler_service_pb2.WaitTaskRequest(namespace="default", task_id=spec.task_id)
        task = scheduler.WaitTask(waiting).task
    if task.state != task_pb2.TASK_STATE_SUCCEEDED:
        raise SystemExit(f"the no-op ended as {task.state}")


def work(address: str) -> None:
    """Answer no-ops until ended."""
    from agentmesh import Agent  # noqa: PLC0415 - the bare program must not import it

    agent = Agent("worker-1", namespace="default", address=address)

    @agent.task("work")
    def no_op(_task: Any) -> None:
        return None

    agent.run()


def took_ms(*command: str) -> float:
    """Run a command on the load's core; returns its wall time."""
    begin = time.monotonic()
    subprocess.run(("taskset", "--cpu-list", str(LOAD_CORE), *command), check=True, capture_output=True)
    return (time.monotonic() - begin) * 1000


def measure() -> dict[str, Any]:
    """Run each command in turn several times; returns medians in milliseconds."""
    with meshd() as (_server, address):
        worker = start(LOAD_CORE, "bench.startup", "work", address)
        commands = {
            "interpreter_ms": (sys.executable, "-c", "pass"),
            "help_ms": (str(MESHCTL), "--help"),
            "bare_ms": (sys.executable, "-m", "bench.startup", "call", address),
            "execute_ms": (str(MESHCTL), "--address", address, "execute", "--task-type", "work"),
        }
        try:
            for command in commands.values():
                took_ms(
                    *command
                )  # the first run waits for the worker, and compiles and reads what all later ones find
            taken = [{name: took_ms(*command) for name, command in commands.items()} for _ in range(TIMES)]
        finally:
            end(worker)
    return {name: median(each[name] for each in taken) for name in commands}


if __name__ == "__main__":
    {"call": call, "work": work}[sys.argv[1]](sys.argv[2])
