"""Wrong things about who calls: tokens, namespaces, the socket, clocks, names."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from google.protobuf.duration_pb2 import Duration

from agentmesh.v1 import agent_pb2, auth_service_pb2, namespace_service_pb2
from meshd.domain.values import AgentType
from meshd.ports.tokens import TokenClaims
from meshd.security.keys import load_signing_key
from meshd.security.tokens import JwtTokens
from tests.e2e.wrong_things import page
from tests.e2e.wrong_things.house import House, Seen
from tests.faults.meshd_process import ChildProcess

HOUR_S = 3_600
# The privilege to pass every file mode is what makes root root; anybody else has none to give up.
WITHOUT_PRIVILEGE = () if os.geteuid() else ("setpriv", "--bounding-set=-all")


def token_of(house: House, agent_id: str, namespace: str = "default", lifetime_s: int = 600) -> str:
    request = auth_service_pb2.IssueTokenRequest(
        namespace=namespace,
        agent_id=agent_id,
        type=agent_pb2.AGENT_TYPE_ORCHESTRATOR,
        lifetime=Duration(seconds=lifetime_s),
    )
    return house.stubs.auth.IssueToken(request, timeout=10).token.value


def by_token(house: House, token: str, *arguments: str) -> Seen:
    """Run meshctl on the TCP port, as on another host."""
    return house.meshctl(
        *arguments, AGENTMESH_ADDRESS=house.meshd.tcp_address, AGENTMESH_TOKEN=token
    ).must_be_clear()


def test_no_token(house: House) -> None:
    page.check("No token", str(by_token(house, "", "status")))


def test_what_is_no_token(house: House) -> None:
    page.check("Something that is no token", str(by_token(house, "hunter2", "status")))


def test_an_expired_token(house: House) -> None:
    token = token_of(house, "brief", lifetime_s=1)
    asked = auth_service_pb2.IntrospectTokenRequest(token=token)
    while house.stubs.auth.IntrospectToken(asked, timeout=10).active:
        time.sleep(0.05)  # its second passes
    page.check("An expired token", str(by_token(house, token, "status")))


def test_a_token_of_another_mesh(house: House, tmp_path: Path) -> None:
    now_ms = time.time_ns() // 1_000_000
    claims = TokenClaims(
        subject="agent:default/lead",
        namespace="default",
        agent_type=AgentType.ORCHESTRATOR,
        capabilities=(),
        scope=(),
        token_id="1",
        family="lead.0",
        generation=0,
        issue_ms=now_ms,
        expire_ms=now_ms + 600_000,
    )
    (tmp_path / "keys").mkdir(mode=0o700)
    foreign = JwtTokens(load_signing_key(tmp_path / "keys"), "agentmesh").sign(claims)
    page.check("A token of another mesh", str(by_token(house, foreign, "status")))


def test_ids_of_another_namespace(house: House) -> None:
    created = namespace_service_pb2.CreateNamespaceRequest(name="blue")
    house.stubs.namespaces.CreateNamespace(created, timeout=10)
    token = token_of(house, "lead", namespace="blue")
    named = by_token(house, token, "task", "get", "kept", "--namespace", "default")
    hidden = by_token(house, token, "task", "cancel", "kept")
    page.check("Ids of another namespace", f"{named}\n\n{hidden}")


def test_no_permission_on_the_socket(own_house: Callable[..., House]) -> None:
    house = own_house()
    path = house.meshd.socket_path
    path.chmod(0)
    socket = house.meshctl("status", before=WITHOUT_PRIVILEGE).must_be_clear()
    path.chmod(0o600)
    path.parent.chmod(0)
    folder = house.meshctl("status", before=WITHOUT_PRIVILEGE).must_be_clear()
    path.parent.chmod(0o700)
    assert folder.err == socket.err
    page.check("No permission on the socket", str(socket))
    house.must_have_lost_nothing()


@pytest.mark.parametrize("hours", [1, -1])
def test_a_clock_an_hour_wrong(own_house: Callable[..., House], tmp_path: Path, hours: int) -> None:
    """Seen from the other side: it is meshd whose clock differs, which is the same to both."""
    house = own_house(module="tests.e2e.wrong_things.shifted_meshd", SHIFT_S=str(hours * HOUR_S))
    seen = house.meshctl("auth", "--agent-id", "lead", "--agent-type", "orchestrator")
    assert seen.code == 0
    token = seen.out.strip()
    text = re.sub(r"until .*;", "until 2026-03-01 13:00:00+00:00;", str(seen).replace(token, "eyJhbGciOi…"))
    text = re.sub(r"--family \S+", "--family lead.0", text)
    page.check(f"A client's clock an hour {'behind' if hours > 0 else 'ahead'}", text)
    listed = house.meshctl("task", "list", AGENTMESH_ADDRESS=house.meshd.tcp_address, AGENTMESH_TOKEN=token)
    assert listed.code == 0
    invitation = house.meshctl(
        "token", "join-token", "--agent-id", "w1", "--agent-type", "worker", "--capabilities", "*"
    ).out.strip()
    worker = ChildProcess.python(
        "worker",
        "tests.e2e.worker_process",
        tmp_path,
        AGENTMESH_ADDRESS=house.meshd.tcp_address,
        AGENTMESH_AGENT_ID="w1",
        AGENTMESH_NAMESPACE="default",
        AGENTMESH_JOIN_TOKEN=invitation,
        AGENTMESH_STATE_DIR=str(tmp_path / "state"),
    )
    with worker:
        done = house.meshctl(
            "execute", "--task-type", "data-processing", "--payload", "1", "--timeout", "20s"
        )
    assert done.code == 0, done
    assert json.loads(done.out) == {"got": 1}
    house.must_have_lost_nothing()


def test_a_name_that_does_not_resolve(house: House) -> None:
    seen = house.meshctl("status", "--address", "mesh.invalid:7600", "--insecure").must_be_clear()
    page.check("A name that does not resolve", str(seen))
