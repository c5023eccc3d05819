"""What the store knows of submitted ids: mostly nothing, and then it is not asked.

Rule: an id that a filter may hold is looked up; one that no filter holds was never taken, here or before the start.
Until the ids of earlier lives are learnt, and when there are too many to keep, every id is looked up. Lookups that come
while one is under way go together in the next. None may miss a task that left memory while its commit waits for the disk.
"""

from __future__ import annotations

import asyncio

from meshd.domain.commands import KnownTask
from meshd.domain.errors import Refusal
from meshd.engine.commits import Commits
from meshd.engine.id_filter import IdFilter
from meshd.ports.store import Store

Known = dict[str, KnownTask]

MAX_FILTER_BYTES = 64 * 1024 * 1024
"""Of each filter, room for about 30 million ids; when there are more, each id is looked up."""
PIECE = 5_000
"""Ids learnt at a time."""


class KnownTasks:
    """Knows which ids are new, and asks the store about the others."""

    def __init__(self, store: Store, commits: Commits) -> None:
        self._store = store
        self._commits = commits
        self._taken: IdFilter | None = IdFilter()
        """Ids submitted in this life of the daemon; None once they are too many."""
        self._stored: IdFilter | None = None
        """Ids of earlier lives, once they are learnt."""
        self._waiting: list[tuple[str, list[str], asyncio.Future[Known]]] = []
        self._running: asyncio.Task[None] | None = None

    async def learn(self) -> None:
        """Read the ids of earlier lives, beside everything else; end early when meshd does. Raises StorageError."""
        stored = IdFilter()
        last_key = 0
        while stored.size_bytes <= MAX_FILTER_BYTES:
            try:
                found = await self._commits.read(self._learn_piece, stored, last_key)
            except Refusal:
                return
            if not found:
                self._stored = stored
                return
            last_key = found

    def _learn_piece(self, stored: IdFilter, after_key: int) -> int:
        """Add some ids; return the key of the last, 0 after the end. Runs on a reader thread."""
        ids = self._store.list_ids(after_key, PIECE)
        for _, namespace, task_id in ids:
            stored.add(hash((namespace, task_id)))
        return ids[-1][0] if ids else 0

    async def find(self, namespace: str, task_ids: list[str]) -> Known:
        """Return what the store knows of the ids, which count as taken from now on. Raises Refusal or StorageError."""
        maybe = [task_id for task_id in task_ids if self._may_know(namespace, task_id)]
        if self._taken is not None and self._taken.size_bytes > MAX_FILTER_BYTES:
            self._taken = None
        if not maybe:
            return {}
        await self._commits.recall()
        future: asyncio.Future[Known] = asyncio.get_running_loop().create_future()
        self._waiting.append((namespace, maybe, future))
        if self._running is None:
            self._running = asyncio.create_task(self._run())
        return await future

    def _may_know(self, namespace: str, task_id: str) -> bool:
        if self._taken is None:
            return True
        id_hash = hash((namespace, task_id))
        taken = self._taken.add(id_hash)
        return taken or self._stored is None or self._stored.holds(id_hash)

    async def _run(self) -> None:
        try:
            while self._waiting:
                batch, self._waiting = self._waiting, []
                try:
                    answers = await self._commits.read(self._find_all, [(ns, ids) for ns, ids, _ in batch])
                except Exception as error:  # noqa: BLE001  # whatever it is belongs to those who asked
                    for _, _, future in batch:
                        if not future.done():
                            future.set_exception(error)
                    continue
                for (_, _, future), known in zip(batch, answers, strict=True):
                    if not future.done():
                        future.set_result(known)
        finally:
            self._running = None

    def _find_all(self, questions: list[tuple[str, list[str]]]) -> list[Known]:
        by_namespace: dict[str, list[str]] = {}
        for namespace, task_ids in questions:
            by_namespace.setdefault(namespace, []).extend(task_ids)
        known = {
            namespace: {
                d.task_id: KnownTask(d.key, d.digest) for d in self._store.find_digests(namespace, task_ids)
            }
            for namespace, task_ids in by_namespace.items()
        }
        return [known[namespace] for namespace, _ in questions]
