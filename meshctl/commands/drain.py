"""`meshctl drain` and `meshctl undrain`: agents that get no new work, by rule."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from typing import Any

import click

from agentmesh.v1 import registry_service_pb2 as pb
from meshctl import draining, namespaces, options, output
from meshctl.mesh import PAGE_SIZE, Mesh
from meshctl.problems import ExitCode, Problem, usage
from meshctl.progress import display

_HEADERS = ("NAMESPACE", "AGENTS", "MATCHING", "HELD", "AGE", "BY", "REASON")


def _selector_options(function: Callable[..., Any]) -> Callable[..., Any]:
    for decorate in (
        options.namespace_option("Namespace. Default: the one with agents that match."),
        options.agent_type_option(required=False, help_text="Only agents of this type."),
        options.labels_option("Only agents with this label; may be given more than once."),
    ):
        function = decorate(function)
    return click.argument("pattern", required=False, default="")(function)


@click.command()
@_selector_options
@click.option("--reason", metavar="TEXT", default="", help="Words for people; the agents are told too.")
@click.option(
    "--hand-over", is_flag=True, help="Give what the agents run to others, at no cost to the tasks' retries."
)
@options.duration_option("--grace", "With --hand-over: time for attempts to stop. Default: 10s.")
@click.option("--wait", is_flag=True, help="Return when the agents hold nothing; fail if no agent matches.")
@options.duration_option("--timeout", "With --wait: give up after so long. Default: never.")
@click.option("--list", "show", is_flag=True, help="Only list the drains in force.")
@options.mesh_command
def drain(
    invocation: options.Invocation,
    pattern: str,
    namespace: str | None,
    labels: dict[str, str],
    agent_type: str | None,
    reason: str,
    hand_over: bool,
    grace: datetime.timedelta | None,
    wait: bool,
    timeout: datetime.timedelta | None,
    show: bool,
) -> None:
    """Let agents finish what they run and give them nothing new, by id pattern, label or type.

    The rule holds until `meshctl undrain`, also for processes that start later: 'worker-*' drains every agent
    whose id begins so, now and then.
    """
    selector = draining.selector_of(pattern, labels, agent_type)
    if show:
        if selector.ByteSize():
            raise usage("--list takes no agents", "meshctl drain --list")
        _list(invocation, namespace)
        return
    _must_select(selector, "meshctl drain 'worker-*'")
    if grace is not None and not hand_over:
        raise usage("--grace goes with --hand-over", "add --hand-over, or leave --grace out")
    if timeout is not None and not wait:
        raise usage("--timeout goes with --wait", "add --wait, or leave --timeout out")
    mesh = invocation.mesh

    def concerned(name: str) -> bool:
        return draining.in_namespace(mesh, name, selector).agent_count > 0

    name = namespaces.of_selection(mesh, namespace, concerned, draining.selector_text(selector))
    request = pb.DrainAgentsRequest(
        namespace=name,
        selector=selector,
        reason=reason,
        hand_over=hand_over,
        hand_over_grace=options.duration(grace),
    )
    answer = mesh.call(mesh.registry.DrainAgents, request)
    if wait and not answer.agents.agent_count:
        # Whoever waits goes on to stop a process: a misspelt id must not pass for an idle agent.
        raise Problem(
            f"no agent matches {draining.selector_text(selector)} in {answer.drain.namespace}; "
            "the drain is in force for those that register later",
            f"lift it: {draining.undrain_command(selector, answer.drain.namespace)}   "
            "or see the ids: meshctl agent list",
            ExitCode.NOT_FOUND,
        )
    if not invocation.json:
        output.note(_started(answer))
    if wait:
        shown = display()
        try:
            agents = draining.wait_until_idle(mesh, name, selector, options.seconds(timeout), shown)
        finally:
            shown.close()
        answer.agents.CopyFrom(agents)
        if not invocation.json:
            output.note(f"Done: {draining.held_text(agents)}.")
    if invocation.json:
        output.write_json(answer)


@click.command()
@_selector_options
@options.mesh_command
def undrain(
    invocation: options.Invocation,
    pattern: str,
    namespace: str | None,
    labels: dict[str, str],
    agent_type: str | None,
) -> None:
    """Lift a drain: its agents get work again. Name it as it was started; see them: meshctl drain --list."""
    selector = draining.selector_of(pattern, labels, agent_type)
    _must_select(selector, "meshctl undrain 'worker-*'")
    mesh = invocation.mesh
    drained = [each.drain.namespace for each in _drains(mesh, "") if each.drain.selector == selector]
    text = draining.selector_text(selector)
    name = namespaces.of_selection(mesh, namespace, drained.__contains__, f"a drain of {text}")
    request = pb.DrainAgentsRequest(namespace=name, selector=selector, lift=True)
    answer = mesh.call(mesh.registry.DrainAgents, request)
    if invocation.json:
        output.write_json(answer)
    if not answer.changed:
        raise Problem(
            f"no drain of exactly {text} is in force{f' in {name}' if name else ''}",
            "other drains hold some of these agents; see them: meshctl drain --list"
            if answer.other_drain_ids
            else "see those that are: meshctl drain --list",
            ExitCode.NOT_FOUND,
        )
    if invocation.json:
        return
    output.note(f"Lifted the drain of {text} in {answer.drain.namespace}.")
    if answer.other_drain_ids:
        output.note("Other drains still hold some of these agents. See them: meshctl drain --list")


def _must_select(selector: pb.AgentSelector, example: str) -> None:
    if not selector.ByteSize():
        raise usage("no agents are named", f"{example}, or --label or --agent-type; '*' means all")


def _started(answer: pb.DrainAgentsResponse) -> str:
    text = f"{draining.selector_text(answer.drain.selector)} in {answer.drain.namespace}"
    begun = f"Drained {text}" if answer.changed else f"The drain of {text} was in force before"
    if not answer.agents.agent_count:
        return f"{begun}; no agent matches yet."
    return f"{begun}: {draining.held_text(answer.agents)}."


def _list(invocation: options.Invocation, namespace: str | None) -> None:
    found = _drains(invocation.mesh, namespace or "")
    if invocation.json:
        output.write_json({"drains": [output.as_dict(each) for each in found]})
    elif found:
        output.write_table(_HEADERS, [_row(each) for each in found])
    else:
        output.note("No drain is in force.")


def _drains(mesh: Mesh, namespace: str) -> list[pb.ListedDrain]:
    def request(page_token: str) -> pb.ListDrainsRequest:
        return pb.ListDrainsRequest(namespace=namespace, page_size=PAGE_SIZE, page_token=page_token)

    return [each for page in mesh.pages(mesh.registry.ListDrains, request) for each in page.drains]


def _row(listed: pb.ListedDrain) -> tuple[str, ...]:
    rule = listed.drain
    return (
        rule.namespace,
        draining.selector_text(rule.selector),
        str(listed.agent_count),
        str(listed.held_attempts),
        output.age_of(rule.create_time),
        rule.creator,
        rule.reason,
    )
