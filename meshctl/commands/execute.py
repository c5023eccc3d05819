"""`meshctl execute`: submits a task, waits for its end with progress, and prints its result.

Standard output is only the result. The id is chosen here when the user names none, so that a submit whose
answer was lost can be repeated by hand without running the task twice.
"""

from __future__ import annotations

import datetime
import sys
import time
from typing import Any

import click

from agentmesh.connection import MAX_INLINE_BYTES
from agentmesh.task_specs import task_spec
from agentmesh.v1 import payload_pb2, requirements_pb2, scheduler_service_pb2, task_pb2
from meshctl import explaining, namespaces, options, outcomes, output, progress, values, words
from meshctl.following import ConnectionLost, Follower, Idle
from meshctl.mesh import Mesh
from meshctl.problems import ExitCode, Problem

# Within 2 s of the submit the user knows why nothing happens.
_FIRST_EXPLANATION_S = 1.0
_NEXT_EXPLANATION_S = 5.0
# meshd ends the task at its timeout; its word may arrive this much later before the wait ends
# here.
_TIMEOUT_MARGIN_S = 5.0


@click.command()
@click.option("--task-type", metavar="TYPE", required=True, help="Kind of work; picks the agent's handler.")
@click.option(
    "--task-id",
    metavar="ID",
    help="Id of the task: the same id with the same content is the same task. Default: new.",
)
@click.option(
    "--payload",
    metavar="TEXT|@FILE|-",
    help="Input: text, a file, or standard input; JSON is recognised. Default: none.",
)
@click.option(
    "--priority",
    type=options.PRIORITY,
    metavar="PRIORITY",
    help="low, normal, high, critical, or 0 (last) to 9 (first). Default: normal.",
)
@options.duration_option(
    "--timeout",
    "Stop the task this long after its submit: milliseconds, or 30s, 5m, 2h. Its agent has 10 s more, and a result "
    "within them counts.",
)
@options.duration_option("--queue-timeout", "End the task unless an agent takes it within this time.")
@options.duration_option("--execution-timeout", "Count an attempt that runs longer than this as failed.")
@click.option("--retries", type=click.IntRange(0, 100), help="Attempts after the first failure. Default: 3.")
@click.option(
    "--require",
    "required",
    metavar="CAPABILITY",
    multiple=True,
    help="Skill an agent must have, instead of the one called like the task type; may be repeated.",
)
@click.option(
    "--strategy",
    type=click.Choice(["least-loaded", "round-robin"]),
    help="How an agent is chosen among those that fit. Default: least-loaded.",
)
@options.labels_option("Label of the task; may be given more than once.")
@click.option("--no-wait", is_flag=True, help="Print the task's id and return once it is durable.")
@options.namespace_option(
    "Namespace of the task. Default: the one namespace that has an agent for it, else default; or "
    "the token's."
)
@options.mesh_command
def execute(invocation: options.Invocation, namespace: str | None, no_wait: bool, **spec: Any) -> ExitCode:
    """Submit a task, wait for it and print its result.

    Ctrl-C leaves the task running and prints how to watch it. Running the command again with the same
    --task-id and content returns the stored outcome.
    """
    mesh = invocation.mesh
    timeout: datetime.timedelta | None = spec["timeout"]
    wanted = _task_spec(**spec)
    name = namespaces.for_task_type(mesh, namespace, explaining.needed_capabilities(wanted))
    submitted = _submit(mesh, scheduler_service_pb2.SubmitTaskRequest(namespace=name, spec=wanted))
    task = submitted.task
    if submitted.existed:
        output.note(_existed_text(task))
    if no_wait:
        if invocation.json:
            output.write_json(task)
        else:
            click.echo(task.spec.task_id)
            output.note(f"Watch it: {outcomes.watch_command(task)}")
        return ExitCode.DONE
    try:
        ended = _wait(mesh, task, None if timeout is None else timeout.total_seconds() + _TIMEOUT_MARGIN_S)
    except KeyboardInterrupt:
        raise Problem(
            f"interrupted; {task.spec.task_id} goes on in {task.namespace}",
            f"watch it: {outcomes.watch_command(task)}",
            ExitCode.INTERRUPTED,
        ) from None
    return outcomes.write(ended, as_json=invocation.json)


