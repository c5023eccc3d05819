"""Streams and their tokens: revocation and expiry end them, a fresh token lets them go on."""

import asyncio
import gc
from typing import Any
from weakref import ref

import pytest

from meshd.domain.access import AccessRule, Action, Call, Scope
from meshd.domain.errors import Reason, Refusal
from meshd.domain.values import AgentType
from meshd.engine.token_streams import EXPIRY_GRACE_MS, TokenStream
from meshd.wire.context import set_current_call
from tests.auth_world import AgentKey, World, refusal, revoke

pytestmark = pytest.mark.anyio
WORK = AccessRule(Action.EXECUTE, "tasks", Scope.NAMESPACE, audit=True)
HOUR_MS = 3_600_000


class Watched:
    """A stream that runs until it is ended."""

    def __init__(self, world: World, token: str) -> None:
        principal = world.authority.authenticate(token)
        self.call = Call(principal, "Work", "", WORK, principal.namespace)
        self.task = asyncio.create_task(self._run(world))

    async def _run(self, world: World) -> None:
        with world.authority.stream(self.call):
            await asyncio.sleep(60)

    async def refusal(self) -> Refusal:
        return await refusal(asyncio.wait_for(self.task, 2))


async def test_revocation_ends_live_streams(world: World) -> None:
    w1 = Watched(world, (await world.join("w-1", AgentKey())).value)
    w2 = Watched(world, (await world.join("w-2", AgentKey())).value)
    await asyncio.sleep(0)
    assert await revoke(world, agent_id="w-1") == 1
    assert (await w1.refusal()).reason is Reason.TOKEN_REVOKED
    assert await revoke(world, agent_id="w-1") == 0
    assert not w2.task.done()
    w2.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await w2.task
    assert len(world.authority._streams) == 0


async def test_agents_whose_credential_came_of_a_revoked_one_are_lost_by_that(world: World) -> None:
    eve = world.authority.authenticate((await world.issue_operator("eve")).value)
    theirs = [
        (await world.issue(name, AgentType.WORKER, by=eve, namespace="blue")).value for name in ("a", "b")
    ]
    working, looking = Watched(world, theirs[0]), Watched(world, theirs[1])
    looking.call.method = "WatchTasks"
    other = Watched(world, (await world.issue("c", AgentType.WORKER)).value)
    await asyncio.sleep(0)
    assert await revoke(world, namespace="_mesh", agent_id="eve") == 2
    assert world.revoked_agents == [("blue", "a")]
    for watched in (working, looking):
        assert (await watched.refusal()).reason is Reason.TOKEN_REVOKED
    other.task.cancel()


async def test_a_stream_ends_after_its_token_unless_it_gets_a_fresh_one(world: World) -> None:
    key = AgentKey()
    short = await world.issue("w-1", AgentType.WORKER, lifetime_ms=1_000)
    ending = Watched(world, short.value)
    kept = Watched(world, short.value)
    await world.join("w-1", key)
    await asyncio.sleep(0)
    world.authority.reauthenticate(kept.call.stream, (await world.renew("w-1", key)).value)
    assert kept.call.principal.expire_ms == world.now_ms + HOUR_MS
    # The wall clock jumps ahead: that alone ends no stream, its time is counted on the monotonic clock.
    world.now_ms += 10 * HOUR_MS
    await asyncio.sleep(0.01)
    assert not ending.task.done()
    # Arming anew stands for the passage of time.
    world.now_ms = short.expire_ms + EXPIRY_GRACE_MS
    assert isinstance(ending.call.stream, TokenStream)
    ending.call.stream.arm()
    assert (await ending.refusal()).reason is Reason.TOKEN_EXPIRED
    assert not kept.task.done()
    kept.task.cancel()


async def test_a_fresh_token_takes_back_the_end_of_the_one_before(world: World) -> None:
    key = AgentKey()
    stream = Watched(world, (await world.join("w-1", key)).value)
    await asyncio.sleep(0)
    # A moment before its end, by the wall clock and by the timer.
    world.now_ms = stream.call.principal.expire_ms + EXPIRY_GRACE_MS - 1
    assert isinstance(stream.call.stream, TokenStream)
    stream.call.stream.arm()
    world.authority.reauthenticate(stream.call.stream, (await world.renew("w-1", key)).value)
    await asyncio.sleep(0.05)  # Due after that timer, so the loop runs it later, however late both are.
    assert not stream.task.done()
    stream.task.cancel()


async def test_a_fresh_token_must_be_of_the_same_subject_and_still_allow_the_stream(world: World) -> None:
    stream = Watched(world, (await world.issue("w-1", AgentType.WORKER)).value)
    await asyncio.sleep(0)
    before = stream.call.principal

    async def reason(agent_id: Any, kind: Any, **grant: Any) -> Any:
        token = await world.issue(agent_id, kind, **grant)
        with pytest.raises(Refusal) as caught:
            world.authority.reauthenticate(stream.call.stream, token.value)
        return caught.value.reason

    assert await reason("w-2", AgentType.WORKER) is Reason.IDENTITY_MISMATCH
    assert await reason("w-1", AgentType.WORKER, namespace="red") is Reason.IDENTITY_MISMATCH
    assert await reason("w-1", AgentType.MONITOR) is Reason.ACCESS_DENIED
    assert await reason("w-1", AgentType.WORKER, scope=("read:tasks",)) is Reason.ACCESS_DENIED
    assert stream.call.principal is before
    stream.task.cancel()


async def test_a_handler_that_swallows_the_end_is_ended_all_the_same(world: World) -> None:
    principal = world.authority.authenticate((await world.join("w-1", AgentKey())).value)
    call = Call(principal, "Work", "", WORK, "blue")

    async def stubborn() -> None:
        with world.authority.stream(call):
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                await asyncio.sleep(0)

    task = asyncio.create_task(stubborn())
    await asyncio.sleep(0)
    await revoke(world, agent_id="w-1")
    assert (await refusal(task)).reason is Reason.TOKEN_REVOKED


async def test_the_end_of_a_stream_leaves_its_task_uncancelled(world: World) -> None:
    principal = world.authority.authenticate((await world.join("w-1", AgentKey())).value)

    async def handle() -> int:
        with pytest.raises(Refusal), world.authority.stream(Call(principal, "Work", "", WORK, "blue")):
            await asyncio.sleep(60)
        task = asyncio.current_task()
        assert task is not None
        return task.cancelling()

    task = asyncio.create_task(handle())
    await asyncio.sleep(0)
    for _ in range(2):  # The second time before the task had its turn: it is cancelled once all the same.
        await revoke(world, agent_id="w-1")
    assert await task == 0


async def test_a_stream_that_is_over_is_gone_without_a_search_for_garbage(world: World) -> None:
    principal = world.authority.authenticate((await world.issue("w-1", AgentType.WORKER)).value)

    async def handle() -> ref[object]:
        call = Call(principal, "Work", "", WORK, "blue")
        set_current_call(call)
        with world.authority.stream(call):
            return ref(call.stream)

    gc.collect()
    gc.disable()
    try:
        assert (await asyncio.create_task(handle()))() is None
    finally:
        gc.enable()
