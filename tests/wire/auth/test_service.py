"""AuthService through the whole daemon's inside: chain, engine and store, over both listeners and over restarts."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.duration_pb2 import Duration

from agentmesh.v1 import agent_pb2
from agentmesh.v1 import auth_service_pb2 as pb
from agentmesh.v1 import auth_service_pb2_grpc as pb_grpc
from meshd.domain.audit import verify
from meshd.domain.limits import SessionRules
from meshd.domain.records import AuditRecord
from meshd.engine.authority import Authority
from meshd.engine.credentials import Credentials
from meshd.engine.enrolment import Enrolment
from meshd.engine.mesh import Entry, Mesh
from meshd.ops.metrics import Metrics
from meshd.ports.store import StorageError
from meshd.security.keys import load_signing_key
from meshd.security.proofs import Ed25519Proofs
from meshd.security.tokens import JwtTokens
from meshd.store.sqlite import SqliteStore
from meshd.wire.access_rules import load_rules
from meshd.wire.admission import Admission
from meshd.wire.chain import Chain
from meshd.wire.held_calls import HeldCalls
from meshd.wire.services.auth import AuthService
from tests.auth_world import AgentKey, World
from tests.wire.auth.conftest import bearer, failure

pytestmark = pytest.mark.anyio
CODE = grpc.StatusCode
WORKER = agent_pb2.AGENT_TYPE_WORKER
ORCHESTRATOR = agent_pb2.AGENT_TYPE_ORCHESTRATOR
GOVERNOR = agent_pb2.AGENT_TYPE_GOVERNOR


class Daemon:
    """Serves AuthService on a data directory; may be started again on the same."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    async def start(self) -> None:
        self.store = SqliteStore(self.directory, 1)
        restored = self.store.load()
        self.mesh = Mesh(self.store, restored, SessionRules(), Metrics(), self.failed)
        tokens = JwtTokens(load_signing_key(self.directory / "keys"), "agentmesh")
        credentials = Credentials(restored, self.mesh.commits, 0, 30 * 24 * 3_600_000)
        self.authority = Authority(
            tokens=tokens,
            credentials=credentials,
            commits=self.mesh.commits,
            audit=self.mesh.audit,
            on_agent_revoked=lambda _namespace, _agent_id: None,
        )
        enrolment = Enrolment(
            tokens=tokens,
            proofs=Ed25519Proofs(),
            credentials=credentials,
            commits=self.mesh.commits,
            audit=self.mesh.audit,
            namespace_exists=self.mesh.namespaces.__contains__,
        )
        chain = Chain(
            methods=load_rules(["agentmesh.v1.AuthService"]),
            authority=self.authority,
            audit=self.mesh.audit,
            settled=self.mesh.commits.settled,
            observer=Metrics(),
            report_incident=self.incident,
            admission=Admission(Metrics()),
            held_calls=HeldCalls(1_000, lambda _peer, _places: None),
        )
        self.server = grpc.aio.server(interceptors=[chain])
        service = AuthService(self.mesh, self.authority, enrolment)
        pb_grpc.add_AuthServiceServicer_to_server(service, self.server)
        port = self.server.add_insecure_port("127.0.0.1:0")
        self.server.add_insecure_port(f"unix:{self.directory}/s.sock")
        await self.server.start()
        self.channels = (
            grpc.aio.insecure_channel(f"127.0.0.1:{port}"),
            grpc.aio.insecure_channel(f"unix:{self.directory}/s.sock"),
        )
        self.tcp, self.socket = (pb_grpc.AuthServiceStub(channel) for channel in self.channels)
        for name in ("blue", "red"):
            await self.mesh.create_namespace(name, "", Entry(World.call(self, method="CreateNamespace")))  # type: ignore[arg-type]

    async def stop(self) -> None:
        for channel in self.channels:
            await channel.close()
        await self.server.stop(0)
        await self.mesh.shutdown()
        self.store.close()

    async def restart(self) -> None:
        await self.stop()
        await self.start()

    def failed(self, error: StorageError) -> None:
        raise error

    def incident(self, incident_id: str, method: str, error: BaseException) -> None:
        raise AssertionError(method) from error


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[Daemon]:
    daemon = Daemon(tmp_path)
    await daemon.start()
    yield daemon
    await daemon.stop()


