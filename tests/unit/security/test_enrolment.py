"""Joining, renewing and issuing."""

import asyncio
import time
from typing import Any

import pytest

from meshd.domain.access import ANONYMOUS
from meshd.domain.errors import Reason, Refusal
from meshd.domain.grants import MAX_DESCENT
from meshd.domain.values import AgentType
from meshd.engine.authority import Target
from meshd.engine.enrolment import NOBODYS_KEY
from meshd.security.proofs import Ed25519Proofs
from tests.auth_world import AgentKey, World, refusal

pytestmark = pytest.mark.anyio
HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS


async def test_a_worker_joins_over_the_socket(world: World) -> None:
    token = await world.join("w-1", AgentKey())
    principal = world.authority.authenticate(token.value)
    assert (principal.subject, principal.namespace, principal.agent_id) == ("agent:blue/w-1", "blue", "w-1")
    assert principal.agent_type is AgentType.WORKER
    assert principal.capabilities == {"*"}
    assert principal.expire_ms == token.expire_ms == world.now_ms + HOUR_MS
    assert token.identity_expire_ms == world.now_ms + 30 * DAY_MS
    assert world.counting.settles == 1
    (record,) = world.writes.audit
    assert (record.namespace, record.subject, record.peer, record.object) == (
        "blue",
        "operator:local",
        "socket",
        "agent:w-1",
    )


async def test_only_workers_and_only_over_the_socket_without_a_join_token(world: World) -> None:
    key = AgentKey()
    for kind in AgentType:
        if kind is not AgentType.WORKER:
            assert (await refusal(world.join("x", key, kind=kind))).reason is Reason.JOIN_TOKEN_INVALID
    assert (await refusal(world.join("x", key, by=ANONYMOUS))).reason is Reason.JOIN_TOKEN_INVALID
    assert not world.writes.audit
    assert not world.writes.identities


async def test_a_join_token_is_bound(world: World) -> None:
    token = await world.join_token("w-1", kind=AgentType.CRITIC, capabilities=("a", "b"), max_uses=9)
    assert (
        await refusal(world.join("w-2", AgentKey(), token, kind=AgentType.CRITIC))
    ).reason is Reason.JOIN_TOKEN_INVALID
    assert (await refusal(world.join("w-1", AgentKey(), token))).reason is Reason.JOIN_TOKEN_INVALID
    wrong_namespace = world.join("w-1", AgentKey(), token, kind=AgentType.CRITIC, namespace="red")
    assert (await refusal(wrong_namespace)).reason is Reason.JOIN_TOKEN_INVALID
    beyond = world.join("w-1", AgentKey(), token, kind=AgentType.CRITIC, capabilities=("a", "c"))
    assert (await refusal(beyond)).reason is Reason.GRANT_EXCEEDS_CALLER
    joined = await world.join("w-1", AgentKey(), token, kind=AgentType.CRITIC, capabilities=("a",))
    principal = world.authority.authenticate(joined.value)
    assert principal.capabilities == {"a"}
    assert principal.agent_type is AgentType.CRITIC
    assert world.writes.audit[-1].subject == "agent:blue/w-1"
    for wrong in ("", "x", token[:-1], token + "x"):
        assert (
            await refusal(world.join("w-1", AgentKey(), wrong, kind=AgentType.CRITIC, by=ANONYMOUS))
        ).reason is Reason.JOIN_TOKEN_INVALID


async def test_join_tokens_are_stored_hashed_and_expire(world: World) -> None:
    token = await world.join_token("w-1")
    assert len(token) >= 43
    assert token not in repr(world.writes)
    world.now_ms += 600_000
    assert (await refusal(world.join("w-1", AgentKey(), token))).reason is Reason.JOIN_TOKEN_INVALID


async def test_of_64_parallel_joins_with_a_one_use_token_one_succeeds(world: World) -> None:
    token = await world.join_token("w-1")
    outcomes = await asyncio.gather(
        *(world.join("w-1", AgentKey(), token) for _ in range(64)), return_exceptions=True
    )
    assert sum(not isinstance(outcome, BaseException) for outcome in outcomes) == 1
    assert {outcome.reason for outcome in outcomes if isinstance(outcome, Refusal)} == {
        Reason.JOIN_TOKEN_INVALID
    }
    again = world.restart()
    assert (await refusal(again.join("w-1", AgentKey(), token))).reason is Reason.JOIN_TOKEN_INVALID


async def test_a_join_that_is_refused_uses_no_join_token_up(world: World) -> None:
    key, token = AgentKey(), await world.join_token("w-1")
    skills = tuple(f"{number:02}{'a' * 60}" for number in range(64))
    caught = await refusal(world.join("w-1", key, token, capabilities=skills))
    assert caught.field == "capabilities", "such a token would be too long"
    assert await world.join("w-1", key, token, capabilities=skills[:2])


