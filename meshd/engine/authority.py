"""The authority: who holds a valid token, and how tokens and agents are revoked.

Invariant: a credential is checked against the revocations in memory on every use; a revocation is made in one
synchronous turn together with its records in the commit that collects, and the reply leaves when that is durable.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final, NamedTuple

from meshd.domain.access import SYSTEM_NAMESPACE, AccessRule, Action, Call, Principal, Scope, decide
from meshd.domain.errors import Reason, Refusal
from meshd.domain.grants import check_operator_name, holder, is_operator_family
from meshd.domain.records import SigningKeyRecord
from meshd.engine.audit import AuditLog
from meshd.engine.commits import Commits
from meshd.engine.credentials import Credentials, principal_of, system_wall_ms
from meshd.engine.token_streams import Ask, TokenStream, TokenStreams, expired
from meshd.ports.tokens import Tokens

MAX_CACHED_TOKENS: Final = 20_000
SESSION_METHODS: Final = ("Work", "Heartbeat")
READ_ACL: Final = AccessRule(Action.READ, "acl", Scope.NAMESPACE)


class Introspection(NamedTuple):
    """What a token means; ``principal`` is None when the caller may not know."""

    principal: Principal | None
    inactive_reason: str


class Target(NamedTuple):
    """What is to be revoked; exactly one is set."""

    token: str = ""
    family: str = ""
    agent_id: str = ""


class Authority:
    """Recognises tokens, and revokes them."""

    def __init__(
        self,
        *,
        tokens: Tokens,
        credentials: Credentials,
        commits: Commits,
        audit: AuditLog,
        on_agent_revoked: Callable[[str, str], None],
        wall_ms: Callable[[], int] = system_wall_ms,
    ) -> None:
        self._tokens = tokens
        self._credentials = credentials
        self._commits = commits
        self._audit = audit
        self._on_agent_revoked = on_agent_revoked
        self._wall_ms = wall_ms
        self._streams = TokenStreams(wall_ms)
        self._cache: tuple[dict[str, Principal], dict[str, Principal]] = ({}, {})
        """Verified tokens seen elsewhere than on the socket, and on it."""
        self.revocation_epoch = 0
        """Rises with every revocation: an unchanged number means that nobody was revoked since."""
        self._key = credentials.signing_key(tokens.signing_key())

    # ---- recognising

    def authenticate(self, token: str, *, via_socket: bool = False) -> Principal:
        """Return who holds the token. Raises Refusal TOKEN_INVALID, TOKEN_EXPIRED or TOKEN_REVOKED."""
        cache = self._cache[via_socket]
        principal = cache.get(token)
        if principal is None:
            principal = replace(
                principal_of(self._tokens.verify(token, self._wall_ms())), via_socket=via_socket
            )
            self.check_not_revoked(principal)
            if len(cache) >= MAX_CACHED_TOKENS:
                del cache[next(iter(cache))]
            cache[token] = principal
        elif principal.expire_ms <= self._wall_ms():
            del cache[token]
            raise expired(principal)
        return principal

    def check_not_revoked(self, principal: Principal) -> None:
        """Refuse a principal whose credential, or one it was issued from, was revoked."""
        if principal.family and self._is_revoked(principal):
            if principal.issue_ms <= self._credentials.token_watermark_ms:
                message = "the token is older than the restore of this mesh from a backup; renew it, or ask for a new one"
                raise Refusal(Reason.TOKEN_REVOKED, message)
            raise Refusal(
                Reason.TOKEN_REVOKED, "the token was revoked; ask an operator for a join token to return"
            )

    def check_caller(self, call: Call) -> None:
        """Refuse a call whose caller's credential was revoked since the call began."""
        if call.revocation_epoch != self.revocation_epoch:
            self.check_not_revoked(call.principal)
            call.revocation_epoch = self.revocation_epoch

    def stream(self, call: Call) -> TokenStream:
        """Return the block in which a stream is handled: it ends when the caller's token is revoked or runs out."""
        return TokenStream(self._streams, call)

    def ask_in_time(self, stream: object, ask: Ask) -> None:
        """Have ``ask`` called before the stream's token runs out, and again with each fresh one."""
        assert isinstance(stream, TokenStream)
        stream.ask_by(ask)

    def reauthenticate(self, stream: object, token: str) -> None:
        """Keep a stream open by a fresh token of the same subject. Raises Refusal."""
        assert isinstance(stream, TokenStream)
        call = stream.call
        principal = self.authenticate(token, via_socket=call.principal.via_socket)
        if principal.subject != call.principal.subject:
            raise Refusal(
                Reason.IDENTITY_MISMATCH, f"the fresh token is not {call.principal.subject}'s; send its own"
            )
        decide(principal, call.rule, call.namespace)
        call.principal = principal
        stream.arm()

    def introspect(self, call: Call, token: str) -> Introspection:
        """Tell what a token means; an empty one is the caller's own."""
        if not token:
            return Introspection(call.principal, "")
        try:
            claims = self._tokens.verify(token, self._wall_ms(), allow_expired=True)
        except Refusal as refusal:
            return Introspection(None, refusal.reason.name)
        principal = principal_of(claims)
        if principal.subject != call.principal.subject:
            if not call.principal.may_see(principal.namespace):
                return Introspection(None, Reason.NAMESPACE_MISMATCH.name)
            decide(call.principal, READ_ACL, principal.namespace)
        if principal.expire_ms <= self._wall_ms():
            return Introspection(principal, Reason.TOKEN_EXPIRED.name)
        return Introspection(principal, Reason.TOKEN_REVOKED.name if self._is_revoked(principal) else "")

    def public_keys(self) -> list[SigningKeyRecord]:
        """Return the public keys that sign tokens."""
        return [self._key]

    # ---- revoking

    async def revoke(self, call: Call, namespace: str, target: Target, words: str) -> int:
        """Take a credential away with everything renewed or issued from it; returns how many streams are ended.

        ``namespace`` may be empty when an operator revokes a token. Raises Refusal.
        """
        caller = call.principal
        family = target.family
        agents: set[tuple[str, str]] = set()
        if target.token:
            claims = self._tokens.verify(target.token, self._wall_ms(), allow_expired=True)
            family = claims.family
            if namespace and claims.namespace != namespace and not is_operator_family(family):
                message = "the token belongs to another namespace; name that one"
                raise Refusal(Reason.NAMESPACE_MISMATCH, message, field="namespace")
            namespace = claims.namespace
        if family and is_operator_family(family):
            if caller.kind != "operator":
                raise Refusal(Reason.ACCESS_DENIED, "only operators may revoke an operator's token")
            namespace = SYSTEM_NAMESPACE
        if family and holder(family) is None:
            message = "the family is none that a token of this mesh names"
            raise Refusal(Reason.INVALID_ARGUMENT, message, field="family")
        if not namespace:
            message = "name the namespace: an operator has none of its own"
            raise Refusal(Reason.FIELD_REQUIRED, message, field="namespace")
        if namespace == SYSTEM_NAMESPACE and target.agent_id:
            check_operator_name(target.agent_id, "agent_id")
            self._credentials.revoke_agent(namespace, target.agent_id)
            object_ = f"operator:{target.agent_id}"
        elif target.agent_id:
            self._credentials.revoke_agent(namespace, target.agent_id)
            agents.add((namespace, target.agent_id))
            object_ = f"agent:{target.agent_id}"
        else:
            self._credentials.revoke_family(namespace, family, self._wall_ms())
            kind = "operator" if is_operator_family(family) else "agent"
            found = holder(family)
            assert found is not None
            if kind == "agent":
                # Else its holder would join again, with what is left of the one it joined by.
                self._credentials.void_join_tokens(namespace, found[0])
            object_ = f"{kind}:{found[0]} family:{family}"
        self.revocation_epoch += 1
        # Who revokes the own token is told that it is done.
        call.revocation_epoch = self.revocation_epoch
        ended = self._end_what_is_revoked(agents)
        self._audit.record(call, namespace=namespace, object=object_, words=words)
        await self._commits.settled()
        return ended

    def _end_what_is_revoked(self, agents: set[tuple[str, str]]) -> int:
        """End streams, and the sessions of these agents and of those on the streams; returns how many streams."""
        for cache in self._cache:
            for token in [token for token, principal in cache.items() if self._is_revoked(principal)]:
                del cache[token]
        ended = self._streams.end_where(self._is_revoked)
        # Whom a revoked credential let in goes by that, not by the end of a connection.
        of_streams = {
            (each.principal.namespace, each.principal.agent_id)
            for each in ended
            if each.method in SESSION_METHODS and each.principal.agent_id
        }
        for agent in agents | of_streams:
            self._on_agent_revoked(*agent)
        return len(ended)

    def _is_revoked(self, principal: Principal) -> bool:
        return bool(principal.family) and (
            principal.issue_ms <= self._credentials.token_watermark_ms
            or self._credentials.revoked(principal.namespace or SYSTEM_NAMESPACE, principal.family)
        )
