"""`meshctl task`: lists, shows, cancels, follows and explains tasks."""

from __future__ import annotations

import datetime

import click

from agentmesh.v1 import scheduler_service_pb2
from meshctl import explaining, namespaces, news, options, outcomes, output, progress, rows, words
from meshctl.following import ConnectionLost, Follower
from meshctl.mesh import PAGE_SIZE
from meshctl.problems import ExitCode, Problem
from meshctl.safe_text import printable

_NAMESPACE_HELP = "Namespace of the task. Default: the one that has it."
_VERDICT_HEADERS = ("AGENT", "VERDICT", "HEALTH", "DETAIL")


@click.group()
def task() -> None:
    """List, get, cancel, watch and explain tasks."""


@task.command("list")
@options.namespace_option("Only this namespace. Default: every namespace the caller may read.")
@click.option(
    "--state",
    "states",
    type=click.Choice(options.TASK_STATES, case_sensitive=False),
    multiple=True,
    help="Only tasks in this state; may be given more than once.",
)
@click.option("--task-type", metavar="TYPE", default="", help="Only this kind of work.")
@click.option(
    "--agent-id", metavar="ID", default="", help="Only tasks whose last attempt is or was this agent's."
)
@options.limit_option(100)
@options.mesh_command
def list_tasks(
    invocation: options.Invocation,
    namespace: str | None,
    states: tuple[str, ...],
    task_type: str,
    agent_id: str,
    limit: int,
) -> None:
    """List tasks, newest first."""
    mesh = invocation.mesh

    def request(page_token: str) -> scheduler_service_pb2.ListTasksRequest:
        return scheduler_service_pb2.ListTasksRequest(
            namespace=namespace or "",
            states=[words.state_value(state) for state in states],
            task_type=task_type,
            agent_id=agent_id,
            page_size=min(limit, PAGE_SIZE),
            page_token=page_token,
        )

    found, more = mesh.first(mesh.scheduler.ListTasks, request, lambda page: page.tasks, limit)
    if invocation.json:
        output.write_json({"tasks": [output.as_dict(item) for item in found], "more": more})
    elif found:
        output.write_table(rows.TASK_HEADERS, [rows.task_row(item) for item in found])
    else:
        output.note("No tasks match. Submit one: meshctl execute --help")
    if more:
        output.note_more(len(found))


@task.command("get")
@click.argument("task_id")
@options.namespace_option(_NAMESPACE_HELP)
@click.option("--result", is_flag=True, help="Print only the task's result, as execute does.")
@options.mesh_command
def get_task(invocation: options.Invocation, task_id: str, namespace: str | None, result: bool) -> None:
    """Show one task with its attempts, or its result."""
    mesh = invocation.mesh
    found = mesh.call(
        mesh.scheduler.GetTask,
        scheduler_service_pb2.GetTaskRequest(
            namespace=namespaces.of_task(mesh, namespace, task_id),
            task_id=task_id,
            view=scheduler_service_pb2.TASK_VIEW_FULL,
        ),
    ).task
    if result and not found.HasField("output"):
        raise Problem(
            f"{task_id} has no result: it is {words.state_word(found.state)}",
            f"follow it: {outcomes.watch_command(found)}",
            ExitCode.NOT_FOUND,
        )
    if result:
        outcomes.write_result(found)
    elif invocation.json:
        output.write_json(found)
    else:
        output.write_fields(rows.task_fields(found))


@task.command("cancel")
@click.argument("task_id")
@options.namespace_option(_NAMESPACE_HELP)
@options.duration_option("--grace", "Time its agent has to stop, at most 10m. Default: 10s.")
@options.mesh_command
def cancel_task(
    invocation: options.Invocation, task_id: str, namespace: str | None, grace: datetime.timedelta | None
) -> None:
    """Ask for the end of a task. One that has ended stays as it is."""
    mesh = invocation.mesh
    answer = mesh.call(
        mesh.scheduler.CancelTask,
        scheduler_service_pb2.CancelTaskRequest(
            namespace=namespaces.of_task(mesh, namespace, task_id),
            task_id=task_id,
            grace=options.duration(grace),
        ),
    )
    if invocation.json:
        output.write_json(answer)
    else:
        click.echo(progress.state_text(answer.task))


@task.command("watch")
@click.argument("task_id", required=False)
@options.namespace_option(
    "Namespace of the task, or of all tasks to follow. Default: the one that has the task."
)
@options.mesh_command
def watch_task(invocation: options.Invocation, task_id: str | None, namespace: str | None) -> ExitCode:
    """Follow a task until its end, then print its result. Without a task: every change of all tasks, until Ctrl-C."""
    mesh = invocation.mesh
    if task_id is None:
        names = [namespace] if namespace else mesh.namespace_names()
        return news.write(mesh, names, as_json=invocation.json, agents=False, tasks=True)
    name = namespaces.of_task(mesh, namespace, task_id)
    display = progress.display()
    try:
        with Follower(mesh, name, task_id) as follower:
            for event in follower.events(idle_s=60.0):
                if isinstance(event, ConnectionLost):
                    display.state(f"lost the connection to {mesh.target.address}; trying again")
                elif isinstance(event, scheduler_service_pb2.WatchTaskResponse):
                    progress.show(event, display)
                    ended = event.task
    finally:
        display.close()
    return outcomes.write(ended, as_json=invocation.json)


@task.command("why")
@click.argument("task_id")
@options.namespace_option(_NAMESPACE_HELP)
@options.mesh_command
def explain_task(invocation: options.Invocation, task_id: str, namespace: str | None) -> None:
    """Explain why a task is where it is, agent by agent."""
    mesh = invocation.mesh
    explanation = explaining.explain(mesh, namespaces.of_task(mesh, namespace, task_id), task_id)
    if invocation.json:
        output.write_json(explanation)
        return
    click.echo(printable(explanation.summary))
    if explanation.queue_position:
        before = explanation.queue_position
        click.echo(f"{before} tasks go before it." if before > 1 else "1 task goes before it.")
    if explanation.verdicts:
        click.echo()
        output.write_table(
            _VERDICT_HEADERS,
            [
                (item.agent_id, words.verdict_word(item.verdict), words.health_word(item.health), item.detail)
                for item in explanation.verdicts
            ],
        )
    for line in explaining.advice(mesh, explanation):
        output.note(line)
