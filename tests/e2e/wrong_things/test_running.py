"""Wrong things that happen to a mesh at work: its disk fills up, it goes away, it is interrupted."""

from __future__ import annotations

import json
import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.wrong_things import page
from tests.e2e.wrong_things.house import House
from tests.e2e.wrong_things.small_disk import SmallDisk
from tests.faults.meshd_process import ChildProcess


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with SmallDisk(tmp_path / "data", 16) as disk:
        yield disk


def test_a_disk_that_runs_full(own_house: Callable[..., House], disk: SmallDisk) -> None:
    house = own_house(before=disk.inside, arguments=("--min-free-mib", "2"))
    house.submit("unwanted", "nobody-takes-this")
    disk.fill(leave_kib=1_024)
    time.sleep(1.1)  # the space is looked up once a second
    refused = house.meshctl("execute", "--task-type", "t", "--task-id", "t1").must_be_clear()
    page.check("A disk that runs full", str(refused))
    house.must_have_lost_nothing()
    assert house.meshctl("task", "cancel", "unwanted").code == 0
    disk.free()
    time.sleep(1.1)
    house.submit("welcome", "nobody-takes-this")


def test_a_disk_without_any_space(own_house: Callable[..., House], disk: SmallDisk) -> None:
    house = own_house(before=disk.inside, arguments=("--min-free-mib", "1"))
    disk.fill()
    late = house.meshctl("namespace", "create", "blue")
    while late.code == 0:  # what the log and the reserve had room for
        late = house.meshctl("namespace", "create", f"blue-{time.monotonic_ns()}")
    disk.free()
    late.must_be_clear()
    page.check("A disk without any space", re.sub(r"blue-\d+", "blue", str(late)))
    assert "the disk is full" in house.meshd.log_tail()
    time.sleep(1.1)
    house.submit("welcome", "nobody-takes-this")
    assert house.meshd.running
    house.must_have_lost_nothing()


def told(house: House, line: str) -> str:
    """A line of meshd's log without its time and padding."""
    return house.as_on_a_host(re.sub(r" +", " ", line.partition("] ")[2])).strip()


def worker(house: House) -> ChildProcess:
    return ChildProcess.python(
        "worker",
        "tests.e2e.worker_process",
        house.folder,
        AGENTMESH_ADDRESS=house.meshd.address,
        AGENTMESH_AGENT_ID="worker-1",
        AGENTMESH_NAMESPACE="default",
        AGENTMESH_STATE_DIR=str(house.folder / "state"),
    )


EXECUTE = ("execute", "--task-type", "data-processing", "--task-id", "t1", "--payload", "1")


def test_meshd_goes_in_the_middle_of_execute(own_house: Callable[..., House]) -> None:
    house = own_house()
    process = house.start(*EXECUTE)
    assert process.stderr is not None
    lines = [process.stderr.readline()]  # why nobody takes it: now it waits
    house.meshd.kill()
    while "lost the connection" not in lines[-1]:
        lines.append(process.stderr.readline())
        assert lines[-1], lines
    house.meshd.start()
    with worker(house):
        seen = house.finished(EXECUTE, process)
    assert (seen.code, json.loads(seen.out)) == (0, {"got": 1})
    page.check(
        "meshd goes away in the middle of execute",
        f"$ {seen.command}\n" + house.as_on_a_host(lines[-1]) + "…\n" + seen.out + "(exit code 0)",
    )
    house.must_have_lost_nothing()


def test_ctrl_c_in_execute_and_watch_leaves_the_task(own_house: Callable[..., House]) -> None:
    house = own_house()
    process = house.start(*EXECUTE)
    assert process.stderr is not None
    process.stderr.readline()  # why nobody takes it: now it waits
    seen = house.interrupted(EXECUTE, process).must_be_clear()
    page.check("Ctrl-C in execute", str(seen))
    watch = ("task", "watch", "t1")
    watching = house.start(*watch)
    assert watching.stderr is not None
    watching.stderr.readline()
    assert house.interrupted(watch, watching).code == 130
    assert house.meshctl("task", "get", "t1").code == 0
    house.must_have_lost_nothing()


def test_ctrl_c_in_meshd(own_house: Callable[..., House]) -> None:
    house = own_house()
    house.meshd._signal(signal.SIGINT)
    assert house.meshd.wait(10) == 0
    log = house.meshd.log_tail()
    assert "Traceback" not in log
    page.check(
        "Ctrl-C in meshd", "$ meshd\n^C\n" + "\n".join(told(house, line) for line in log.splitlines()[-2:])
    )
    house.meshd.start()
    house.must_have_lost_nothing()
