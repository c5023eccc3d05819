"""Recognising and revoking: what was revoked is refused everywhere, with all that came from it."""

import time
from typing import Any

import pytest

from meshd.domain.access import LOCAL_OPERATOR
from meshd.domain.errors import Reason, Refusal
from meshd.domain.values import AgentType
from meshd.engine.authority import MAX_CACHED_TOKENS, Target
from tests.auth_world import START_MS, AgentKey, World, refusal, restored_from, revoke

pytestmark = pytest.mark.anyio
HOUR_MS = 3_600_000


def reason_of(world: World, token: str) -> Reason | None:
    try:
        world.authority.authenticate(token)
    except Refusal as refusal:
        return refusal.reason
    return None


async def test_expiry_and_revocation_are_checked_on_cached_tokens(world: World) -> None:
    token = (await world.join("w-1", AgentKey())).value
    first = world.authority.authenticate(token)
    assert world.authority.authenticate(token) is first
    on_socket = world.authority.authenticate(token, via_socket=True)
    assert on_socket.via_socket
    assert not first.via_socket
    world.now_ms += HOUR_MS - 1
    assert reason_of(world, token) is None
    world.now_ms += 1
    assert reason_of(world, token) is Reason.TOKEN_EXPIRED
    assert reason_of(world, token) is Reason.TOKEN_EXPIRED


async def test_the_cache_is_bounded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("meshd.engine.authority.MAX_CACHED_TOKENS", 10)
    assert MAX_CACHED_TOKENS > 1_000
    for number in range(30):
        token = await world.issue(f"w-{number}", AgentType.WORKER)
        world.authority.authenticate(token.value)
    assert len(world.authority._cache[False]) == 10


async def test_revoking_a_token_ends_its_family(world: World) -> None:
    key = AgentKey()
    first = await world.join("w-1", key)
    renewed = await world.renew("w-1", key)
    other = await world.join("w-2", AgentKey())
    for token in (first, renewed, other):
        world.authority.authenticate(token.value)
        world.authority.authenticate(token.value, via_socket=True)
    await revoke(world, token=first.value)
    with pytest.raises(Refusal, match="revoked"):
        world.authority.authenticate(first.value, via_socket=True)
    for current in (world, world.restart()):
        assert reason_of(current, first.value) is Reason.TOKEN_REVOKED
        assert reason_of(current, renewed.value) is Reason.TOKEN_REVOKED
        assert reason_of(current, other.value) is None
        assert (await refusal(current.renew("w-1", key))).reason is Reason.TOKEN_REVOKED
    assert (await refusal(world.join("w-1", key))).reason is Reason.JOIN_TOKEN_INVALID, (
        "not even over the socket"
    )
    record = world.writes.audit[-1]
    assert (record.method, record.reason, record.namespace) == ("Test", "words", "blue")
    assert first.value not in repr(world.writes)
    # An operator may let it return with the same key, as a new family: the old one stays revoked.
    returned = await world.join("w-1", key, await world.join_token("w-1"))
    assert reason_of(world, returned.value) is None
    assert reason_of(world, renewed.value) is Reason.TOKEN_REVOKED


async def test_a_revoked_family_is_forgotten_when_nothing_of_it_can_be_valid_and_no_jump_of_the_clock_revives_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, third = [(await world.join(f"w-{number}", AgentKey())).value for number in range(3)]
    start_mono, start_ms = time.monotonic(), world.now_ms
    await revoke(world, token=first)
    world.now_ms += 100 * 24 * HOUR_MS
    await revoke(world, token=second)
    world.now_ms = start_ms
    assert reason_of(world, first) is Reason.TOKEN_REVOKED
    restarted = world.restart()
    keep_s = (30 + 1) * 24 * 3_600
    monkeypatch.setattr("meshd.engine.credentials.time.monotonic", lambda: start_mono + keep_s + 3_600)
    for current in (world, restarted):
        await revoke(current, token=third)
        assert len(current.authority._credentials._revoked_families) == 1
    # What is revoked at a start stays so until the next.
    assert reason_of(world, first) is None
    assert reason_of(restarted, first) is Reason.TOKEN_REVOKED


