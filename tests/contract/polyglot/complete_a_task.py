"""Has an agent in another language complete tasks: python -m tests.contract.polyglot.complete_a_task NAME COMMAND...

The agent gets its address, its id and a token in the environment, as any agent would, and must count words. meshd is
restarted in between: an agent of the minimal profile comes back by itself. It also comes back when its session was lost,
or the mesh was restored to before it knew the agent; it stops when another process took its place, and says Bye on SIGTERM.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import grpc

from agentmesh.v1 import (
    agent_pb2,
    payload_pb2,
    registry_service_pb2,
    registry_service_pb2_grpc,
    scheduler_service_pb2,
    scheduler_service_pb2_grpc,
    task_pb2,
)
from tests.contract.outside.conftest import issue_token
from tests.faults.meshd_process import ChildProcess, MeshdProcess

TIMEOUT_S = 20


def count_words(stub: scheduler_service_pb2_grpc.SchedulerServiceStub, task_id: str, text: str) -> None:
    """Submit a task and hold its result against the truth."""
    spec = task_pb2.TaskSpec(
        task_id=task_id, task_type="word-count", payload=payload_pb2.Payload(inline=text.encode())
    )
    submit = scheduler_service_pb2.SubmitTaskRequest(namespace="default", spec=spec)
    stub.SubmitTask(submit, timeout=TIMEOUT_S, wait_for_ready=True)
    wait = scheduler_service_pb2.WaitTaskRequest(
        namespace="default", task_id=task_id, view=scheduler_service_pb2.TASK_VIEW_FULL
    )
    wait.timeout.seconds = TIMEOUT_S
    task = stub.WaitTask(wait, timeout=TIMEOUT_S + 5).task
    assert task.state == task_pb2.TASK_STATE_SUCCEEDED, task
    assert task.output.inline == str(len(text.split())).encode(), task.output
    assert task.attempt.number == 1, task


def wait_until_lost(channel: grpc.Channel, agent_id: str) -> None:
    """Return once the agent's session is over."""
    request = registry_service_pb2.WatchAgentsRequest(namespace="default", health=[agent_pb2.HEALTH_LOST])
    watch = registry_service_pb2_grpc.RegistryServiceStub(channel).WatchAgents(request, timeout=TIMEOUT_S)
    next(news for news in watch if any(change.agent.spec.agent_id == agent_id for change in news.changes))
    watch.cancel()


def forget_everything(meshd: MeshdProcess) -> None:
    """Have a mesh that is down know neither agents nor tasks: restored from a backup of its first hour."""
    for part in meshd.data_dir.glob("mesh.db*"):
        part.unlink()


def health(channel: grpc.Channel, agent_id: str) -> agent_pb2.Health.ValueType:
    """Return how an agent is."""
    request = registry_service_pb2.GetAgentRequest(namespace="default", agent_id=agent_id)
    return registry_service_pb2_grpc.RegistryServiceStub(channel).GetAgent(request).agent.health


def main(name: str, command: list[str]) -> None:
    with (
        tempfile.TemporaryDirectory() as folder,
        MeshdProcess(Path(folder)) as meshd,
        grpc.insecure_channel(meshd.address) as channel,
    ):
        agent_id = f"{name}-agent"
        environment = {
            "AGENTMESH_ADDRESS": meshd.tcp_address,
            "AGENTMESH_AGENT_ID": agent_id,
            "AGENTMESH_TOKEN": issue_token(channel, agent_id, "WORKER").value,
        }
        stub = scheduler_service_pb2_grpc.SchedulerServiceStub(channel)
        with ChildProcess(name, command, Path(folder), environment) as agent:
            count_words(stub, "first", "one two three")
            meshd.kill()
            meshd.start()
            count_words(stub, "second", "after a restart of meshd")
            agent.freeze()
            wait_until_lost(channel, agent_id)
            agent.thaw()
            count_words(stub, "third", "in another session")
            with ChildProcess(f"{name}-again", command, Path(folder), environment) as successor:
                assert agent.wait(TIMEOUT_S) != 0
                assert "another process runs as this agent" in agent.log_tail()
                count_words(stub, "fourth", "by the one that took its place")
                meshd.kill()
                forget_everything(meshd)
                meshd.start()
                count_words(stub, "fifth", "for a mesh that does not know it")
                successor.terminate()
                assert successor.wait(TIMEOUT_S) == 0
                assert health(channel, agent_id) == agent_pb2.HEALTH_DECLARED, "it left without Bye"
    sys.stdout.write(f"{name}: completed its tasks in the minimal profile\n")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
