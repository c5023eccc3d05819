"""`meshctl deploy`: what it declares, and an environment that a shell can take as it is."""

from __future__ import annotations

import subprocess
import sys

import pytest

from agentmesh.v1 import agent_pb2, auth_service_pb2, registry_service_pb2
from tests.contract.meshctl.conftest import Meshctl
from tests.contract.meshctl.fake_meshd import FakeMeshd

DEPLOY = (
    *("deploy", "--agent-id", "worker-1", "--agent-type", "worker", "--namespace", "production"),
    *("--capabilities", "task-execution,data-processing", "--port", "3000"),
)


def test_declares_the_agent_in_a_namespace_that_it_creates(meshd: FakeMeshd, meshctl: Meshctl) -> None:
    outcome = meshctl(*DEPLOY, "--agent-name", "Task Worker", "--label", "zone=eu")
    assert outcome.code == 0
    assert "Created namespace production." in outcome.err
    spec = meshd.sent(registry_service_pb2.DeclareAgentRequest).spec
    assert (spec.agent_id, spec.name, spec.type) == ("worker-1", "Task Worker", agent_pb2.AGENT_TYPE_WORKER)
    assert list(spec.capabilities) == ["task-execution", "data-processing"]
    assert (spec.endpoint.host, spec.endpoint.port, spec.slots) == ("localhost", 3000, 1)
    assert spec.labels == {"zone": "eu"}
    again = meshctl(*DEPLOY, "--agent-name", "Task Worker", "--label", "zone=eu")
    assert again.code == 0
    assert "Created namespace" not in again.err
    assert "Already declared: worker worker-1 in production" in again.err


def test_an_agent_that_is_not_running_is_changed_and_that_is_said(meshd: FakeMeshd, meshctl: Meshctl) -> None:
    meshctl(*DEPLOY)
    other = meshctl(*DEPLOY, "--label", "zone=us", "-o", "json")
    assert "Changed worker worker-1 in production" in other.err
    assert (other.json["agent_created"], other.json["agent_changed"]) == (False, True)
    same = meshctl(*DEPLOY, "--label", "zone=us", "-o", "json")
    assert (same.json["agent_created"], same.json["agent_changed"]) == (False, False)


def test_a_running_agent_stays_as_it_is_and_that_is_an_error(meshd: FakeMeshd, meshctl: Meshctl) -> None:
    meshctl(*DEPLOY, "--slots", "4")
    meshd.agents["production", "worker-1"].session_id = "s1"
    asked = ("deploy", "--agent-id", "worker-1", "-n", "production", "--agent-type")
    meshd.requests.clear()
    outcome = meshctl(
        *asked, "monitor", "--capabilities", "new", "--label", "a=b", "--slots", "2", "--port", "1"
    )
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.splitlines() == [
        (
            "error: worker-1 runs in production with type worker, capabilities data-processing,task-execution, "
            "no labels, endpoint localhost:3000, slots 4; that stays until it stops"
        ),
        "next:  stop it, then deploy again",
    ]
    assert not [each for each in meshd.requests if isinstance(each, auth_service_pb2.CreateJoinTokenRequest)]
    # What is left open is as the process says.
    assert meshctl(*asked, "worker").code == 0
    assert meshctl(*DEPLOY).code == 0


def test_the_command_to_type_keeps_the_slots(meshd: FakeMeshd, meshctl: Meshctl) -> None:
    local = meshctl(*DEPLOY).err
    assert ("--slots" in local, "It is let in by" in local) == (False, False)
    with_slots = meshctl(*DEPLOY, "--slots", "4")
    assert "--slots 4 -- COMMAND" in with_slots.err
    assert "export AGENTMESH_SLOTS=4" in with_slots.out.splitlines()
    monitor = ("deploy", "--agent-id", "m", "--agent-type", "monitor", "-n", "production")
    assert "--slots" not in meshctl(*monitor).err
    assert "--slots 1 -- COMMAND" in meshctl(*monitor, "--slots", "1").err


def test_standard_output_is_what_a_shell_takes(meshd: FakeMeshd, meshctl: Meshctl) -> None:
    outcome = meshctl(*DEPLOY, "--agent-name", "it's $HOME")
    assert f"{meshd.address} is reached from this host alone" in outcome.err
    script = outcome.out + "\nenv | grep ^AGENTMESH_ | sort"
    environment = subprocess.run(
        ["sh", "-euc", script], capture_output=True, text=True, check=True, env={}
    ).stdout
    assert environment.splitlines() == [
        f"AGENTMESH_ADDRESS={meshd.address}",
        "AGENTMESH_AGENT_ID=worker-1",
        "AGENTMESH_AGENT_TYPE=worker",
        "AGENTMESH_CAPABILITIES=data-processing,task-execution",
        "AGENTMESH_JOIN_TOKEN=join-me",
        "AGENTMESH_NAMESPACE=production",
    ]


def test_json_holds_the_environment_and_what_was_created(meshd: FakeMeshd, meshctl: Meshctl) -> None:
    document = meshctl(*DEPLOY, "-o", "json").json
    assert document["namespace_created"] is True
    assert document["agent_created"] is True
    assert document["agent"]["spec"]["agent_id"] == "worker-1"
    assert document["environment"]["AGENTMESH_JOIN_TOKEN"] == "join-me"


def test_the_join_token_is_for_this_agent_only(meshd: FakeMeshd, meshctl: Meshctl) -> None:
    meshctl(*DEPLOY, "--join-ttl", "1h")
    request = meshd.sent(auth_service_pb2.CreateJoinTokenRequest)
    assert (request.namespace, request.agent_id, request.lifetime.seconds) == ("production", "worker-1", 3600)
    assert list(request.capabilities) == ["data-processing", "task-execution"]


def test_a_command_runs_with_the_environment_less_the_callers_token(
    meshd: FakeMeshd, meshctl: Meshctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    meshd.tokens["tok"] = auth_service_pb2.IntrospectTokenResponse(active=True, subject="operator:alice")
    monkeypatch.setenv("AGENTMESH_TOKEN", "tok")
    program = (
        "import os, sys; sys.exit(0 if os.environ['AGENTMESH_AGENT_ID'] == 'worker-1' and "
        "os.environ['AGENTMESH_JOIN_TOKEN'] == 'join-me' and 'AGENTMESH_TOKEN' not in os.environ else 9)"
    )
    outcome = meshctl(*DEPLOY, "--", sys.executable, "-c", program)
    assert outcome.code == 0
    assert "It is let in by operator:alice: if that is revoked, so is it." in outcome.err
    assert "ended with code 0" in outcome.err
    assert outcome.out == ""


def test_a_command_that_does_not_exist_is_a_clear_error(meshd: FakeMeshd, meshctl: Meshctl) -> None:
    outcome = meshctl(*DEPLOY, "--", "/no/such/program")
    assert outcome.code == 2
    assert "error: cannot run '/no/such/program': No such file or directory" in outcome.err