async def test_a_clock_that_is_wrong_at_a_start_revives_nothing(world: World) -> None:
    key = AgentKey()
    token = (await world.join("w-1", key)).value
    await revoke(world, token=token)
    world.now_ms += 400 * 24 * HOUR_MS
    restarted = world.restart()
    restarted.now_ms = START_MS
    assert reason_of(restarted, token) is Reason.TOKEN_REVOKED
    assert (await refusal(restarted.renew("w-1", key))).reason is Reason.TOKEN_REVOKED


async def test_a_revocation_is_kept_for_as_long_as_a_key_lives_that_was_given_more_time(world: World) -> None:
    boss = world.authority.authenticate((await world.issue("boss", AgentType.ORCHESTRATOR)).value)
    keys = {name: AgentKey() for name in ("w-1", "w-2")}
    own = await world.join("w-1", keys["w-1"])
    await world.join("w-2", keys["w-2"], await world.join_token("w-2", by=boss))
    world.authority._credentials.identity_ttl_ms = 24 * HOUR_MS  # The setting is lowered.
    await revoke(world, token=own.value)
    await revoke(world, family=boss.family)
    keep_until_ms = START_MS + (30 + 1) * 24 * HOUR_MS
    assert [record.keep_until_ms for record in world.writes.revocations] == [keep_until_ms, keep_until_ms]
    kept_s = world.authority._credentials._revoked_families.values()
    assert all(each > time.monotonic() + 30 * 24 * 3_600 for each in kept_s)
    for name, key in keys.items():
        assert (await refusal(world.renew(name, key))).reason is Reason.TOKEN_REVOKED


async def test_an_expired_token_can_still_be_revoked(world: World) -> None:
    key = AgentKey()
    token = await world.join("w-1", key)
    world.now_ms += 2 * HOUR_MS
    await revoke(world, token=token.value)
    assert (await refusal(world.renew("w-1", key))).reason is Reason.TOKEN_REVOKED


async def test_revoking_an_agent_ends_its_tokens_its_key_and_its_join_tokens(world: World) -> None:
    key = AgentKey()
    joined = await world.join("w-1", key)
    issued = await world.issue("w-1", AgentType.WORKER)
    waiting = await world.join_token("w-1")
    await revoke(world, agent_id="w-1")
    assert world.revoked_agents == [("blue", "w-1")]
    for current in (world, world.restart()):
        assert reason_of(current, joined.value) is Reason.TOKEN_REVOKED
        assert reason_of(current, issued.value) is Reason.TOKEN_REVOKED
        assert (await refusal(current.renew("w-1", key))).reason is Reason.PROOF_INVALID
        assert (await refusal(current.join("w-1", key, waiting))).reason is Reason.JOIN_TOKEN_INVALID
        assert (await refusal(current.join("w-1", key))).reason is Reason.JOIN_TOKEN_INVALID
    # An operator may let it return; what was revoked stays so.
    returned = await world.join("w-1", key, await world.join_token("w-1"))
    assert reason_of(world, returned.value) is None
    assert reason_of(world, joined.value) is Reason.TOKEN_REVOKED
    assert await world.renew("w-1", key)
    assert reason_of(world, (await world.issue("w-1", AgentType.WORKER)).value) is None


@pytest.mark.parametrize("how", ["token", "family"])
async def test_no_join_token_outlives_the_family_of_its_agent(world: World, how: str) -> None:
    key, many = AgentKey(), await world.join_token("w-1", max_uses=5)
    others = await world.join_token("w-2")
    joined = await world.join("w-1", key, many)
    await revoke(world, **{how: joined.value if how == "token" else joined.family})
    for current in (world, world.restart()):
        for again in (key, AgentKey()):
            refused = await refusal(current.join("w-1", again, many))
            assert refused.reason is Reason.JOIN_TOKEN_INVALID
    assert await world.join("w-2", AgentKey(), others)
    assert await world.join("w-1", key, await world.join_token("w-1"))


