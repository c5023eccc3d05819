"""The commands that read: tables for people, JSON with the contract's field names, and which namespace they mean."""

from __future__ import annotations

import pytest

from agentmesh.v1 import (
    agent_pb2,
    auth_service_pb2,
    registry_service_pb2,
    scheduler_service_pb2,
    task_pb2,
)
from tests.contract.meshctl.conftest import Meshctl
from tests.contract.meshctl.fake_meshd import FakeMeshd


@pytest.fixture
def fleet(meshd: FakeMeshd) -> FakeMeshd:
    """Two agents in two namespaces, and a task."""
    meshd.namespaces += ["production", "staging"]
    agent = meshd.add_agent("production", "worker-1", capabilities=["task-execution"], slots=4)
    agent.health, agent.health_cause, agent.held_attempts = agent_pb2.HEALTH_HEALTHY, "first \x1b]beat", 1
    meshd.add_agent("staging", "watcher", type=agent_pb2.AGENT_TYPE_MONITOR)
    meshd.tasks["production", "task-001"] = task_pb2.Task(
        namespace="production",
        spec=task_pb2.TaskSpec(task_id="task-001", task_type="data-processing"),
        state=task_pb2.TASK_STATE_QUEUED,
    )
    return meshd


def test_status_shows_bounds_namespaces_and_agents(fleet: FakeMeshd, meshctl: Meshctl) -> None:
    outcome = meshctl("status", "--namespace", "production", "--health", "healthy")
    assert outcome.code == 0
    lines = outcome.out.splitlines()
    assert lines[0] == f"meshd 9.9.9 at {fleet.address}, up 0s"
    assert "killed within 1s" in lines[1]
    assert lines[4].split("  ")[0] == "production"
    assert "2 healthy" in lines[4]
    assert "7 queued" in lines[4]
    assert lines[6].split() == [
        "NAMESPACE",
        "AGENT",
        "TYPE",
        "HEALTH",
        "SINCE",
        "HELD/SLOTS",
        "CAPABILITIES",
        "CAUSE",
    ]
    assert lines[7].split()[:6] == ["production", "worker-1", "worker", "healthy", "0s", "1/4"]
    assert "\x1b" not in outcome.out
    assert len(lines) == 8
    assert list(fleet.sent(registry_service_pb2.ListAgentsRequest).health) == [agent_pb2.HEALTH_HEALTHY]