async def test_a_join_is_whole_while_the_clock_is_behind_a_restore(world: World) -> None:
    key, join_token = AgentKey(), await world.join_token("w-1")
    world.enrolment._credentials.token_watermark_ms = world.now_ms + 40_000
    token = await world.join("w-1", key, join_token)
    record = world.writes.audit[-1]
    assert (record.subject, record.object, record.allowed) == ("agent:blue/w-1", "agent:w-1", True)
    renewed = await world.renew("w-1", key)
    assert world.writes.audit[-1].sequence == record.sequence + 1
    world.now_ms += 41_000
    for each in (token, renewed):
        assert world.authority.authenticate(each.value).agent_id == "w-1"


async def test_an_agent_of_another_type_is_not_made_a_worker_by_whoever_reaches_the_socket(
    world: World,
) -> None:
    key = AgentKey()
    kind = AgentType.ORCHESTRATOR
    await world.join("boss", key, await world.join_token("boss", kind=kind), kind=kind)
    assert (await refusal(world.join("boss", key))).reason is Reason.JOIN_TOKEN_INVALID
    assert world.authority.authenticate((await world.renew("boss", key)).value).agent_type is kind


async def test_joining_again(world: World) -> None:
    key = AgentKey()
    first = await world.join("w-1", key)
    same = await world.join("w-1", key)
    assert same.family == first.family
    assert (await refusal(world.join("w-1", AgentKey()))).reason is Reason.JOIN_TOKEN_INVALID
    other = AgentKey()
    replaced = await world.join("w-1", other, await world.join_token("w-1"))
    assert replaced.family != first.family
    assert (await refusal(world.renew("w-1", key))).reason is Reason.PROOF_INVALID
    assert (await world.renew("w-1", other)).family == replaced.family


async def test_unknown_namespaces_and_the_system_namespace_take_no_agents(world: World) -> None:
    for namespace in ("green", "_mesh"):
        assert (
            await refusal(world.join("w", AgentKey(), namespace=namespace))
        ).reason is Reason.NAMESPACE_NOT_FOUND
        issued = world.issue("w", AgentType.WORKER, namespace=namespace)
        assert (await refusal(issued)).reason is Reason.NAMESPACE_NOT_FOUND
    world.namespaces.discard("blue")
    assert (await refusal(world.join_token("w"))).reason is Reason.NAMESPACE_NOT_FOUND


@pytest.mark.parametrize("public_key", [b"", b"short", bytes(32), b"\x01" + bytes(31)])
async def test_unusable_keys(world: World, public_key: Any) -> None:
    key = AgentKey()
    key.public = public_key
    caught = await refusal(world.join("w-1", key))
    assert (caught.reason, caught.field) == (Reason.INVALID_ARGUMENT, "public_key")


async def test_renewal_needs_the_key_and_works_after_expiry_and_restart(world: World) -> None:
    key = AgentKey()
    first = await world.join("w-1", key)
    world.now_ms += 29 * DAY_MS
    with pytest.raises(Refusal):
        world.authority.authenticate(first.value)
    again = world.restart()
    token = await again.renew("w-1", key)
    assert token.family == first.family
    assert again.authority.authenticate(token.value).subject == "agent:blue/w-1"
    assert again.writes.audit[-1].subject == "agent:blue/w-1"
    again.now_ms += 29 * DAY_MS  # Each renewal counts anew: an agent in use never has to join again.
    assert await again.renew("w-1", key)
    again.now_ms += 30 * DAY_MS
    assert (await refusal(again.renew("w-1", key))).reason is Reason.PROOF_INVALID


async def test_wrong_proofs(world: World) -> None:
    key = AgentKey()
    await world.join("w-1", key)
    await world.join("w-2", AgentKey())
    renew = world.enrolment.renew
    call = world.call(ANONYMOUS)
    nonce = world.enrolment.challenge(call, "blue", "w-1")
    good = key.prove("blue", "w-1", nonce)
    others = world.enrolment.challenge(call, "blue", "w-2")
    for agent_id, shown, signature in (
        ("w-1", nonce, b""),
        ("w-1", b"", good),
        ("w-1", nonce, good[:-1] + bytes([good[-1] ^ 1])),
        ("w-1", others, key.prove("blue", "w-1", others)),
        ("w-2", others, key.prove("blue", "w-2", others)),
        ("w-3", nonce, good),
    ):
        assert (await refusal(renew(call, "blue", agent_id, shown, signature))).reason is Reason.PROOF_INVALID
    world.now_ms += 60_001
    assert (await refusal(renew(call, "blue", "w-1", nonce, good))).reason is Reason.PROOF_INVALID


async def test_a_challenge_writes_nothing_and_tells_nothing(world: World) -> None:
    await world.join("w-1", AgentKey())
    before = len(world.writes.audit)
    call = world.call(ANONYMOUS)
    assert len(world.enrolment.challenge(call, "blue", "w-1")) == len(
        world.enrolment.challenge(call, "blue", "nobody")
    )
    assert call.audited
    assert len(world.writes.audit) == before