async def test_what_was_issued_from_a_revoked_credential_ends_with_it(world: World) -> None:
    for how in ("token", "agent"):
        current = world.restart()
        name = f"boss-{how}"
        boss_token = await current.issue(name, AgentType.ORCHESTRATOR)
        boss = current.authority.authenticate(boss_token.value)
        issued = await current.issue("deputy", AgentType.ORCHESTRATOR, by=boss)
        deputy = current.authority.authenticate(issued.value)
        grandchild = await current.issue("w-1", AgentType.WORKER, by=deputy)
        key = AgentKey()
        joined = await current.join("w-2", key, await current.join_token("w-2", by=deputy))
        waiting = await current.join_token("w-3", by=boss)
        other = await current.issue("w-4", AgentType.WORKER)
        everything = (boss_token, issued, grandchild, joined)
        assert [reason_of(current, token.value) for token in everything] == [None] * 4
        await revoke(current, **({"token": boss_token.value} if how == "token" else {"agent_id": name}))
        for after in (current, current.restart()):
            assert [reason_of(after, token.value) for token in everything] == [Reason.TOKEN_REVOKED] * 4
            assert reason_of(after, other.value) is None
            assert (await refusal(after.renew("w-2", key))).reason is Reason.TOKEN_REVOKED
            assert (await refusal(after.join("w-3", AgentKey(), waiting))).reason is Reason.JOIN_TOKEN_INVALID


async def test_what_a_second_join_token_grants_ends_with_its_own_issuer(world: World) -> None:
    key = AgentKey()
    bosses = [
        world.authority.authenticate((await world.issue(name, AgentType.ORCHESTRATOR)).value)
        for name in ("first", "second")
    ]
    for boss, skill in zip(bosses, ("few", "many"), strict=True):
        join_token = await world.join_token("w-1", by=boss, capabilities=(skill,))
        joined = await world.join("w-1", key, join_token)
    await revoke(world, agent_id="first")
    assert reason_of(world, joined.value) is None
    await revoke(world, agent_id="second")
    assert reason_of(world, joined.value) is Reason.TOKEN_REVOKED
    assert (await refusal(world.renew("w-1", key))).reason is Reason.TOKEN_REVOKED


async def test_revoking_a_named_operator_reaches_every_namespace(world: World) -> None:
    token = await world.issue_operator("eve")
    eve = world.authority.authenticate(token.value)
    blue = await world.issue("w-1", AgentType.WORKER, by=eve, namespace="blue")
    red = await world.issue("w-1", AgentType.WORKER, by=eve, namespace="red")
    await revoke(world, namespace="", token=token.value)
    for value in (token.value, blue.value, red.value):
        assert reason_of(world, value) is Reason.TOKEN_REVOKED
        assert reason_of(world.restart(), value) is Reason.TOKEN_REVOKED


async def test_revoking_an_operator_by_name_ends_every_token_and_what_came_of_it(world: World) -> None:
    tokens = [await world.issue_operator("eve"), await world.issue_operator("eve")]
    eve = world.authority.authenticate(tokens[0].value)
    made = [await world.issue_operator("deputy", by=eve), await world.issue("w-1", AgentType.WORKER, by=eve)]
    key = AgentKey()
    joined = await world.join("w-2", key, await world.join_token("w-2", by=eve), by=eve)
    bob = await world.issue_operator("bob")
    agent = await world.issue("eve", AgentType.WORKER)
    await revoke(world, namespace="_mesh", agent_id="eve")
    for current in (world, world.restart()):
        for token in (*tokens, *made, joined):
            assert reason_of(current, token.value) is Reason.TOKEN_REVOKED
        assert (await refusal(current.renew("w-2", key))).reason is Reason.TOKEN_REVOKED
        assert reason_of(current, bob.value) is None
        assert reason_of(current, agent.value) is None, "an agent of the same name is somebody else"
    record = world.writes.audit[-1]
    assert (record.namespace, record.object) == ("_mesh", "operator:eve")
    assert world.revoked_agents == []
    assert reason_of(world, (await world.issue_operator("eve")).value) is None, "a new day may begin"


