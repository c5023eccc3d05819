"""`meshctl doctor` as a whole: its report, its exit code, and what it says when the mesh cannot be reached or asked."""

from __future__ import annotations

import importlib.metadata
import socket
from pathlib import Path
from typing import Any

import grpc
import pytest

from agentmesh.v1 import agent_pb2, auth_service_pb2, registry_service_pb2
from tests.contract.meshctl.conftest import Meshctl, Outcome
from tests.contract.meshctl.fake_meshd import FakeMeshd, now

NAMES = ["profiles", "address", "socket", "connection", "tls", "token", "mesh", "versions"]
NAMES += ["clock", "storage", "keepalive", "queues", "agents"]


@pytest.fixture
def healthy(meshd: FakeMeshd) -> FakeMeshd:
    """A meshd with nothing wrong, of this version."""

    def change(answer: registry_service_pb2.GetMeshStatusResponse) -> None:
        answer.version = importlib.metadata.version("agentmesh-controlplane")

    meshd.change_status = change
    return meshd


def states(outcome: Outcome) -> dict[str, str]:
    return {check["name"]: check["state"] for check in outcome.json["checks"]}


def test_a_revoked_agent_is_nothing_wrong(healthy: FakeMeshd, meshctl: Meshctl) -> None:
    agent = healthy.add_agent("production", "worker-1")
    agent.health, agent.health_cause = agent_pb2.HEALTH_LOST, "its identity was revoked"
    change = healthy.change_status

    def with_lost(answer: registry_service_pb2.GetMeshStatusResponse) -> None:
        change(answer)
        answer.namespaces[0].agents.add(health=agent_pb2.HEALTH_LOST, count=1)

    healthy.change_status = with_lost
    assert meshctl("doctor").code == 0
    agent.health_cause = "its connection ended and it did not return"
    agent.health_time.CopyFrom(now())
    assert meshctl("doctor").code == 1


def test_nothing_is_wrong(healthy: FakeMeshd, meshctl: Meshctl) -> None:
    outcome = meshctl("doctor")
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.splitlines()[-1] == "0 findings"
    assert f"{healthy.address}, by: a socket that exists on this host" in outcome.out
    document = meshctl("doctor", "-o", "json")
    assert (document.code, document.json["findings"]) == (0, 0)
    assert list(states(document)) == NAMES
    assert set(states(document).values()) == {"ok", "skipped"}
    assert states(document)["tls"] == "skipped"


def test_each_finding_has_its_next_step(meshd: FakeMeshd, meshctl: Meshctl) -> None:
    def change(answer: registry_service_pb2.GetMeshStatusResponse) -> None:
        answer.server_time.seconds -= 3_600
        answer.storage.min_free_bytes = answer.storage.free_bytes
        entry = answer.namespaces[0]
        entry.unplaceable_count, entry.unplaceable_task_id = 7, "task-\x1b9"
        entry.agents.add(health=agent_pb2.HEALTH_LOST, count=1)

    meshd.change_status = change
    outcome = meshctl("doctor")
    assert outcome.code == 1
    assert outcome.out.splitlines()[-1] == "5 findings"
    assert outcome.out.count("next: ") == 5
    assert "\x1b" not in outcome.out
    document = meshctl("doctor", "-o", "json")
    assert (document.code, document.json["findings"]) == (1, 5)
    wrong = [name for name, state in states(document).items() if state == "wrong"]
    assert wrong == ["versions", "clock", "storage", "queues", "agents"]
    assert all(check["next_step"] for check in document.json["checks"] if check["state"] == "wrong")


def test_without_a_meshd_it_tells_what_is_here(meshctl: Meshctl, tmp_path: Path) -> None:
    (tmp_path / "agentmesh").mkdir()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "agentmesh" / "meshd.sock"))
    outcome = meshctl("doctor", "-o", "json")
    assert (outcome.code, outcome.err) == (1, "")
    assert list(states(outcome)) == NAMES
    found = [name for name, state in states(outcome).items() if state != "skipped"]
    assert found == ["profiles", "address", "socket", "connection"]
    assert states(outcome)["connection"] == "wrong"
    nowhere = meshctl("doctor", "-o", "json", "--address", "127.0.0.1:1")
    assert (nowhere.code, nowhere.json["findings"]) == (1, 1)


def test_one_cause_is_one_finding(meshctl: Meshctl, tmp_path: Path) -> None:
    outcome = meshctl("doctor", "-o", "json", "--address", f"unix:{tmp_path}/none.sock")
    assert (outcome.json["findings"], states(outcome)["socket"]) == (1, "wrong")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--address", "nonsense"), "is not an address"),
        (("--address", "mesh.example:7600"), "no CA is given"),
        (("--profile", "nowhere"), "there is no profile 'nowhere'"),
    ],
)
def test_an_address_that_cannot_be(meshctl: Meshctl, arguments: tuple[str, ...], words: str) -> None:
    outcome = meshctl("doctor", *arguments)
    assert (outcome.code, outcome.err) == (1, "")
    assert words in outcome.out
    assert outcome.out.splitlines()[-1] == "1 finding"


def test_a_broken_file_of_profiles_is_a_finding_of_its_own(
    healthy: FakeMeshd, meshctl: Meshctl, tmp_path: Path
) -> None:
    file = tmp_path / "config" / "agentmesh" / "profiles.toml"
    file.parent.mkdir(parents=True)
    file.write_text("nonsense")
    file.chmod(0o600)
    outcome = meshctl("doctor", "-o", "json", "--address", healthy.address)
    assert (outcome.code, outcome.json["findings"], states(outcome)["agents"]) == (1, 1, "ok")
    file.chmod(0o644)
    assert f"chmod 600 {file}" in meshctl("doctor").out


def test_tokens(healthy: FakeMeshd, meshctl: Meshctl) -> None:
    good = auth_service_pb2.IntrospectTokenResponse(active=True, subject="operator:alice", expire_time=now())
    good.expire_time.seconds += 7_300
    healthy.tokens["s3cret"] = good
    outcome = meshctl("doctor", "--token", "s3cret")
    assert (outcome.code, "operator:alice, from --token, good for 2h" in outcome.out) == (0, True)
    good.expire_time.seconds -= 7_000
    ending = meshctl("doctor", "-o", "json", "--token", "s3cret")
    assert (ending.json["findings"], states(ending)["token"], states(ending)["agents"]) == (1, "wrong", "ok")
    refused = meshctl("doctor", "-o", "json", "--token", "stolen")
    assert (refused.json["findings"], states(refused)["token"], states(refused)["mesh"]) == (
        1,
        "wrong",
        "skipped",
    )
    assert "s3cret" not in outcome.out + ending.out
    assert "stolen" not in refused.out


@pytest.mark.parametrize(
    ("status", "reason", "state", "code"),
    [
        (grpc.StatusCode.PERMISSION_DENIED, "ACCESS_DENIED", "skipped", 0),
        (grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN", "wrong", 1),
        (grpc.StatusCode.INTERNAL, "INTERNAL", "wrong", 1),
    ],
)
def test_a_mesh_that_does_not_tell(
    healthy: FakeMeshd, meshctl: Meshctl, status: grpc.StatusCode, reason: str, state: str, code: int
) -> None:
    refusal: Any = (status, reason, "meshd's words")
    healthy.refusals["GetMeshStatus"] = refusal
    outcome = meshctl("doctor", "-o", "json")
    assert (outcome.code, states(outcome)["mesh"], states(outcome)["agents"]) == (code, state, "skipped")
