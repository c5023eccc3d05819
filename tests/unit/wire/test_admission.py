"""When calls are refused because too many wait, by a number of open calls and a clock that the tests set."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest
from grpc_health.v1 import health_pb2

from agentmesh.v1 import auth_service_pb2, registry_service_pb2, scheduler_service_pb2
from meshd.ports.observer import Observer
from meshd.wire import admission as admission_module
from meshd.wire.access_rules import load_rules
from meshd.wire.admission import (
    FEW,
    FEW_STREAMS,
    IDLE_SHARE,
    LOOK_COST,
    LOOK_INTERVAL_S,
    ONE_IN,
    PATIENCE_S,
    REFUSALS_PER_S,
    SHORT_LOOK_S,
    Admission,
)

PER_LOOK = int(REFUSALS_PER_S * LOOK_INTERVAL_S)


class Clock:
    """Wall and processor time of the loop's thread."""

    def __init__(self) -> None:
        self.mono_s = 100.0
        self.cpu_s = 50.0

    def monotonic(self) -> float:
        return self.mono_s

    def thread_time(self) -> float:
        return self.cpu_s


class Door:
    """An admission of which the tests are the core and the clock."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.admission = Admission(cast("Observer", None))

    def look(self, open_calls: int, *, taken: int = 0, busy_share: float = 1.0) -> int:
        """Let one interval pass in which calls were taken; return how many of them were refused."""
        refused = sum(self.admission.refuses() for _ in range(taken))
        self.pass_time(busy_share)
        self.admission.look(open_calls)
        return refused

    def pass_time(self, busy_share: float) -> None:
        """Let one interval pass of which the loop uses a share."""
        self.clock.mono_s += LOOK_INTERVAL_S
        self.clock.cpu_s += LOOK_INTERVAL_S * busy_share


@pytest.fixture
def door(monkeypatch: pytest.MonkeyPatch) -> Door:
    clock = Clock()
    monkeypatch.setattr(admission_module, "time", clock)
    return Door(clock)


def settle(door: Door, open_calls: int, taken: int) -> None:
    """Let the rate of calls become known."""
    for _ in range(40):
        door.look(open_calls, taken=taken)


def test_nobody_is_refused_while_calls_wait_for_less_than_the_patience(door: Door) -> None:
    taken = 400
    per_s = taken / LOOK_INTERVAL_S
    settle(door, int(per_s * PATIENCE_S * 0.9), taken)
    assert door.admission.wait_s == pytest.approx(PATIENCE_S * 0.9, rel=0.01)
    assert door.look(0, taken=taken) == 0


def test_a_few_slow_calls_are_no_flood(door: Door) -> None:
    settle(door, FEW, 1)
    assert door.admission.wait_s > PATIENCE_S
    assert door.look(FEW + 1, taken=10) == 0
    assert door.look(FEW + 1, taken=5 * ONE_IN) == 5


def test_beyond_it_some_are_refused_and_never_more_than_every_fourth(door: Door) -> None:
    taken = 2 * PER_LOOK * ONE_IN
    settle(door, int(taken / LOOK_INTERVAL_S * PATIENCE_S * 1.2), taken)
    assert door.look(9_000, taken=taken) == PER_LOOK
    assert door.look(9_000, taken=10 * ONE_IN) == 10
    door.look(0, taken=taken)
    assert door.look(0, taken=taken) == 0


def test_calls_in_work_and_streams_do_not_wait(door: Door) -> None:
    for _ in range(5_000):
        door.admission.__enter__()
    settle(door, 5_000, 10)
    assert door.admission.waiting == 0
    for _ in range(5_000):
        door.admission.__exit__(None, None, None)
    door.look(5_000)
    assert door.admission.waiting == 5_000


def test_calls_that_the_core_shed_are_forgotten_once_the_loop_has_time(door: Door) -> None:
    settle(door, 3_000, 10)
    assert door.admission.waiting == 3_000
    door.look(3_000, busy_share=IDLE_SHARE)
    assert door.admission.waiting == 0
    door.look(3_100)
    assert door.admission.waiting == 100
    # What was taken for shed calls and has ended were calls that waited.
    door.look(1_000)
    door.look(1_200)
    assert door.admission.waiting == 200


def test_agents_and_operators_are_never_refused() -> None:
    services: list[Any] = [
        (registry_service_pb2, "RegistryService"),
        (scheduler_service_pb2, "SchedulerService"),
        (auth_service_pb2, "AuthService"),
        (health_pb2, "Health"),
    ]
    names = [module.DESCRIPTOR.services_by_name[name].full_name for module, name in services]
    admission = Admission(cast("Observer", None))
    refused = {
        served.name
        for served in load_rules(names).values()
        if admission.refusing(served.name, served.rule) is not None
    }
    assert {"SubmitTask", "SubmitTasks", "GetTask", "ListTasks"} <= refused
    spared = {"RegisterAgent", "DeregisterAgent", "Join", "RenewToken", "RevokeToken", "Check"}
    assert not refused & (spared | {"WaitTask", "CancelTask"})


async def test_a_loop_with_time_to_itself_is_not_kept_from_its_work_by_looks(door: Door) -> None:
    async def worth(busy_share: float, taken: int = 0) -> bool:
        for _ in range(taken):
            door.admission.refuses()
        door.pass_time(busy_share)
        return await door.admission.worth_a_look()

    assert not await worth(0.5)
    assert not await worth(0.5, taken=40)
    assert await worth(0.9)
    door.admission.look(0)
    # One more look when it is quiet again, for the calls that the core counts for ever.
    assert await worth(0.1)
    door.admission.look(7)
    assert not await worth(0.1)
    assert await worth(0.1, taken=1_000)


def taking_long(door: Door, asked: list[float]) -> Callable[[], int]:
    """Return a count of open calls that takes long, since there are many connections; notes when it was asked."""

    def count() -> int:
        asked.append(door.clock.mono_s)
        door.clock.cpu_s += 2 * SHORT_LOOK_S
        return door.admission.in_work

    return count


@asynccontextmanager
async def calls(door: Door, every: int, *, spared: bool) -> AsyncIterator[None]:
    """Have a call taken every so many turns of the loop."""

    async def take() -> None:
        while True:
            door.admission.refuses(spared=spared)
            for _ in range(every):
                await asyncio.sleep(0)

    taking = asyncio.create_task(take())
    try:
        yield
    finally:
        taking.cancel()


CROWDS = pytest.mark.parametrize(
    ("every", "spared", "looks"), [(4, False, True), (8, False, False), (1, True, False)]
)


@CROWDS
async def test_after_a_look_that_took_long_the_next_is_for_a_crowd_only(
    door: Door, every: int, spared: bool, looks: bool
) -> None:
    asked: list[float] = []
    count = taking_long(door, asked)
    async with calls(door, every, spared=spared):
        for _ in range(2):
            door.pass_time(1.0)
            await door.admission.look_if_worth(count)
        assert len(asked) == 1, "the next one is due later"
        while door.clock.mono_s < asked[0] + 2 * LOOK_COST * SHORT_LOOK_S:
            door.pass_time(1.0)
        await door.admission.look_if_worth(count)
    assert len(asked) == 1 + looks


@CROWDS
async def test_many_streams_are_looked_at_for_a_crowd_only(
    door: Door, every: int, spared: bool, looks: bool
) -> None:
    for _ in range(FEW_STREAMS + 1):
        door.admission.__enter__()
    asked: list[float] = []
    async with calls(door, every, spared=spared):
        door.pass_time(1.0)
        await door.admission.look_if_worth(taking_long(door, asked))
    assert len(asked) == looks


async def test_after_a_crowd_nobody_is_refused_though_the_next_look_is_far(door: Door) -> None:
    def many_connections() -> int:
        door.clock.cpu_s += 2 * SHORT_LOOK_S
        return 9_000

    settle(door, 9_000, 400)
    door.pass_time(1.0)
    await door.admission.look_if_worth(many_connections)
    assert sum(door.admission.refuses() for _ in range(40)) == 10
    door.pass_time(0.1)
    await door.admission.look_if_worth(
        many_connections
    )  # One more is due, to count what is left, but not so soon.
    door.pass_time(1.0)
    await door.admission.look_if_worth(many_connections)
    assert not any(door.admission.refuses() for _ in range(40))


def test_calls_that_are_spared_leave_the_refusals_to_the_others(door: Door) -> None:
    settle(door, 9_000, 400)
    door.look(9_000, taken=400)
    spared = [door.admission.refuses(spared=True) for _ in range(2 * PER_LOOK)]
    assert not any(spared)
    assert sum(door.admission.refuses() for _ in range(4 * PER_LOOK)) == PER_LOOK
