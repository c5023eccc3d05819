"""SIGTERM: meshd goes in good order and comes back to what its agents hold; agents finish first, within bounds."""

from __future__ import annotations

import asyncio
import time

import pytest

from agentmesh.v1 import agent_pb2, task_pb2
from tests.e2e.house import House

EXIT_BOUND_S = 5.0


async def test_meshd_leaves_within_its_bound_and_nothing_is_repeated(house: House) -> None:
    for name in ("w1", "w2"):
        house.worker(name)
    for n in range(4):
        await house.mesh.submit("nap", str(EXIT_BOUND_S + 2), task_id=f"t{n}")
        await house.until_begun(f"t{n}")
    # A call that would last longer than meshd does; it goes on after the restart.
    watching = house.mesh.watch("t0")
    await anext(watching)
    start_s = time.monotonic()
    house.meshd.terminate()
    assert await asyncio.to_thread(house.meshd.wait, EXIT_BOUND_S) == 0
    print(f"meshd left within {time.monotonic() - start_s:.2f} s")
    house.meshd.start()
    assert [event.task async for event in watching][-1].state == task_pb2.TASK_STATE_SUCCEEDED
    tasks = [await house.mesh.wait(f"t{n}") for n in range(4)]
    assert [task.state for task in tasks] == [task_pb2.TASK_STATE_SUCCEEDED] * 4
    assert [(task.attempt.number, task.loss_count) for task in tasks] == [(1, 0)] * 4


async def test_an_agent_finishes_what_it_runs_and_takes_nothing_new(house: House) -> None:
    worker = house.worker("w1")
    # Long enough to see it drain on a machine that is busy with other work.
    await house.mesh.submit("nap", "5", task_id="running")
    await house.until_begun("running")
    worker.terminate()
    await house.until_draining("w1")
    await house.mesh.submit("nap", "0", task_id="later")
    assert await asyncio.to_thread(worker.wait, 10.0) == 0
    running, later = await house.mesh.get("running"), await house.mesh.get("later")
    assert (running.state, running.attempt.number) == (task_pb2.TASK_STATE_SUCCEEDED, 1)
    assert (later.state, later.attempt.number) == (task_pb2.TASK_STATE_QUEUED, 0)
    agent = await house.mesh.get_agent("w1")
    assert (agent.health, agent.health_cause) == (agent_pb2.HEALTH_DECLARED, "the agent leaves")


@pytest.mark.parametrize("task_type", ["nap", "burn"])
async def test_what_is_not_finished_within_the_grace_goes_to_others(house: House, task_type: str) -> None:
    worker = house.worker("w1", DRAIN_TIMEOUT_S="1")
    await house.mesh.submit(task_type, "120", task_id="long")
    await house.until_begun("long")
    house.worker("w2")
    start_s = time.monotonic()
    worker.terminate()
    assert await asyncio.to_thread(worker.wait, 10.0) == 0
    assert time.monotonic() - start_s >= 1.0
    await handed_over_to(house, "w2")


@pytest.mark.parametrize("task_type", ["nap", "burn", "stubborn"])
async def test_a_second_signal_ends_an_agent_at_once(house: House, task_type: str) -> None:
    worker = house.worker("w1")
    await house.mesh.submit(task_type, "120", task_id="long")
    await house.until_begun("long")
    house.worker("w2")
    worker.terminate()
    await house.until_draining("w1")
    worker.terminate()
    assert await asyncio.to_thread(worker.wait, 5.0) == 0
    await handed_over_to(house, "w2")


async def handed_over_to(house: House, agent_id: str) -> None:
    """The task goes on as a second attempt that nothing was charged for."""
    async with asyncio.timeout(5):
        async for event in house.mesh.watch("long"):
            task = event.task
            if task.attempt.number == 2:
                # It would go on for longer than anybody waits.
                house.workers[agent_id].kill()
                assert (task.attempt.agent_id, task.loss_count, task.failure_count) == (agent_id, 0, 0)
                return


async def test_an_agent_leaves_while_meshd_is_away(house: House) -> None:
    # When meshd dies before its Ack has come, the agent keeps the result for as long as it may.
    worker = house.worker("w1", DRAIN_TIMEOUT_S="1")
    await house.mesh.submit("nap", "0", task_id="first")
    await house.mesh.wait("first")
    house.meshd.kill()
    worker.terminate()
    assert await asyncio.to_thread(worker.wait, 10.0) == 0