def joining(
    key: AgentKey, agent_id: str = "w-1", namespace: str = "blue", kind: Any = WORKER, join_token: str = ""
) -> Any:
    return pb.JoinRequest(
        namespace=namespace, agent_id=agent_id, type=kind, public_key=key.public, join_token=join_token
    )


async def renew(stub: Any, key: AgentKey, agent_id: str = "w-1") -> str:
    nonce = (await stub.RenewToken(pb.RenewTokenRequest(namespace="blue", agent_id=agent_id))).nonce
    proof = key.prove("blue", agent_id, nonce)
    request = pb.RenewTokenRequest(namespace="blue", agent_id=agent_id, nonce=nonce, signature=proof)
    token: str = (await stub.RenewToken(request)).token.value
    return token


async def token_of(daemon: Daemon, agent_id: str, kind: Any, **more: Any) -> str:
    request = pb.IssueTokenRequest(namespace="blue", agent_id=agent_id, type=kind, capabilities=["*"], **more)
    return (await daemon.socket.IssueToken(request)).token.value


async def test_an_agents_life(daemon: Daemon) -> None:
    key = AgentKey()
    joined = (await daemon.socket.Join(joining(key))).token
    assert joined.expire_time.seconds < joined.identity_expire_time.seconds
    me = await daemon.tcp.IntrospectToken(pb.IntrospectTokenRequest(), metadata=bearer(joined.value))
    assert (me.active, me.subject, me.namespace, me.type) == (True, "agent:blue/w-1", "blue", WORKER)
    await daemon.restart()
    fresh = await renew(daemon.tcp, key)
    await daemon.tcp.IntrospectToken(pb.IntrospectTokenRequest(), metadata=bearer(fresh))
    await daemon.socket.RevokeToken(pb.RevokeTokenRequest(namespace="blue", agent_id="w-1", reason="left"))
    for _ in range(2):
        for token in (joined.value, fresh):
            caught = await failure(
                daemon.tcp.IntrospectToken(pb.IntrospectTokenRequest(), metadata=bearer(token))
            )
            assert caught.reason == "TOKEN_REVOKED"
        assert (await failure(renew(daemon.tcp, key))).reason == "PROOF_INVALID"
        assert (await failure(daemon.socket.Join(joining(key)))).reason == "JOIN_TOKEN_INVALID"
        await daemon.restart()


async def test_joining_by_a_join_token(daemon: Daemon) -> None:
    request = pb.CreateJoinTokenRequest(namespace="blue", agent_id="c-1", type=agent_pb2.AGENT_TYPE_CRITIC)
    join_token = (await daemon.socket.CreateJoinToken(request)).join_token
    key = AgentKey()
    refused = daemon.tcp.Join(joining(key, "c-1"))
    assert (await failure(refused)).reason == "JOIN_TOKEN_INVALID"
    await daemon.restart()
    kind = agent_pb2.AGENT_TYPE_CRITIC
    await daemon.tcp.Join(joining(key, "c-1", kind=kind, join_token=join_token))
    again = daemon.tcp.Join(joining(key, "c-1", kind=kind, join_token=join_token))
    assert (await failure(again)).reason == "JOIN_TOKEN_INVALID"