async def test_revoking_one_family_leaves_the_operators_other_tokens(world: World) -> None:
    stolen, other = await world.issue_operator("eve"), await world.issue_operator("eve")
    await revoke(world, namespace="", family=stolen.family)
    assert reason_of(world, stolen.value) is Reason.TOKEN_REVOKED
    assert reason_of(world, other.value) is None
    assert world.writes.audit[-1].object == f"operator:eve family:{stolen.family}"


async def test_nobody_is_named_like_the_operator_socket(world: World) -> None:
    caught = await refusal(world.issue_operator("local"))
    assert (caught.reason, caught.field) == (Reason.INVALID_ARGUMENT, "agent_id")
    assert (
        await refusal(revoke(world, namespace="_mesh", agent_id="local"))
    ).reason is Reason.INVALID_ARGUMENT


async def test_an_operators_token_ends_no_later_than_the_one_it_came_from(world: World) -> None:
    eve_token = await world.issue_operator("eve", lifetime_ms=8 * HOUR_MS)
    eve = world.authority.authenticate(eve_token.value)
    world.now_ms += 7 * HOUR_MS
    assert (
        await world.issue_operator("eve", by=eve, lifetime_ms=8 * HOUR_MS)
    ).expire_ms == eve_token.expire_ms
    assert (await world.issue_operator("bob", by=eve, lifetime_ms=60_000)).expire_ms == world.now_ms + 60_000
    world.now_ms += HOUR_MS
    with pytest.raises(Refusal, match="have another operator issue a new one") as caught:
        world.authority.authenticate(eve_token.value)
    assert caught.value.reason is Reason.TOKEN_EXPIRED
    with pytest.raises(Refusal, match="have another operator issue a new one"):
        world.restart().authority.authenticate(eve_token.value)


async def test_an_operator_hands_on_no_more_than_its_scope(world: World) -> None:
    narrow = ("admin:acl", "read:*")
    eve = world.authority.authenticate((await world.issue_operator("eve", scope=narrow)).value)

    async def scope_of(**wanted: Any) -> Any:
        return world.authority.authenticate((await world.issue_operator("bob", by=eve, **wanted)).value).scope

    assert await scope_of() == narrow
    assert await scope_of(scope=("read:tasks",)) == ("read:tasks",)
    for beyond in (("execute:tasks",), ("*:*",), ("read:tasks", "write:tasks")):
        caught = await refusal(world.issue_operator("bob", by=eve, scope=beyond))
        assert caught.reason is Reason.GRANT_EXCEEDS_CALLER
    assert (await refusal(world.join_token("w-1", by=eve))).reason is Reason.GRANT_EXCEEDS_CALLER


async def test_only_operators_make_operators(world: World) -> None:
    for kind in AgentType:
        agent = world.authority.authenticate((await world.issue("a", kind)).value)
        caught = await refusal(world.issue_operator("a", by=agent))
        assert caught.reason is Reason.GRANT_EXCEEDS_CALLER