@pytest.mark.parametrize("command", [("status",), ("top", "--once", "--interval", "1ms")])
def test_idle_namespaces_are_counted_and_not_listed(
    fleet: FakeMeshd, meshctl: Meshctl, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    def with_idle(answer: registry_service_pb2.GetMeshStatusResponse) -> None:
        for number in range(2):
            idle = answer.namespaces.add(namespace=f"idle-{number}")
            idle.tasks.add(state=task_pb2.TASK_STATE_QUEUED, count=0)

    monkeypatch.setattr(fleet, "change_status", with_idle)
    outcome = meshctl(*command)
    assert "production" in outcome.out
    assert "idle-" not in outcome.out
    assert "2 more have neither agents nor open tasks: meshctl namespace list" in outcome.err


def test_why_a_poisoned_task_ended_leads_on(fleet: FakeMeshd, meshctl: Meshctl) -> None:
    task = fleet.tasks["production", "task-001"]
    task.state, task.outcome_reason = task_pb2.TASK_STATE_FAILED, task_pb2.OUTCOME_REASON_POISON
    assert "meshctl task get task-001 -n production" in meshctl("task", "why", "task-001").err


def test_status_as_json(fleet: FakeMeshd, meshctl: Meshctl) -> None:
    document = meshctl("status", "-o", "json").json
    assert document["status"]["bounds"]["killed"] == "1s"
    assert [agent["spec"]["agent_id"] for agent in document["agents"]] == ["worker-1", "watcher"]
    assert document["agents"][1]["held_attempts"] == 0


@pytest.mark.parametrize("command", [("discover",), ("agent", "list")])
def test_discover_filters_by_type_and_capability(
    fleet: FakeMeshd, meshctl: Meshctl, command: tuple[str, ...]
) -> None:
    outcome = meshctl(
        *command, "--namespace", "production", "--agent-type", "worker", "--capability", "task-execution"
    )
    assert outcome.code == 0
    assert outcome.out.splitlines()[1].split()[:2] == ["production", "worker-1"]
    assert [agent["namespace"] for agent in meshctl(*command, "-o", "json").json["agents"]] == [
        "production",
        "staging",
    ]
    nothing = meshctl(*command, "--capability", "flying")
    assert (nothing.code, nothing.out) == (0, "")
    assert "No agents match" in nothing.err


def test_discover_sends_every_condition(fleet: FakeMeshd, meshctl: Meshctl) -> None:
    outcome = meshctl(
        *("discover", "--any-capability", "gpu,tpu", "--label", "zone=a,b", "--label", "!old"),
        *("--min-free", "2", "--prefix", "Work"),
    )
    assert outcome.code == 0
    sent = fleet.sent(registry_service_pb2.ListAgentsRequest)
    assert list(sent.any_capabilities) == ["gpu", "tpu"]
    assert [(item.label, list(item.values)) for item in sent.labels] == [("zone", ["a", "b"]), ("old", [])]
    assert (sent.min_free_slots, sent.text_prefix) == (2, "Work")
    wrong = meshctl("discover", "--label", "memory>much")
    assert (wrong.code, len(wrong.err.splitlines())) == (2, 2)
    assert "'much', which is not a number" in wrong.err


def test_workload(fleet: FakeMeshd, meshctl: Meshctl) -> None:
    outcome = meshctl("workload", "--agent-id", "worker-1")
    assert outcome.code == 0
    assert outcome.out.splitlines()[1].split() == [
        "production",
        "worker-1",
        "healthy",
        "1",
        "3/4",
        "12",
        "0",
        "0",
    ]
    assert "task-001" in outcome.out
    assert meshctl("workload", "-o", "json").json["workloads"][0]["agent_id"] == "worker-1"
    missing = meshctl("workload", "--agent-id", "nobody")
    assert (missing.code, missing.err.splitlines()[0]) == (3, "error: no agent nobody in any namespace")


def test_task_list_get_why_cancel(fleet: FakeMeshd, meshctl: Meshctl) -> None:
    listed = meshctl("task", "list", "--state", "queued", "--limit", "5")
    assert listed.out.splitlines()[1].split()[:4] == ["production", "task-001", "data-processing", "queued"]
    assert fleet.sent(scheduler_service_pb2.ListTasksRequest).page_size == 5
    assert meshctl("task", "list", "-o", "json").json["tasks"][0]["namespace"] == "production"
    shown = meshctl("task", "get", "task-001")
    assert shown.out.splitlines()[:2] == ["Task:      task-001", "Namespace: production"]
    assert meshctl("task", "get", "task-001", "--result").code == 3
    why = meshctl("task", "why", "task-001")
    assert why.out.splitlines()[0] == "No agent that fits is running."
    assert "no agent in production has the capability data-processing" in why.err
    assert "2 tasks go before it." in meshctl("task", "why", "task-001").out
    fleet.before = 1
    assert "1 task goes before it." in meshctl("task", "why", "task-001").out
    fleet.before = 2
    assert meshctl("task", "why", "task-001", "-o", "json").json["queue_position"] == "2"
    cancelled = meshctl("task", "cancel", "task-001", "--grace", "5s")
    assert cancelled.out == "task-001 in production is cancelled\n"
    assert fleet.sent(scheduler_service_pb2.CancelTaskRequest).grace.seconds == 5


def test_task_watch_follows_to_the_result(fleet: FakeMeshd, meshctl: Meshctl) -> None:
    fleet.tasks["production", "task-001"].spec.payload.inline = b"out"
    outcome = meshctl("task", "watch", "task-001")
    assert (outcome.code, outcome.out) == (0, "out")
    assert "is running on worker-1" in outcome.err
    assert meshctl("task", "get", "task-001", "--result").out == "out"


def test_agent_get_finds_the_namespace(fleet: FakeMeshd, meshctl: Meshctl) -> None:
    shown = meshctl("agent", "get", "worker-1")
    assert "Namespace:    production" in shown.out
    assert meshctl("agent", "get", "worker-1", "-o", "json").json["spec"]["slots"] == 4
    fleet.add_agent("staging", "worker-1")
    assert (
        "several namespaces have agent worker-1: production, staging"
        in meshctl("agent", "get", "worker-1").err
    )


def test_namespaces(meshd: FakeMeshd, meshctl: Meshctl) -> None:
    assert (
        meshctl("namespace", "create", "staging", "--description", "x").out == "Created namespace staging.\n"
    )
    assert meshctl("namespace", "create", "staging").out == "Namespace staging existed before.\n"
    assert meshctl("namespace", "get", "staging").out.splitlines()[0] == "Namespace: staging"
    names = [item["name"] for item in meshctl("namespace", "list", "-o", "json").json["namespaces"]]
    assert names == ["_mesh", "default", "staging"]
    assert meshctl("namespace", "get", "nowhere").code == 3


def test_auth_prints_the_token_alone(meshd: FakeMeshd, meshctl: Meshctl) -> None:
    outcome = meshctl(
        *("auth", "--agent-id", "worker-1", "--agent-type", "worker", "--namespace", "production"),
        *("--capabilities", "task-execution", "--scope", "read:tasks", "--ttl", "30m"),
    )
    assert (outcome.code, outcome.out) == (0, "signed.token.value\n")
    assert "meshctl token revoke --family fam-1" in outcome.err
    request = meshd.sent(auth_service_pb2.IssueTokenRequest)
    assert (request.agent_id, request.namespace, request.lifetime.seconds) == ("worker-1", "production", 1800)
    assert (list(request.scope), list(request.capabilities)) == (["read:tasks"], ["task-execution"])
    assert "It may do: read on tasks" in outcome.err


def test_a_token_for_a_person(meshd: FakeMeshd, meshctl: Meshctl) -> None:
    outcome = meshctl("auth", "--operator", "--subject", "alice", "--ttl", "8h", "--scope", "read:*")
    assert (outcome.code, outcome.out) == (0, "signed.token.value\n")
    assert outcome.err.startswith("Token of operator alice, good until")
    assert "meshctl token revoke --subject alice" in outcome.err
    request = meshd.sent(auth_service_pb2.IssueTokenRequest)
    assert (request.namespace, request.agent_id, request.type) == ("_mesh", "alice", 0)
    assert (request.lifetime.seconds, list(request.scope)) == (8 * 3_600, ["read:*"])
    assert meshctl("token", "revoke", "--subject", "alice").out.startswith("Revoked operator alice;")
    revoked = meshd.sent(auth_service_pb2.RevokeTokenRequest)
    assert (revoked.namespace, revoked.agent_id) == ("_mesh", "alice")
    for wrong in (
        ("--operator",),
        ("--operator", "--subject", "alice", "--agent-id", "a"),
        ("--operator", "--subject", "alice", "--agent-type", "worker"),
        ("--operator", "--subject", "alice", "--capabilities", "x"),
        ("--subject", "alice"),
        ("--agent-id", "a"),
        ("--agent-type", "worker"),
    ):
        outcome = meshctl("auth", *wrong)
        assert (outcome.code, outcome.out) == (2, ""), wrong


def test_tokens(meshd: FakeMeshd, meshctl: Meshctl) -> None:
    meshd.tokens["good"] = auth_service_pb2.IntrospectTokenResponse(
        active=True, subject="agent:production/worker-1"
    )
    meshd.tokens["good"].type = agent_pb2.AGENT_TYPE_WORKER
    shown = [line.split(None, 1) for line in meshctl("token", "introspect", "good").out.splitlines()]
    assert shown[0] == ["Active:", "yes"]
    assert ["May:", "execute, read on results, tasks"] in shown
    assert "no: TOKEN_INVALID" in meshctl("token", "introspect", "-", stdin=b"bad\n").out
    assert meshctl("token", "introspect").code == 2
    join = meshctl("token", "join-token", "--agent-id", "a", "--agent-type", "critic", "--max-uses", "3")
    assert join.out == "join-me\n"
    request = meshd.sent(auth_service_pb2.CreateJoinTokenRequest)
    assert (request.namespace, request.max_uses, request.type) == ("default", 3, agent_pb2.AGENT_TYPE_CRITIC)
    assert "01" * 32 in meshctl("token", "keys").out
    assert meshctl("token", "revoke", "--family", "fam-1").out.startswith("Revoked family fam-1")
    assert meshctl("token", "revoke", "good").code == 0
    assert meshd.sent(auth_service_pb2.RevokeTokenRequest).token == "good"
    assert meshctl("token", "revoke", "good", "--family", "x").code == 2


def test_a_list_says_when_there_is_more(fleet: FakeMeshd, meshctl: Meshctl) -> None:
    for number in range(2, 6):
        task_id = f"task-00{number}"
        fleet.tasks["production", task_id] = task_pb2.Task(spec=task_pb2.TaskSpec(task_id=task_id))
    for limit, more in ((1, True), (3, True), (4, True), (5, False), (6, False)):
        listed = meshctl("task", "list", "--limit", str(limit))
        assert len(listed.out.splitlines()) == 1 + min(limit, 5)
        assert listed.err == (f"{limit} shown, there are more: --limit {10 * limit}\n" if more else "")
        document = meshctl("task", "list", "--limit", str(limit), "-o", "json")
        assert (len(document.json["tasks"]), document.json["more"]) == (min(limit, 5), more)
        assert document.err == listed.err


def test_an_empty_standard_input_is_no_token(meshd: FakeMeshd, meshctl: Meshctl) -> None:
    meshd.tokens["own"] = auth_service_pb2.IntrospectTokenResponse(active=True, subject="operator:alice")
    for command in ("introspect", "revoke"):
        outcome = meshctl("token", command, "-", "--token", "own", stdin=b" \n")
        assert (outcome.code, outcome.out) == (2, "")
        assert outcome.err.startswith("error: standard input holds no token\n")
    assert not meshd.requests


def test_a_revocation_says_that_nobody_knows_the_name(fleet: FakeMeshd, meshctl: Meshctl) -> None:
    operator = meshctl("token", "revoke", "--subject", "nope")
    assert (operator.code, operator.out[:21]) == (0, "Revoked operator nope")
    assert "meshctl audit list --subject operator:nope" in operator.err
    assert "Agents and operators whom this one let in are refused as well" in operator.err
    for command in (("token", "revoke", "--agent-id"), ("agent", "revoke")):
        # Tokens may have been issued to an id that never registered: they are taken away.
        unknown = meshctl(*command, "nope", "-n", "production")
        assert (unknown.code, unknown.out[:18]) == (3, "Revoked agent nope")
        assert "no agent nope has registered or was declared in production" in unknown.err
        assert meshctl(*command, "worker-1", "-n", "production").err == ""


def test_agent_revoke(fleet: FakeMeshd, meshctl: Meshctl) -> None:
    outcome = meshctl("agent", "revoke", "worker-1", "--reason", "stolen laptop")
    assert outcome.out.startswith("Revoked agent worker-1")
    request = fleet.sent(auth_service_pb2.RevokeTokenRequest)
    assert (request.namespace, request.agent_id, request.reason) == (
        "production",
        "worker-1",
        "stolen laptop",
    )
    assert meshctl("agent", "revoke", "nobody").code == 3


def test_audit_list(meshd: FakeMeshd, meshctl: Meshctl) -> None:
    outcome = meshctl("audit", "list", "--denied", "--method", "SubmitTask")
    assert "operator:local" in outcome.out
    assert "no: ACCESS_DENIED" in outcome.out
    assert meshd.sent(auth_service_pb2.ListAuditEventsRequest).denied_only
    document = meshctl("audit", "list", "-o", "json").json
    assert (document["events"][0]["method"], document["more"]) == ("SubmitTask", False)


def test_audit_records_of_a_time(meshd: FakeMeshd, meshctl: Meshctl) -> None:
    meshd.audit_ages_s = [0, 7_200, 18_000]
    for window, count in (
        (("--since", "3h"), 2),
        (("--until", "1h"), 2),
        (("--since", "3h", "--until", "1h"), 1),
    ):
        assert len(meshctl("audit", "list", *window).out.splitlines()) == 1 + count
    assert meshctl("audit", "list", "--until", "1h", "--limit", "1").err.startswith("1 shown, there are more")


def test_a_method_that_does_not_exist_is_told(meshd: FakeMeshd, meshctl: Meshctl) -> None:
    meshd.audit_ages_s = []
    assert "did you mean RevokeToken" in meshctl("audit", "list", "--method", "RevokeAgent").err
    assert meshctl("audit", "list", "--method", "RevokeToken").err == "No audit records match.\n"


def test_version(meshd: FakeMeshd, meshctl: Meshctl) -> None:
    assert meshctl("version").out.splitlines()[1] == f"meshd 9.9.9 at {meshd.address}"
    assert meshctl("version", "-o", "json").json["meshd"] == "9.9.9"