FAULTS = [
    ("Join", pb.JoinRequest(agent_id="w"), "namespace"),
    ("Join", pb.JoinRequest(namespace="blue", type=WORKER), "agent_id"),
    ("Join", pb.JoinRequest(namespace="Blue!", agent_id="w", type=WORKER), "namespace"),
    ("Join", pb.JoinRequest(namespace="blue", agent_id="w"), "type"),
    ("Join", pb.JoinRequest(namespace="blue", agent_id="w", type=WORKER), "public_key"),
    ("RenewToken", pb.RenewTokenRequest(namespace="blue"), "agent_id"),
    ("IssueToken", pb.IssueTokenRequest(agent_id="w", type=WORKER), "namespace"),
    ("IssueToken", pb.IssueTokenRequest(namespace="blue", agent_id="w", type=77), "type"),  # type: ignore[arg-type]
    ("IssueToken", pb.IssueTokenRequest(namespace="_mesh", agent_id="w", type=WORKER), "type"),
    (
        "IssueToken",
        pb.IssueTokenRequest(namespace="blue", agent_id="w", type=WORKER, scope=["x"]),
        "scope",
    ),
    (
        "IssueToken",
        pb.IssueTokenRequest(namespace="blue", agent_id="w", type=WORKER, scope=["fly:tasks"]),
        "scope",
    ),
    (
        "IssueToken",
        pb.IssueTokenRequest(namespace="blue", agent_id="w", type=WORKER, scope=["read:bogus"]),
        "scope",
    ),
    (
        "IssueToken",
        pb.IssueTokenRequest(namespace="blue", agent_id="w", type=WORKER, capabilities=["A B"]),
        "capabilities",
    ),
    (
        "IssueToken",
        pb.IssueTokenRequest(namespace="blue", agent_id="w", type=WORKER, lifetime=Duration(seconds=3_601)),
        "lifetime",
    ),
    (
        "CreateJoinToken",
        pb.CreateJoinTokenRequest(namespace="blue", agent_id="w", type=WORKER, max_uses=1_001),
        "max_uses",
    ),
    (
        "CreateJoinToken",
        pb.CreateJoinTokenRequest(
            namespace="blue", agent_id="w", type=WORKER, lifetime=Duration(seconds=86_401)
        ),
        "lifetime",
    ),
    ("RevokeToken", pb.RevokeTokenRequest(namespace="blue"), "target"),
    ("RevokeToken", pb.RevokeTokenRequest(namespace="blue", token=""), "target"),
    ("RevokeToken", pb.RevokeTokenRequest(agent_id="w"), "namespace"),
    ("RevokeToken", pb.RevokeTokenRequest(namespace="blue", agent_id="w", reason="x" * 257), "reason"),
    ("ListAuditEvents", pb.ListAuditEventsRequest(page_size=-1), "page_size"),
    ("ListAuditEvents", pb.ListAuditEventsRequest(page_token="x"), "page_token"),
]


async def test_fields(daemon: Daemon) -> None:
    for method, request, field in FAULTS:
        caught = await failure(getattr(daemon.socket, method)(request))
        assert caught.code is CODE.INVALID_ARGUMENT, request
        assert caught.details[1].field_violations[0].field == field, request


async def test_remote_operators(daemon: Daemon) -> None:
    issued = await daemon.socket.IssueToken(pb.IssueTokenRequest(namespace="_mesh", agent_id="eve"))
    metadata = bearer(issued.token.value)
    request = pb.IssueTokenRequest(namespace="red", agent_id="w", type=WORKER)
    await daemon.tcp.IssueToken(request, metadata=metadata)
    me = await daemon.tcp.IntrospectToken(pb.IntrospectTokenRequest(), metadata=metadata)
    assert (me.subject, me.namespace, me.type) == ("operator:eve", "", agent_pb2.AGENT_TYPE_UNSPECIFIED)
    boss = bearer(await token_of(daemon, "boss", ORCHESTRATOR))
    grab = daemon.tcp.IssueToken(pb.IssueTokenRequest(namespace="_mesh", agent_id="boss"), metadata=boss)
    assert (await failure(grab)).reason == "NAMESPACE_MISMATCH"
    revoking = daemon.tcp.RevokeToken(pb.RevokeTokenRequest(namespace="_mesh", agent_id="eve"), metadata=boss)
    assert (await failure(revoking)).reason == "NAMESPACE_MISMATCH"
    events = (await daemon.socket.ListAuditEvents(pb.ListAuditEventsRequest(subject="operator:eve"))).events
    assert [(event.method, event.object) for event in events] == [("IssueToken", "agent:w")]
    await daemon.restart()
    await daemon.socket.RevokeToken(pb.RevokeTokenRequest(namespace="_mesh", agent_id="eve"))
    again = daemon.tcp.IssueToken(request, metadata=metadata)
    assert (await failure(again)).reason == "TOKEN_REVOKED"


async def test_a_remote_operator_may_work_for_a_day_and_as_far_as_its_scope(daemon: Daemon) -> None:
    def asked(hours: int, **more: Any) -> Any:
        lifetime = Duration(seconds=3_600 * hours)
        return pb.IssueTokenRequest(namespace="_mesh", agent_id="eve", lifetime=lifetime, **more)

    caught = await failure(daemon.socket.IssueToken(asked(25)))
    assert caught.details[1].field_violations[0].field == "lifetime"
    token = (await daemon.socket.IssueToken(asked(24))).token
    me = await daemon.tcp.IntrospectToken(pb.IntrospectTokenRequest(), metadata=bearer(token.value))
    assert me.expire_time.seconds - me.issue_time.seconds == 24 * 3_600
    token = (await daemon.socket.IssueToken(asked(8, scope=["read:audit"]))).token
    for namespace in ("blue", "red", "_mesh"):
        listing = pb.ListAuditEventsRequest(namespace=namespace)
        await daemon.tcp.ListAuditEvents(listing, metadata=bearer(token.value))
    for call in (
        daemon.tcp.IssueToken(asked(1), metadata=bearer(token.value)),
        daemon.tcp.RevokeToken(pb.RevokeTokenRequest(family=token.family), metadata=bearer(token.value)),
    ):
        assert (await failure(call)).reason == "ACCESS_DENIED"


