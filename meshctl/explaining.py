"""Why a task does not run, and the next command to type."""

from __future__ import annotations

import shlex

from agentmesh.v1 import registry_service_pb2, scheduler_service_pb2, task_pb2
from meshctl import deploying
from meshctl.mesh import Mesh
from meshctl.safe_text import printable

# Agents with these verdicts will take the task without anybody's help.
_WILL_TAKE = frozenset(
    (
        scheduler_service_pb2.VERDICT_FITS,
        scheduler_service_pb2.VERDICT_NO_FREE_SLOT,
        scheduler_service_pb2.VERDICT_NOT_PROVEN,
        scheduler_service_pb2.VERDICT_DECLINED,
    )
)
_UNFIT = frozenset(
    (scheduler_service_pb2.VERDICT_CAPABILITY_MISSING, scheduler_service_pb2.VERDICT_LABEL_MISMATCH)
)
_CANNOT_NOW = {
    scheduler_service_pb2.VERDICT_DRAINING: "is draining and takes nothing new",
    scheduler_service_pb2.VERDICT_TAKES_NO_WORK: "takes no work",
}
_MAX_AGENTS = 3


def explain(mesh: Mesh, namespace: str, task_id: str) -> scheduler_service_pb2.ExplainTaskResponse:
    """Asks why a task is where it is."""
    request = scheduler_service_pb2.ExplainTaskRequest(namespace=namespace, task_id=task_id)
    return mesh.call(mesh.scheduler.ExplainTask, request)


def advice(mesh: Mesh, explanation: scheduler_service_pb2.ExplainTaskResponse) -> list[str]:
    """Returns what stands in the way of a queued task, or ended a poisonous one, a line each with the next command."""
    task = explanation.task
    if task.outcome_reason == task_pb2.OUTCOME_REASON_POISON:
        attempts = f"meshctl task get {task.spec.task_id} -n {task.namespace}"
        logs = (
            "each of its attempts was lost with its agent: see how their processes ended, then submit it anew"
        )
        return [f"{logs}; its attempts:  {attempts}"]
    if task.state != task_pb2.TASK_STATE_QUEUED or any(
        item.verdict in _WILL_TAKE for item in explanation.verdicts
    ):
        return []
    able = [item for item in explanation.verdicts if item.verdict not in _UNFIT]
    if not able:
        return [_nobody_can(explanation)]
    return [_about(mesh, task.namespace, item) for item in able[:_MAX_AGENTS]]


def needed_capabilities(spec: task_pb2.TaskSpec) -> list[str]:
    """Returns the skills an agent must have: those required, or the one called like the task's type."""
    if spec.HasField("requirements"):
        return list(spec.requirements.required_capabilities)
    return [spec.task_type]


def _about(mesh: Mesh, namespace: str, item: scheduler_service_pb2.AgentVerdict) -> str:
    able = f"{item.agent_id} in {namespace} can, but "
    if item.verdict in _CANNOT_NOW:
        look = f"meshctl agent get {item.agent_id} -n {namespace}"
        return f"{able}{_CANNOT_NOW[item.verdict]}: look at it with  {look}"
    request = registry_service_pb2.GetAgentRequest(namespace=namespace, agent_id=item.agent_id)
    found = mesh.find(mesh.registry.GetAgent, request)
    start = f"{deploying.command_of(found.agent)} -- COMMAND" if found else "meshctl agent list"
    return f"{able}is not running: start its process with  {start}"


def _nobody_can(explanation: scheduler_service_pb2.ExplainTaskResponse) -> str:
    task = explanation.task
    capabilities = needed_capabilities(task.spec)
    skills = f"the capability {' and '.join(capabilities)}" if capabilities else "what the task requires"
    taken = {item.agent_id for item in explanation.verdicts}
    agent_id = next(name for number in range(1, len(taken) + 2) if (name := f"worker-{number}") not in taken)
    command = [
        "meshctl",
        "deploy",
        "--agent-id",
        agent_id,
        "--agent-type",
        "worker",
        "--namespace",
        task.namespace,
    ]
    if capabilities:
        command += ["--capabilities", ",".join(capabilities)]
    return printable(
        f"no agent in {task.namespace} has {skills}: start one with  {shlex.join(command)} -- COMMAND"
    )
