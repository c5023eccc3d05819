"""Port of durable state. One process owns it; exactly one thread ever writes.

Promise: when ``commit`` returns, everything in the batch survives a kill and a power loss (on storage that honours
fsync), all of it or nothing. When ``commit`` raises, the outcome is unknown and the process must stop. A full disk is no reason to
raise: ``commit`` waits until there is space, as it waits for a slow disk.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from meshd.domain.drains import Drain
from meshd.domain.records import (
    AuditRecord,
    IdentityRecord,
    JoinTokenRecord,
    RevocationRecord,
    SigningKeyRecord,
    Writes,
)
from meshd.domain.values import Agent, EndedAttempt, NamespaceInfo, Task, TaskState
from meshd.ports.gauges import StorageGauges

T = TypeVar("T")


class StorageError(Exception):
    """Durable state could not be read or written; the message says what and the next step."""


class StorageBrokenError(StorageError):
    """The disk fails, or what is on it is damaged: the process must stop, also when it only read."""


class StorageFullError(StorageError):
    """There was no space for a write, and nothing of it was taken: it may be written again."""


class StoredDigest(NamedTuple):
    """What is needed to recognise a repeated submit of a task that has ended."""

    task_id: str
    key: int
    digest: bytes
    state: TaskState


class TaskFilter(NamedTuple):
    """Conditions of a task list; all must hold."""

    namespaces: tuple[str, ...]
    states: tuple[TaskState, ...] = ()
    task_type: str = ""
    agent_id: str = ""
    before_key: int = 0
    """Only keys below this one; 0: all."""
    limit: int = 100


class AuditFilter(NamedTuple):
    """Conditions of an audit list; all must hold."""

    namespaces: tuple[str, ...]
    subject: str = ""
    method: str = ""
    denied_only: bool = False
    before: int = 0
    """Only records before this ``rest`` of an earlier answer; 0: all."""
    limit: int = 100


class Listed(NamedTuple, Generic[T]):
    """A page of a list."""

    found: list[T]
    rest: int
    """What to ask for before, to go on; 0: nothing is left."""


Stop = Callable[[], bool]
"""Asked again and again while a list looks for matches: True ends the page with what was found so far."""


def never() -> bool:
    """Let a list look until its page is full."""
    return False


@dataclass(slots=True)
class Restored:
    """Everything a start needs in memory."""

    namespaces: list[NamespaceInfo]
    """With their epoch already raised and durable."""
    agents: list[Agent]
    """With ``session`` set (held empty) where the session had not ended."""
    tasks: list[Task]
    """Open tasks in order of key; payload dropped."""
    next_key: int
    drains: list[Drain]
    """Those in force."""
    join_tokens: list[JoinTokenRecord]
    identities: list[IdentityRecord]
    revocations: list[RevocationRecord]
    signing_keys: list[SigningKeyRecord]
    audit_heads: dict[str, tuple[int, bytes]]
    """namespace -> (sequence, hash) of its newest record."""
    token_watermark_ms: int = 0
    """Tokens issued up to then are refused: the mesh was restored from a backup at that time. 0: it never was."""


class Predecessor(NamedTuple):
    """What the database that a backup replaces still tells."""

    identities: list[IdentityRecord]
    revocations: list[RevocationRecord]
    epochs: dict[str, int]
    """namespace -> epoch."""
    newest_ms: int
    """Time of its newest audit record; 0 without one."""


class Store(Protocol):
    """Durable state of the mesh."""

    def load(self) -> Restored:
        """Raise every namespace's epoch durably and return what a start needs. Raises StorageError."""

    def snapshot(self, writes: Writes) -> Any:
        """Copy everything mutable into rows. Called on the event loop; fast, no I/O."""

    def commit(self, batch: Any) -> None:
        """Make a snapshot durable. Called on the one writer thread. Raises StorageError."""

    def low_space(self) -> bool:
        """True when the storage is so full that new work must be refused."""

    def measure(self) -> StorageGauges:
        """Return what the store takes of its disk, and what is left. Called on any thread; never raises."""

    # Reads see every commit that returned before. They may be called on any thread and may block on the disk.

    def find_digests(self, namespace: str, task_ids: list[str]) -> list[StoredDigest]:
        """Return those of the ids that are durable, open or ended."""

    def list_ids(self, after_key: int, limit: int) -> list[tuple[int, str, str]]:
        """Return (key, namespace, task id) of tasks above a key, open or ended, in order of key."""

    def get_task(self, namespace: str, task_id: str) -> Task | None:
        """Return a task without payload, or None."""

    def get_payload(self, key: int) -> bytes:
        """Return the encoded input of a task; b"" when there is none."""

    def get_payloads(self, keys: list[int]) -> dict[int, bytes]:
        """Return the encoded inputs of several tasks."""

    def get_output(self, key: int) -> bytes:
        """Return the encoded result of a task; b"" when there is none."""

    def list_attempts(self, key: int, limit: int) -> list[EndedAttempt]:
        """Return the newest ended attempts of a task, oldest first."""

    # A list may look at everything there is, so it stops when told to; it has come on by then, if only a little.

    def list_tasks(self, condition: TaskFilter, stop: Stop = never) -> Listed[Task]:
        """Return tasks, newest first, without payloads."""

    def list_audit(self, condition: AuditFilter, stop: Stop = never) -> Listed[AuditRecord]:
        """Return audit records, newest first."""

    def sweep(self, ended_before_ms: int, limit: int) -> int:
        """Delete up to ``limit`` tasks that ended before; called on the writer thread. Returns how many went."""

    def close(self) -> None:
        """Checkpoint and release the lock."""