async def test_the_audit_log(daemon: Daemon) -> None:
    boss = bearer(await token_of(daemon, "boss", ORCHESTRATOR))
    governor = bearer(await token_of(daemon, "gov", GOVERNOR))
    for number in range(7):
        request = pb.IssueTokenRequest(agent_id=f"w-{number}", type=WORKER)
        await daemon.tcp.IssueToken(request, metadata=boss)
    beyond = daemon.tcp.IssueToken(pb.IssueTokenRequest(agent_id="g", type=GOVERNOR), metadata=governor)
    assert (await failure(beyond)).reason == "GRANT_EXCEEDS_CALLER"
    await daemon.socket.RevokeToken(
        pb.RevokeTokenRequest(namespace="blue", agent_id="w-1", reason="gone astray")
    )
    await daemon.restart()

    async def pages(stub: Any, metadata: Any = (), **conditions: Any) -> Any:
        token = ""
        while True:
            request = pb.ListAuditEventsRequest(page_size=3, page_token=token, **conditions)
            response = await stub.ListAuditEvents(request, metadata=metadata)
            for event in response.events:
                yield event
            token = response.next_page_token
            if not token:
                return

    issued = [
        event async for event in pages(daemon.tcp, governor, method="IssueToken", subject="agent:blue/boss")
    ]
    assert [event.object for event in issued] == [f"agent:w-{number}" for number in reversed(range(7))]
    (denied,) = [event async for event in pages(daemon.tcp, governor, denied_only=True)]
    assert (denied.subject, denied.method, denied.reason, denied.count) == (
        "agent:blue/gov",
        "IssueToken",
        "GRANT_EXCEEDS_CALLER",
        1,
    )
    (revoked,) = [event async for event in pages(daemon.socket, method="RevokeToken")]
    assert (revoked.subject, revoked.peer, revoked.reason) == ("operator:local", "socket", "gone astray")
    chain = [event async for event in pages(daemon.socket, namespace="blue")]
    records = [
        AuditRecord(
            event.namespace,
            event.sequence,
            event.time.ToMilliseconds(),
            event.subject,
            event.peer,
            event.method,
            event.object,
            event.allowed,
            event.reason,
            event.count,
            event.object_digest,
            event.previous_hash,
            event.hash,
        )
        for event in reversed(chain)
    ]
    assert verify(records) is None
    assert len(records) == 15
    worker = bearer(await token_of(daemon, "w", WORKER))
    refused = daemon.tcp.ListAuditEvents(pb.ListAuditEventsRequest(), metadata=worker)
    assert (await failure(refused)).reason == "ACCESS_DENIED"


async def test_reading_the_log_often_leaves_refusals_counted(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon.mesh._sweep.stop()

    async def counted() -> list[int]:
        request = pb.ListAuditEventsRequest(denied_only=True)
        return [event.count for event in (await daemon.socket.ListAuditEvents(request)).events]

    async def refused() -> None:
        assert (
            await failure(daemon.tcp.ListAuditEvents(pb.ListAuditEventsRequest()))
        ).reason == "TOKEN_MISSING"

    await refused()
    assert await counted() == [1]
    monkeypatch.setattr("meshd.wire.services.auth.READ_INTERVAL_S", 3_600.0)
    for _ in range(3):
        await refused()
        assert await counted() == [1]
    monkeypatch.setattr("meshd.wire.services.auth.READ_INTERVAL_S", 0.0)
    assert await counted() == [3, 1]


async def test_keys_are_public_and_stay(daemon: Daemon) -> None:
    (key,) = (await daemon.tcp.ListKeys(pb.ListKeysRequest())).keys
    assert len(key.public_key) == 32
    await daemon.restart()
    assert list((await daemon.tcp.ListKeys(pb.ListKeysRequest())).keys) == [key]
