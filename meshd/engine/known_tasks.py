"""Looks up which submitted ids are durable already. Lookups that come while one is under way go together in the next."""

from __future__ import annotations

import asyncio

from meshd.domain.commands import KnownTask
from meshd.engine.commits import Commits
from meshd.ports.store import Store

Known = dict[str, KnownTask]


class KnownTasks:
    """Coalesced lookups of task ids in the store."""

    def __init__(self, store: Store, commits: Commits) -> None:
        self._store = store
        self._commits = commits
        self._waiting: list[tuple[str, list[str], asyncio.Future[Known]]] = []
        self._running: asyncio.Task[None] | None = None

    async def find(self, namespace: str, task_ids: list[str]) -> Known:
        """Return what the store knows of the ids. Raises StorageError."""
        future: asyncio.Future[Known] = asyncio.get_running_loop().create_future()
        self._waiting.append((namespace, task_ids, future))
        if self._running is None:
            self._running = asyncio.create_task(self._run())
        return await future

    async def _run(self) -> None:
        try:
            while self._waiting:
                # A hop to another thread costs more than the look itself: go together when there is company.
                if window_s := self._commits.window_s:
                    await asyncio.sleep(window_s)
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
