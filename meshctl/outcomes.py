"""How a task ended: its result on standard output, its failure in two lines, and the exit code."""

from __future__ import annotations

import sys

import click

from agentmesh.v1 import task_pb2
from meshctl import output, rows, words
from meshctl.problems import ExitCode, Problem
from meshctl.safe_text import printable


def write(task: task_pb2.Task, *, as_json: bool) -> ExitCode:
    """Writes the result of a task that ended. Raises Problem when it did not succeed."""
    if as_json:
        output.write_json(task)
    elif task.state == task_pb2.TASK_STATE_SUCCEEDED:
        write_result(task)
    if task.state == task_pb2.TASK_STATE_SUCCEEDED:
        attempt = f" (attempt {task.attempt.number})" if task.attempt.number > 1 else ""
        output.note(f"{task.spec.task_id} succeeded on {task.attempt.agent_id}{attempt}.")
        return ExitCode.DONE
    raise Problem(
        failure_sentence(task),
        f"see its attempts: meshctl task get {task.spec.task_id} -n {task.namespace}",
        ExitCode.TIMED_OUT if task.state == task_pb2.TASK_STATE_EXPIRED else ExitCode.TASK_FAILED,
    )


def write_result(task: task_pb2.Task) -> None:
    """Writes a task's result: JSON indented, anything else byte for byte, but nothing that steers a terminal."""
    payload = task.output
    if sys.stdout.isatty():
        _show_result(task, rows.payload_text(payload))
        return
    pretty = rows.pretty_json(payload)
    if pretty is not None:
        click.echo(pretty)
        return
    sys.stdout.flush()
    sys.stdout.buffer.write(payload.inline)
    sys.stdout.buffer.flush()


def _show_result(task: task_pb2.Task, text: str | None) -> None:
    if text is None:
        output.note(
            f"{rows.payload_summary(task.output)}; not shown on a terminal, redirect them: "
            f"meshctl task get {task.spec.task_id} -n {task.namespace} --result > FILE"
        )
    elif text:
        click.echo(text.removesuffix("\n"))


def failure_sentence(task: task_pb2.Task) -> str:
    """Returns how a task ended that did not succeed."""
    reason = words.outcome_word(task.outcome_reason)
    sentence = f"{task.spec.task_id} {words.state_word(task.state)}" + (f" ({reason})" if reason else "")
    failure = rows.failure_text(task.failure)
    return printable(sentence + (f": {failure}" if failure else ""), keep_newlines=True)


def watch_command(task: task_pb2.Task) -> str:
    """Returns the command that follows a task."""
    return f"meshctl task watch {task.spec.task_id} -n {task.namespace}"
