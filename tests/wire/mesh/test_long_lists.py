"""Lists that look at much for few matches: they hold up nobody else, and end with their caller."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from agentmesh.v1 import auth_service_pb2, registry_service_pb2
from agentmesh.v1 import scheduler_service_pb2 as pb
from meshd.engine import commits
from meshd.store import reads
from meshd.store.sqlite import SqliteStore
from tests.wire.mesh.conftest import RunningMesh


class Lists:
    """Takes the place of a store's lists: they look until told to stop."""

    def __init__(self) -> None:
        self.begun = threading.Semaphore(0)
        self.ended = threading.Semaphore(0)
        self.over = threading.Event()

    def list_tasks(self, _condition: Any, stop: Callable[[], bool] = lambda: False) -> Any:
        self.begun.release()
        while not (stop() or self.over.wait(0.01)):
            pass
        self.ended.release()
        return [], 0


@pytest.fixture
def lists(mesh: RunningMesh, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lists]:
    """Lists of tasks without an end of their own."""
    made = Lists()
    monkeypatch.setattr(SqliteStore, "list_tasks", lambda _store, *given: made.list_tasks(*given))
    monkeypatch.setattr(commits, "LIST_TIME_S", 3_600.0)
    yield made
    made.over.set()


async def test_lists_hold_up_no_other_read(mesh: RunningMesh, lists: Lists) -> None:
    await mesh.submit("t1")
    called = [mesh.operator.scheduler.ListTasks(pb.ListTasksRequest()) for _ in range(8)]
    assert await asyncio.to_thread(lists.begun.acquire, timeout=10)
    async with asyncio.timeout(10):
        await mesh.operator.scheduler.GetTask(pb.GetTaskRequest(namespace="default", task_id="t1"))
        await mesh.operator.registry.GetMeshStatus(registry_service_pb2.GetMeshStatusRequest())
        lists.over.set()
        await asyncio.gather(*called)


async def test_a_list_ends_when_its_caller_has_gone(mesh: RunningMesh, lists: Lists) -> None:
    called = mesh.operator.scheduler.ListTasks(pb.ListTasksRequest())
    assert await asyncio.to_thread(lists.begun.acquire, timeout=10)
    called.cancel()
    assert await asyncio.to_thread(lists.ended.acquire, timeout=10)


async def test_a_list_whose_time_is_over_goes_on_on_its_next_page(
    mesh: RunningMesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(30):
        await mesh.submit(f"t{number}", "rare" if number in (0, 10) else "work")
    monkeypatch.setattr(commits, "LIST_TIME_S", 0.0)
    monkeypatch.setattr(reads, "LOOKED_AT_ONCE", 4)
    tasks = pb.ListTasksRequest(task_type="rare", page_size=2)
    pages = await pages_of(mesh.operator.scheduler.ListTasks, tasks)
    assert [task.spec.task_id for page in pages for task in page.tasks] == ["t10", "t0"]
    assert len(pages) > 5
    records = auth_service_pb2.ListAuditEventsRequest(namespace="default", method="SubmitTask", page_size=2)
    pages = await pages_of(mesh.operator.auth.ListAuditEvents, records)
    found = [event.object for page in pages for event in page.events]
    assert found == [f"task:t{number}" for number in reversed(range(30))]


async def pages_of(method: Callable[[Any], Awaitable[Any]], request: Any) -> list[Any]:
    pages: list[Any] = []
    while not pages or request.page_token:
        pages.append(await method(request))
        request.page_token = pages[-1].next_page_token
    return pages
