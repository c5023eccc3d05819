"""AuthService: tokens, keys and the audit log."""

from __future__ import annotations

import time
from typing import Any

from agentmesh.v1 import auth_service_pb2 as pb
from agentmesh.v1 import auth_service_pb2_grpc as pb_grpc
from meshd.domain.access import SYSTEM_NAMESPACE, Call
from meshd.engine.audit import READ_INTERVAL_S
from meshd.engine.authority import Authority
from meshd.engine.enrolment import Enrolment
from meshd.engine.mesh import Mesh
from meshd.ports.store import AuditFilter
from meshd.wire import page_token, validate
from meshd.wire.codec import auth as codec
from meshd.wire.codec.values import timestamp
from meshd.wire.context import current_call


class AuthService(pb_grpc.AuthServiceServicer):
    """Gives credentials, takes them away, and shows who did what."""

    def __init__(self, mesh: Mesh, authority: Authority, enrolment: Enrolment) -> None:
        self._mesh = mesh
        self._authority = authority
        self._enrolment = enrolment

    async def Join(self, request: pb.JoinRequest, context: Any) -> pb.JoinResponse:
        """Make a process an agent."""
        call = current_call()
        grant = codec.join_grant(call.namespace, request)
        token = await self._enrolment.join(call, grant, request.join_token, request.public_key)
        return pb.JoinResponse(token=codec.token_to(token))

    async def RenewToken(self, request: pb.RenewTokenRequest, context: Any) -> pb.RenewTokenResponse:
        """Return a nonce, or for a signed one a token."""
        call = current_call()
        namespace, agent_id = codec.renewal(call.namespace, request)
        if not request.nonce and not request.signature:
            return pb.RenewTokenResponse(nonce=self._enrolment.challenge(call, namespace, agent_id))
        token = await self._enrolment.renew(call, namespace, agent_id, request.nonce, request.signature)
        return pb.RenewTokenResponse(token=codec.token_to(token))

    async def IssueToken(self, request: pb.IssueTokenRequest, context: Any) -> pb.IssueTokenResponse:
        """Issue a token within the caller's rights."""
        call = current_call()
        grant = codec.token_grant(call.namespace, request)
        lifetime_ms = codec.token_lifetime_ms(
            request.lifetime, given=request.HasField("lifetime"), for_operator=grant.agent_type is None
        )
        token = await self._enrolment.issue(call, grant, lifetime_ms)
        return pb.IssueTokenResponse(token=codec.token_to(token))

    async def RevokeToken(self, request: pb.RevokeTokenRequest, context: Any) -> pb.RevokeTokenResponse:
        """Take a token or an agent away."""
        call = current_call()
        target = codec.target(request)
        words = validate.text(request.reason, codec.MAX_WORDS_BYTES, "reason")
        ended = await self._authority.revoke(call, self._existing(call), target, words)
        return pb.RevokeTokenResponse(streams_ended=ended)

    async def IntrospectToken(
        self, request: pb.IntrospectTokenRequest, context: Any
    ) -> pb.IntrospectTokenResponse:
        """Tell what a token means."""
        response = codec.introspection_to(self._authority.introspect(current_call(), request.token))
        await self._mesh.commits.settled()
        return response

    async def ListKeys(self, request: pb.ListKeysRequest, context: Any) -> pb.ListKeysResponse:
        """List the public keys that sign tokens."""
        response = pb.ListKeysResponse(keys=[codec.key_to(key) for key in self._authority.public_keys()])
        await self._mesh.commits.settled()
        return response

    async def CreateJoinToken(
        self, request: pb.CreateJoinTokenRequest, context: Any
    ) -> pb.CreateJoinTokenResponse:
        """Create a join token within the caller's rights."""
        call = current_call()
        grant = codec.join_token_grant(call.namespace, request)
        lifetime_ms = codec.join_token_lifetime_ms(request.lifetime, given=request.HasField("lifetime"))
        uses = codec.max_uses(request.max_uses)
        created = await self._enrolment.create_join_token(call, grant, lifetime_ms, uses)
        return pb.CreateJoinTokenResponse(join_token=created.value, expire_time=timestamp(created.expire_ms))

    async def ListAuditEvents(
        self, request: pb.ListAuditEventsRequest, context: Any
    ) -> pb.ListAuditEventsResponse:
        """List audit records, those of refusals still counted in memory included, but for the last second's."""
        call = current_call()
        size = validate.page_size(request.page_size)
        conditions = repr((call.namespace, request.subject, request.method, request.denied_only))
        before = page_token.decode_key("audit", conditions, request.page_token) if request.page_token else 0
        namespace = self._existing(call)
        names = (namespace,) if namespace else (*self._mesh.namespaces, SYSTEM_NAMESPACE)
        self._mesh.audit.flush_denials(time.monotonic(), READ_INTERVAL_S)
        await self._mesh.commits.settled()
        condition = AuditFilter(names, request.subject, request.method, request.denied_only, before, size)
        found, rest = await self._mesh.commits.read_list(self._mesh.store.list_audit, condition)
        token = page_token.encode("audit", conditions, str(rest)) if rest else ""
        self._mesh.audit.record(call, namespace=namespace)
        await self._mesh.commits.settled()
        return pb.ListAuditEventsResponse(
            events=[codec.audit_event_to(record) for record in found], next_page_token=token
        )

    def _existing(self, call: Call) -> str:
        """Return the namespace of the call, which exists, or is empty. Raises Refusal."""
        if call.namespace and call.namespace != SYSTEM_NAMESPACE:
            return self._mesh.namespace(validate.namespace_name(call.namespace)).name
        return call.namespace