def _submit(
    mesh: Mesh, request: scheduler_service_pb2.SubmitTaskRequest
) -> scheduler_service_pb2.SubmitTaskResponse:
    again = f"run it again with --task-id {request.spec.task_id}: that never runs it twice"
    try:
        return mesh.call(mesh.scheduler.SubmitTask, request)
    except KeyboardInterrupt:
        raise Problem(
            "interrupted while submitting: the task may have been taken", again, ExitCode.INTERRUPTED
        ) from None
    except Problem as problem:
        if problem.reason == "TASK_EXISTS":
            task_id, name = request.spec.task_id, request.namespace
            raise Problem(
                f"{task_id} exists{f' in {name}' if name else ''} with other content",
                "choose another --task-id, or look at that one: "
                f"meshctl task get {task_id}{f' -n {name}' if name else ''}",
                problem.code,
            ) from None
        if problem.code == ExitCode.UNREACHABLE and not problem.reason:
            # The answer may have been lost behind a durable submit.
            raise Problem(problem.what, again, problem.code, problem.reason) from None
        raise


def _wait(mesh: Mesh, task: task_pb2.Task, limit_s: float | None) -> task_pb2.Task:
    """Shows progress until the task's end and returns it as it ended."""
    namespace, task_id = task.namespace, task.spec.task_id
    started_s = time.monotonic()
    explain_at_s = started_s + _FIRST_EXPLANATION_S
    told: list[str] = []
    connected = True
    display = progress.display()
    try:
        with Follower(mesh, namespace, task_id) as follower:
            for event in follower.events(idle_s=_FIRST_EXPLANATION_S / 2):
                now_s = time.monotonic()
                if isinstance(event, ConnectionLost):
                    connected = False
                    display.state(
                        f"lost the connection to {mesh.target.address}; {task_id} goes on, trying again"
                    )
                elif isinstance(event, Idle):
                    if not connected and limit_s is not None and now_s - started_s > limit_s:
                        raise _timed_out_unseen(mesh, task)
                else:
                    connected = True
                    progress.show(event, display)
                    task = event.task if event.HasField("task") else task
                if connected and now_s >= explain_at_s and task.state == task_pb2.TASK_STATE_QUEUED:
                    explain_at_s = now_s + _NEXT_EXPLANATION_S
                    told = _explain(mesh, task, display, told)
    finally:
        display.close()
    return task


def _explain(mesh: Mesh, task: task_pb2.Task, display: progress.Display, told: list[str]) -> list[str]:
    """Says what stands in the task's way unless that was said last time; never ends the wait."""
    try:
        lines = explaining.advice(mesh, explaining.explain(mesh, task.namespace, task.spec.task_id))
    except Problem:
        return told
    if lines and lines != told:
        display.say("\n".join(lines))
    return lines


def _existed_text(task: task_pb2.Task) -> str:
    submit = f"{task.spec.task_id} was submitted to {task.namespace} {output.age_of(task.submit_time)} ago"
    if task.state in words.TERMINAL_STATES:
        return f"{submit} with the same content; this is its stored outcome."
    return f"{submit} with the same content; it is {words.state_word(task.state)}."


def _timed_out_unseen(mesh: Mesh, task: task_pb2.Task) -> Problem:
    return Problem(
        f"--timeout passed while {mesh.target.address} was away; how {task.spec.task_id} ended is unknown",
        f"ask later: meshctl task get {task.spec.task_id} -n {task.namespace}",
        ExitCode.TIMED_OUT,
    )


def _task_spec(
    *,
    payload: str | None,
    timeout: datetime.timedelta | None,
    queue_timeout: datetime.timedelta | None,
    execution_timeout: datetime.timedelta | None,
    required: tuple[str, ...],
    strategy: str | None,
    **more: Any,
) -> task_pb2.TaskSpec:
    return task_spec(
        payload=_payload(payload),
        timeout_s=options.seconds(timeout),
        queue_timeout_s=options.seconds(queue_timeout),
        execution_timeout_s=options.seconds(execution_timeout),
        requirements=requirements_pb2.Requirements(required_capabilities=required) if required else None,
        strategy=words.strategy_value(strategy),
        **more,
    )


def _payload(text: str | None) -> payload_pb2.Payload | None:
    if text is None:
        return None
    try:
        payload = values.read_payload(text, sys.stdin.buffer, MAX_INLINE_BYTES)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="'--payload'") from None
    if values.looks_like_json(payload):
        output.note("The payload is not JSON and is sent as text; quote JSON for the shell: '{\"data\": 1}'")
    return payload_pb2.Payload(inline=payload.content, media_type=payload.media_type)
