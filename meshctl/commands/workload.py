"""`meshctl workload`: what agents hold and have done."""

from __future__ import annotations

import click

from agentmesh.v1 import scheduler_service_pb2, task_pb2
from meshctl import options, output, words
from meshctl.mesh import PAGE_SIZE
from meshctl.problems import ExitCode, Problem

_HEADERS = ("NAMESPACE", "AGENT", "HEALTH", "HELD", "FREE/SLOTS", "SUCCEEDED", "FAILED", "LOST")
_HELD_HEADERS = ("NAMESPACE", "AGENT", "TASK", "TYPE", "STATE", "ATTEMPT", "AGE")


@click.command()
@click.option("--agent-id", metavar="ID", default="", help="Only this agent.")
@options.namespace_option("Only this namespace. Default: every namespace the caller may read.")
@options.mesh_command
def workload(invocation: options.Invocation, agent_id: str, namespace: str | None) -> None:
    """Show what agents hold and have done since they were first known."""
    mesh = invocation.mesh

    def request(page_token: str) -> scheduler_service_pb2.GetWorkloadRequest:
        return scheduler_service_pb2.GetWorkloadRequest(
            namespace=namespace or "", agent_id=agent_id, page_size=PAGE_SIZE, page_token=page_token
        )

    pages = mesh.pages(mesh.scheduler.GetWorkload, request)
    workloads = [entry for page in pages for entry in page.workloads]
    if agent_id and not workloads:
        where = f"namespace {namespace}" if namespace else "any namespace"
        raise Problem(f"no agent {agent_id} in {where}", "see them: meshctl agent list", ExitCode.NOT_FOUND)
    if invocation.json:
        output.write_json(scheduler_service_pb2.GetWorkloadResponse(workloads=workloads))
        return
    if not workloads:
        output.note("No agents. Make one known: meshctl deploy --help")
        return
    output.write_table(_HEADERS, [_row(entry) for entry in workloads])
    held = [_held_row(entry.agent_id, task) for entry in workloads for task in entry.held]
    if held:
        click.echo()
        output.write_table(_HELD_HEADERS, held)


def _row(entry: scheduler_service_pb2.AgentWorkload) -> tuple[str, ...]:
    return (
        entry.namespace,
        entry.agent_id,
        words.health_word(entry.health),
        str(len(entry.held)),
        f"{entry.free_slots}/{entry.slots}",
        str(entry.succeeded_count),
        str(entry.failed_count),
        str(entry.lost_count),
    )


def _held_row(agent_id: str, task: task_pb2.Task) -> tuple[str, ...]:
    return (
        task.namespace,
        agent_id,
        task.spec.task_id,
        task.spec.task_type,
        words.state_word(task.state),
        str(task.attempt.number),
        output.age_of(task.submit_time),
    )
