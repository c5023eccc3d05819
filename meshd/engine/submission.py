"""Taking tasks: admission first, then what the store knows of their ids, then the namespace.

Rule: refuse before anything is applied. What is refused here costs little and comes back with a time to retry.
"""

from __future__ import annotations

import secrets
from hashlib import sha256

from meshd.domain.access import Call
from meshd.domain.commands import LookAgain, Submit, Submitted
from meshd.domain.errors import Reason, Refusal
from meshd.domain.state import Namespace
from meshd.domain.values import TaskSpec
from meshd.engine.commits import disk_lags, shutting_down
from meshd.engine.known_tasks import KnownTasks
from meshd.engine.mesh import Entry, Mesh

STORAGE_RETRY_MS = 5_000


def new_task_id() -> str:
    """Return an id for a task whose caller chose none."""
    return f"t-{secrets.token_hex(8)}"


class Submission:
    """Admits tasks and brings them to their namespace."""

    def __init__(self, mesh: Mesh, known: KnownTasks, max_uncommitted_bytes: int) -> None:
        self._mesh = mesh
        self._max_uncommitted_bytes = max_uncommitted_bytes
        self._known = known

    def admit(self) -> None:
        """Refuse new work while much of it waits for the disk, that runs full, or the daemon goes down. Raises Refusal.

        While the disk lags behind, no audited call comes so far.
        """
        if self._mesh.closing:
            raise shutting_down()
        if self._mesh.commits.uncommitted_bytes > self._max_uncommitted_bytes:
            raise disk_lags()
        if self._mesh.store.low_space():
            message = (
                "meshd's disk is nearly full: new tasks wait until space is freed; results still come in"
            )
            raise Refusal(Reason.STORAGE_LOW, message, retry_ms=STORAGE_RETRY_MS)

    async def submit(
        self, ns: Namespace, specs: list[TaskSpec], call: Call, *, copies: bool
    ) -> list[Submitted | Refusal]:
        """Take tasks; return a result for each, durable."""
        if len(specs) == 1:
            entry = Entry(call, f"task:{specs[0].task_id}")
        else:
            ids = "\0".join(spec.task_id for spec in specs)
            entry = Entry(call, count=len(specs), digest=sha256(ids.encode()).digest())
        submitter = call.principal.subject
        while True:
            ended_seen = ns.ended_count
            known = await self._known.find(ns.name, [spec.task_id for spec in specs])
            reply = await self._mesh.ask(
                ns,
                lambda ticket, known=known, ended_seen=ended_seen: Submit(  # type: ignore[misc]
                    ticket, specs, submitter, known, ended_seen, copies
                ),
                entry,
            )
            if not isinstance(reply, LookAgain):
                results: list[Submitted | Refusal] = reply
                return results
