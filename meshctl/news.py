"""Writes what happens to agents and tasks, a line each, until Ctrl-C."""

from __future__ import annotations

import datetime
from collections.abc import Iterable

import click

from agentmesh.v1 import agent_pb2, task_pb2
from meshctl import outcomes, output, progress, words
from meshctl.following import ConnectionLost, is_end
from meshctl.mesh import Mesh
from meshctl.problems import ExitCode
from meshctl.safe_text import printable
from meshctl.watching import Changed, Missed, Watcher


def write(mesh: Mesh, namespaces: Iterable[str], *, as_json: bool, agents: bool, tasks: bool) -> ExitCode:
    """Writes every change from now on. Returns on Ctrl-C, which is how watching ends."""
    lost = False
    missed: set[str] = set()
    try:
        with Watcher(mesh, namespaces, agents=agents, tasks=tasks) as watcher:
            for news in watcher.news(idle_s=60.0):
                if isinstance(news, ConnectionLost):
                    # Several streams break together; one note is enough.
                    if not lost:
                        output.note(f"lost the connection to {mesh.target.address}; trying again")
                    lost = True
                elif isinstance(news, Missed):
                    # Nor does it matter which of a namespace's streams has the gap.
                    if news.namespace not in missed:
                        output.note(f"changes in {printable(news.namespace)} went by unseen")
                    missed.add(news.namespace)
                elif isinstance(news, Changed):
                    lost = False
                    missed.clear()
                    _write(news.item, as_json=as_json)
    except KeyboardInterrupt:
        return ExitCode.DONE
    return ExitCode.DONE


def _write(item: agent_pb2.Agent | task_pb2.Task, *, as_json: bool) -> None:
    now = datetime.datetime.now(datetime.UTC)
    is_agent = isinstance(item, agent_pb2.Agent)
    if as_json:
        kind = "agent" if is_agent else "task"
        output.write_json_line({"time": now.isoformat(timespec="milliseconds"), kind: output.as_dict(item)})
        return
    text = agent_text(item) if isinstance(item, agent_pb2.Agent) else task_text(item)
    click.echo(f"{now.astimezone().isoformat(sep=' ', timespec='seconds')}  {text}")


def agent_text(agent: agent_pb2.Agent) -> str:
    """Returns how an agent is, in one line."""
    cause = f": {agent.health_cause}" if agent.health_cause else ""
    text = f"agent {agent.spec.agent_id} in {agent.namespace} is {words.health_word(agent.health)}{cause}"
    return printable(text)


def task_text(task: task_pb2.Task) -> str:
    """Returns what a task is doing or how it ended, in one line."""
    text = progress.state_text(task)
    if is_end(task) and task.state != task_pb2.TASK_STATE_SUCCEEDED:
        text = f"{outcomes.failure_sentence(task)} in {task.namespace}"
    return printable(f"task {text}")
