"""What doctor makes of the mesh's answers: each finding, and the same answer a little better without it."""

from __future__ import annotations

import datetime
from typing import Any

import pytest

from agentmesh.v1 import agent_pb2, auth_service_pb2
from meshctl import mesh_checks
from meshctl.checks import Check

NOW_S = 1_700_000_000
NOW = datetime.datetime.fromtimestamp(NOW_S, datetime.UTC)
MIB = 1024 * 1024


def status(**changes: Any) -> mesh_checks.Status:
    """What a healthy mesh answers."""
    answer = mesh_checks.Status(version=changes.get("version", "1.4.0"))
    answer.server_time.FromMilliseconds(round((NOW_S + changes.get("ahead_s", 0)) * 1_000))
    answer.keepalive.FromMilliseconds(changes.get("keepalive_ms", 1_000))
    answer.bounds.unreachable.FromMilliseconds(2 * changes.get("keepalive_ms", 1_000) + 1_250)
    answer.hold_remaining.FromMilliseconds(changes.get("hold_ms", 0))
    answer.storage.engine = "SQLite 3.45.1"
    answer.storage.free_bytes, answer.storage.min_free_bytes = changes.get("free_mib", 256) * MIB, 64 * MIB
    entry = answer.namespaces.add(namespace="blue", unplaceable_count=changes.get("unplaceable", 0))
    entry.unplaceable_task_id = "task-9" if entry.unplaceable_count else ""
    for health, count in changes.get("agents", {agent_pb2.HEALTH_HEALTHY: 3}).items():
        entry.agents.add(health=health, count=count)
    return answer


def check(name: str, own_version: str = "1.4.2", **changes: Any) -> Check:
    """The check of that name."""
    ask_s = NOW_S - changes.pop("rtt_s", 0) / 2
    lost = changes.pop("lost", ())
    checks = list(mesh_checks.of_status(status(**changes), own_version, ask_s, 2 * NOW_S - ask_s, lost))
    assert tuple(each.name for each in checks) == mesh_checks.NAMES
    return next(each for each in checks if each.name == name)


def test_nothing_is_wrong_with_a_healthy_mesh() -> None:
    assert {check(name).state for name in mesh_checks.NAMES} == {"ok"}


@pytest.mark.parametrize(
    ("name", "wrong", "right", "next_step"),
    [
        ("clock", {"ahead_s": 5.1}, {"ahead_s": 4.9}, "timedatectl"),
        ("clock", {"ahead_s": -3_600}, {"ahead_s": -4.9}, "timedatectl"),
        ("clock", {"ahead_s": 9, "rtt_s": 7}, {"ahead_s": 9, "rtt_s": 9}, "NTP"),
        ("storage", {"free_mib": 255}, {"free_mib": 256}, "retention_days frees none"),
        ("keepalive", {"keepalive_ms": 2_000}, {"keepalive_ms": 1_800}, "lower keepalive_ms"),
        ("keepalive", {"agents": {1: 9, 2: 2_200}}, {"agents": {1: 9, 2: 2_100}}, "restart meshd"),
        (
            "keepalive",
            {"agents": {2: 10_000}, "keepalive_ms": 4_000},
            {"agents": {2: 10_000}, "keepalive_ms": 5_000},
            "restart meshd",
        ),
        ("queues", {"unplaceable": 7}, {"unplaceable": 0}, "meshctl task why task-9 --namespace blue"),
        ("agents", {"agents": {2: 1, 5: 1}}, {"agents": {1: 5, 2: 1}}, "meshctl status --health lost"),
        ("agents", {"agents": {4: 1}}, {"agents": {6: 1}}, "meshctl status --health deaf"),
        ("versions", {"version": "1.3.9"}, {"version": "1.5.0"}, "upgrade meshd"),
        ("versions", {"version": "1.6.0"}, {"version": "unknown"}, "upgrade meshctl"),
        ("versions", {"version": "2.0.0"}, {"version": "1.4.9"}, "upgrade meshctl"),
    ],
)
def test_findings(name: str, wrong: Any, right: Any, next_step: str) -> None:
    found = check(name, **wrong)
    assert found.state == "wrong"
    assert next_step in found.next_step
    assert check(name, **right).state == "ok"


def a_lost_agent(days: float, cause: str = "its connection ended and it did not return") -> agent_pb2.Agent:
    agent = agent_pb2.Agent(health=agent_pb2.HEALTH_LOST, health_cause=cause)
    agent.health_time.FromSeconds(int(NOW_S - days * 86_400))
    return agent


def test_agents_whom_nobody_misses_are_no_finding() -> None:
    gone = [a_lost_agent(0, mesh_checks.REVOKED), a_lost_agent(8)]
    missed = check("agents", agents={2: 1, 5: 3}, lost=[*gone, a_lost_agent(6)])
    assert (missed.state, missed.result) == (
        "wrong",
        "1 healthy, 1 lost, 2 revoked or lost for more than a week",
    )
    assert check("agents", agents={2: 1, 5: 2}, lost=gone).state == "ok"
    assert check("agents", agents={5: 2}, lost=gone).result == "2 revoked or lost for more than a week"


def test_which_clock_is_ahead() -> None:
    assert "this host is 2h behind meshd" in check("clock", ahead_s=7_300).result
    assert "this host is 2h ahead of meshd" in check("clock", ahead_s=-7_300).result


def test_after_a_restart_nobody_is_missed_yet() -> None:
    assert check("queues", unplaceable=7, hold_ms=1).state == "skipped"


def test_a_meshd_of_before_is_told_so() -> None:
    old = status()
    for field in ("server_time", "keepalive", "storage"):
        old.ClearField(field)
    checks = {each.name: each for each in mesh_checks.of_status(old, "1.4.2", NOW_S, NOW_S)}
    assert (checks["versions"].state, checks["versions"].next_step.split(":")[0]) == (
        "wrong",
        "upgrade meshd",
    )
    assert {checks[name].state for name in ("clock", "storage", "keepalive")} == {"skipped"}


def test_tokens() -> None:
    caller = auth_service_pb2.IntrospectTokenResponse(subject="operator:alice", scope=["read:*"])

    def of(left_s: int) -> Check:
        caller.expire_time.FromSeconds(NOW_S + left_s)
        return mesh_checks.of_token(caller, "profile prod", NOW)

    assert of(8 * 3_600) == (
        "token",
        "ok",
        "operator:alice, narrowed to read:*, from profile prod, good for 8h",
        "",
    )
    assert of(900).state == "ok"
    assert (of(899).state, "meshctl login" in of(899).next_step) == ("wrong", True)
    assert mesh_checks.of_token(None, "", NOW).state == "ok"
