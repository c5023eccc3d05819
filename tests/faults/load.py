"""Load for the fault tests: several clients that submit and read without pause, and write down all they see.

Clients do not retry: an answer that does not come leaves a submit unknown, which is what the oracle wants to know.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import Callable

from agentmesh import Mesh, MeshError, NotFound, task_spec
from agentmesh.v1.task_pb2 import Task, TaskState
from tests.faults.oracle import NOT_FOUND, TERMINAL, History, Read, Submit
from tests.faults.recording_worker import TASK_TYPE

BATCH_CLIENTS = 2
SINGLE_CLIENTS = 4
READ_CLIENTS = 2
_BATCH = 10
_PAUSE_S = 0.02
_LONG_PAUSE_S = 0.1
_WAIT_S = 30.0
#: Few enough open tasks that the workers keep up, so that each restart has a bounded past.
_MOST_OPEN = 400


class Load:
    """Runs the clients; `history` grows while they run, and `heard` is told of each answer at once."""

    def __init__(
        self, address: str, seed: int, heard: Callable[[Submit | Read], None] = lambda _: None
    ) -> None:
        self._address = address
        self._heard = heard
        self._rng = random.Random(seed)
        self._numbers = itertools.count(1)
        self.history = History()
        #: Acknowledged since the last call of `fresh`; load is under way when it is set.
        self.acknowledged = asyncio.Event()
        self._known: list[str] = []
        self._open: set[str] = set()
        #: Submits that were sent and not answered.
        self.unanswered: set[str] = set()

    async def run(self) -> None:
        """Runs until cancelled."""
        async with asyncio.TaskGroup() as clients:
            for number in range(BATCH_CLIENTS):
                clients.create_task(self._submit_batches(f"batch-{number}"))
            for number in range(SINGLE_CLIENTS):
                clients.create_task(self._submit_singles(f"single-{number}"))
            for number in range(READ_CLIENTS):
                clients.create_task(self._read_all_the_time(f"reader-{number}"))

    async def run_steadily(self, count: int) -> None:
        """Keeps so many tasks open, each the next one of a client that waits for the last; runs until cancelled."""
        async with asyncio.TaskGroup() as clients:
            for number in range(count):
                clients.create_task(self._submit_and_wait(f"steady-{number}"))

    def client(self) -> Mesh:
        """A client that tries once."""
        return Mesh(self._address, namespace="default", retry_for_s=0.0)

    async def settle(self, timeout_s: float) -> None:
        """Two more clients wait for every acknowledged task to end, and look for every task that was ever named."""
        acked = {submit.task_id for submit in self.history.submits if submit.acked}
        named = sorted({submit.task_id for submit in self.history.submits})
        deadline_s = time.monotonic() + timeout_s
        may_call = asyncio.Semaphore(32)

        async def look(mesh: Mesh, client: str, task_id: str) -> None:
            async with may_call:
                began_s = time.monotonic()
                try:
                    if task_id in acked and client == "judge-0":
                        task = await mesh.wait(task_id, timeout_s=max(0.0, deadline_s - began_s))
                    else:
                        task = await mesh.get(task_id)
                    self._saw(task, client, began_s)
                except NotFound:
                    self._saw_nothing(task_id, client, began_s)
                except MeshError:
                    return  # the oracle misses the look

        async with Mesh(self._address, namespace="default") as mesh:
            for client in ("judge-0", "judge-1"):
                await asyncio.gather(*(look(mesh, client, task_id) for task_id in named))

    async def _submit_batches(self, client: str) -> None:
        async with self.client() as mesh:
            while True:
                task_ids = [self._name() for _ in range(_BATCH)]
                self.unanswered.update(task_ids)
                try:
                    results = await mesh.submit_many(
                        [task_spec(TASK_TYPE, task_id=each) for each in task_ids]
                    )
                except MeshError:
                    self._submitted(client, task_ids, acked=False)
                    await asyncio.sleep(_LONG_PAUSE_S)
                    continue
                for result in results:
                    self._submitted(client, [result.task_id], acked=result.error is None)
                await asyncio.sleep(_LONG_PAUSE_S)
                await self._room()

    async def _submit_singles(self, client: str) -> None:
        async with self.client() as mesh:
            while True:
                task_id = self._name()
                self.unanswered.add(task_id)
                try:
                    await mesh.submit(TASK_TYPE, task_id=task_id, payload={"by": client})
                except MeshError:
                    self._submitted(client, [task_id], acked=False)
                    await asyncio.sleep(_LONG_PAUSE_S)
                    continue
                self._submitted(client, [task_id], acked=True)
                await asyncio.sleep(_PAUSE_S)
                await self._room()

    async def _submit_and_wait(self, client: str) -> None:
        async with self.client() as mesh:
            while True:
                task_id = self._name()
                try:
                    await mesh.submit(TASK_TYPE, task_id=task_id)
                    self._submitted(client, [task_id], acked=True)
                    began_s = time.monotonic()
                    self._saw(await mesh.wait(task_id, timeout_s=_WAIT_S), client, began_s)
                except MeshError:
                    await asyncio.sleep(_LONG_PAUSE_S)

    async def _read_all_the_time(self, client: str) -> None:
        async with self.client() as mesh:
            while True:
                await asyncio.sleep(_PAUSE_S / 10)
                if not self._known:
                    continue
                # Mostly what is open, so that the clients know what goes on; sometimes anything that ever was.
                task_id = self._rng.choice(
                    list(self._open) if self._open and self._rng.random() < 0.8 else self._known
                )
                began_s = time.monotonic()
                try:
                    if self._rng.random() < 0.5:
                        self._saw(await mesh.wait(task_id, timeout_s=0.2), client, began_s)
                    else:
                        self._saw(await mesh.get(task_id), client, began_s)
                except NotFound:
                    self._saw_nothing(task_id, client, began_s)
                except MeshError:
                    await asyncio.sleep(_PAUSE_S)

    async def _room(self) -> None:
        """Waits while too much is open. What readers have not seen end counts as open for a while only."""
        if len(self._open) > _MOST_OPEN:
            self._open.clear()
            await asyncio.sleep(5 * _PAUSE_S)

    def _name(self) -> str:
        return f"t{next(self._numbers)}"

    def _submitted(self, client: str, task_ids: list[str], *, acked: bool) -> None:
        ended_s = time.monotonic()
        for task_id in task_ids:
            submit = Submit(task_id, client, ended_s, acked)
            self.history.submits.append(submit)
            self._heard(submit)
            self.unanswered.discard(task_id)
            self._known.append(task_id)
            self._open.add(task_id)
        if acked:
            self.acknowledged.set()

    def _saw(self, task: Task, client: str, began_s: float) -> None:
        state = TaskState.Name(task.state).removeprefix("TASK_STATE_")
        output = task.output.inline if state == "SUCCEEDED" else b""
        task_id = task.spec.task_id
        self._noted(Read(task_id, client, began_s, time.monotonic(), state, output))
        if state in TERMINAL:
            self._open.discard(task_id)

    def _saw_nothing(self, task_id: str, client: str, began_s: float) -> None:
        self._noted(Read(task_id, client, began_s, time.monotonic(), NOT_FOUND))
        self._open.discard(task_id)

    def _noted(self, read: Read) -> None:
        self.history.reads.append(read)
        self._heard(read)