async def test_revocation_stays_within_the_namespace(world: World) -> None:
    governor = world.authority.authenticate((await world.issue("gov", AgentType.GOVERNOR)).value)
    red = await world.issue("w-1", AgentType.WORKER, namespace="red")
    eve = await world.issue_operator("eve")
    assert (await refusal(revoke(world, governor, token=red.value))).reason is Reason.NAMESPACE_MISMATCH
    await revoke(world, governor, family=red.family)
    await revoke(world, governor, agent_id="w-1")
    assert reason_of(world, red.value) is None
    for target in ({"token": eve.value}, {"family": eve.family}):
        assert (await refusal(revoke(world, governor, **target))).reason is Reason.ACCESS_DENIED
    assert reason_of(world, eve.value) is None
    assert (await refusal(revoke(world, family="garbage"))).reason is Reason.INVALID_ARGUMENT
    assert (await refusal(revoke(world, namespace="", agent_id="w-1"))).reason is Reason.FIELD_REQUIRED
    assert (await refusal(revoke(world, token="a.b.c"))).reason is Reason.TOKEN_INVALID


async def test_introspection(world: World) -> None:
    boss = world.authority.authenticate((await world.issue("boss", AgentType.ORCHESTRATOR)).value)
    worker_token = await world.issue("w-1", AgentType.WORKER)
    worker = world.authority.authenticate(worker_token.value)
    red = await world.issue("w-1", AgentType.WORKER, namespace="red")

    def introspect(by: Any, token: Any) -> Any:
        return world.authority.introspect(world.call(by), token)

    assert introspect(worker, "").principal is worker
    assert introspect(worker, worker_token.value) == introspect(boss, worker_token.value)
    assert introspect(boss, worker_token.value).inactive_reason == ""
    with pytest.raises(Refusal):
        introspect(worker, (await world.issue("w-2", AgentType.WORKER)).value)
    assert introspect(boss, red.value) == (None, "NAMESPACE_MISMATCH")
    assert introspect(LOCAL_OPERATOR, red.value).inactive_reason == ""
    assert introspect(boss, "nonsense") == (None, "TOKEN_INVALID")
    await revoke(world, agent_id="w-1")
    assert introspect(boss, worker_token.value).inactive_reason == "TOKEN_REVOKED"
    world.now_ms += HOUR_MS
    assert introspect(boss, worker_token.value).inactive_reason == "TOKEN_EXPIRED"


async def test_signing_key_is_recorded_once(world: World) -> None:
    (key,) = world.writes.signing_keys
    assert world.authority.public_keys() == [key]
    again = world.restart()
    assert not again.writes.signing_keys
    assert again.authority.public_keys() == [key]


async def test_a_restore_from_a_backup_voids_every_token_of_before(world: World) -> None:
    key = AgentKey()
    before = [
        (await world.join("w-1", key)).value,
        (await world.issue("w-2", AgentType.WORKER)).value,
        (await world.issue_operator("alice")).value,
    ]
    world.now_ms += 400
    restored = restored_from(world.writes)
    restored.token_watermark_ms = world.now_ms
    after = World(world.key, restored, world.now_ms, world.namespaces)
    for token in before:
        assert reason_of(after, token) is Reason.TOKEN_REVOKED
        found = after.authority.introspect(after.call(), token)
        assert found.inactive_reason == "TOKEN_REVOKED"
    # Fresh ones are good at once, in the very second of the restore too; the key that joined before is enough.
    fresh = (await after.renew("w-1", key)).value
    principal = after.authority.authenticate(fresh)
    assert principal.issue_ms > restored.token_watermark_ms
    assert reason_of(after, (await after.issue("w-2", AgentType.WORKER)).value) is None
    with pytest.raises(Refusal, match="older than the restore of this mesh"):
        after.authority.authenticate(before[0])


async def test_who_revokes_the_own_token_is_told_that_it_is_done(world: World) -> None:
    token = await world.issue_operator("eve")
    call = world.call(world.authority.authenticate(token.value), "RevokeToken")
    await world.authority.revoke(call, "_mesh", Target(agent_id="eve"), "")
    world.authority.check_caller(call)
    assert reason_of(world, token.value) is Reason.TOKEN_REVOKED