async def test_a_wrong_proof_takes_the_same_work_whether_the_agent_has_a_key_or_not(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    verified: list[bytes] = []

    class Watched(Ed25519Proofs):
        def valid_signature(self, public_key: bytes, message: bytes, signature: bytes) -> bool:
            verified.append(public_key)
            return super().valid_signature(public_key, message, signature)

    key = AgentKey()
    await world.join("known", key)
    await world.join("revoked", AgentKey())
    await world.authority.revoke(world.call(), "blue", Target(agent_id="revoked"), "")
    monkeypatch.setattr(world.enrolment, "_proofs", Watched())
    for name in ("known", "revoked", "unknown"):
        assert (await refusal(world.renew(name, AgentKey()))).reason is Reason.PROOF_INVALID
    assert verified == [key.public, NOBODYS_KEY, NOBODYS_KEY]
    assert Ed25519Proofs().valid_key(NOBODYS_KEY)


async def test_nobodys_key_proves_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    nobody = AgentKey()
    monkeypatch.setattr("meshd.engine.enrolment.NOBODYS_KEY", nobody.public)
    assert (await refusal(world.renew("unknown", nobody))).reason is Reason.PROOF_INVALID


async def test_issued_tokens_stay_within_the_issuer(world: World) -> None:
    boss = world.authority.authenticate(
        (await world.issue("boss", AgentType.ORCHESTRATOR, capabilities=("a",))).value
    )
    token = await world.issue(
        "w", AgentType.WORKER, by=boss, capabilities=("a",), scope=("read:tasks",), lifetime_ms=5_000
    )
    principal = world.authority.authenticate(token.value)
    assert principal.scope == ("read:tasks",)
    assert principal.capabilities == {"a"}
    assert principal.expire_ms == world.now_ms + 5_000
    assert token.identity_expire_ms == 0
    for kind, grant in (
        (AgentType.GOVERNOR, {"capabilities": ()}),
        (AgentType.WORKER, {"capabilities": ("b",)}),
        (AgentType.WORKER, {}),
    ):
        assert (await refusal(world.issue("w", kind, by=boss, **grant))).reason is Reason.GRANT_EXCEEDS_CALLER


async def test_no_join_token_is_made_that_nobody_could_join_with(world: World) -> None:
    """Whoever joins by it would be one deeper in the line of descent than is allowed."""
    boss = world.authority.authenticate((await world.issue("boss", AgentType.ORCHESTRATOR)).value)
    for _ in range(MAX_DESCENT - 2):
        boss = world.authority.authenticate(
            (await world.issue("boss", AgentType.ORCHESTRATOR, by=boss)).value
        )
    assert await world.join("w-1", AgentKey(), await world.join_token("w-1", by=boss))
    last = world.authority.authenticate((await world.issue("boss", AgentType.ORCHESTRATOR, by=boss)).value)
    assert (await refusal(world.join_token("w-1", by=last))).reason is Reason.GRANT_EXCEEDS_CALLER


async def test_a_narrowed_issuer_cannot_widen_itself_by_a_join_token(world: World) -> None:
    token = await world.issue("boss", AgentType.ORCHESTRATOR, scope=("admin:acl",))
    narrow = world.authority.authenticate(token.value)
    assert (await refusal(world.join_token("w", by=narrow))).reason is Reason.GRANT_EXCEEDS_CALLER
    inherited = world.authority.authenticate((await world.issue("w", AgentType.WORKER, by=narrow)).value)
    assert inherited.scope == ("admin:acl",)


async def test_operators_tokens(world: World) -> None:
    token = await world.issue_operator("eve")
    eve = world.authority.authenticate(token.value)
    assert (eve.kind, eve.subject, eve.namespace, eve.agent_type) == ("operator", "operator:eve", "", None)
    assert world.writes.audit[-1].namespace == "_mesh"
    assert await world.issue("w", AgentType.WORKER, by=eve)


async def test_secrets_stay_out_of_records_and_refusals(world: World) -> None:
    join_token = await world.join_token("w-1", max_uses=2)
    token = await world.join("w-1", AgentKey(), join_token)
    await world.issue("w-2", AgentType.WORKER)
    caught = await refusal(world.join("w-2", AgentKey(), join_token))
    for secret in (join_token, token.value):
        assert secret not in repr(world.writes)
        assert secret not in str(caught)


def test_whole_seconds(world: World) -> None:
    async def issue() -> None:
        world.now_ms += 999
        token = await world.issue("w", AgentType.WORKER, lifetime_ms=1_000)
        assert token.expire_ms % 1_000 == 0
        world.authority.authenticate(token.value)

    asyncio.run(issue())


async def test_an_expired_join_token_is_forgotten_when_the_next_is_made(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    start_mono = time.monotonic()
    long = await world.join_token("w-1", lifetime_ms=3_600_000)
    for number in range(5):
        await world.join_token("w-2", lifetime_ms=1_000 * (number + 1))
    restarted = world.restart()
    monkeypatch.setattr("meshd.engine.credentials.time.monotonic", lambda: start_mono + 600)
    for current in (world, restarted):
        credentials = current.enrolment._credentials
        assert len(credentials._join_tokens) == 6
        current.now_ms += 600_000
        await current.join_token("w-3")
        assert {record.agent_id for record in credentials._join_tokens.values()} == {"w-1", "w-3"}
        assert len(credentials._join_token_ends) == 2
    assert await world.join("w-1", AgentKey(), long)
