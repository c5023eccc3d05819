"""Tells the log what an operator must know of agents and tasks.

Rule: at most one line a second of each kind, however many agents are lost at once; it counts all and names some.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Final

import structlog

from meshd.domain.effects import Effects
from meshd.domain.values import Health, OutcomeReason, TaskState

GATHERED_S: Final = 1.0
NAMED: Final = 5

log = structlog.get_logger()


class Notices:
    """Gathers for a second from the first on."""

    def __init__(self) -> None:
        self._lost: list[str] = []
        self._poisoned: list[str] = []
        self._causes: Counter[str] = Counter()
        self._count: Counter[str] = Counter()
        self._timer: asyncio.TimerHandle | None = None

    def note(self, namespace: str, out: Effects) -> None:
        """Look at what a turn did; nothing of it is kept but words."""
        if not (out.counts or out.ended):
            return
        if any(what == "lost" for what, _ in out.counts):
            for agent in out.changed_agents:
                if agent.health is Health.LOST:
                    self._add(self._lost, "lost", f"{namespace}/{agent.spec.agent_id}")
                    self._causes[agent.health_cause] += 1
        if (TaskState.FAILED, OutcomeReason.POISON) in out.ended:
            for task in out.changed:
                if task.outcome is OutcomeReason.POISON:
                    self._add(self._poisoned, "poisoned", f"{namespace}/{task.spec.task_id}")

    def write(self) -> None:
        """Write down what was gathered."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._lost:
            log.warning(
                "agents lost", count=self._count["lost"], agents=self._lost, causes=dict(self._causes)
            )
        if self._poisoned:
            log.warning(
                "tasks ended as poison: each was lost with as many agents as it may",
                count=self._count["poisoned"],
                tasks=self._poisoned,
            )
        self._lost, self._poisoned = [], []
        self._causes.clear()
        self._count.clear()

    def _add(self, named: list[str], kind: str, name: str) -> None:
        self._count[kind] += 1
        if len(named) < NAMED:
            named.append(name)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(GATHERED_S, self.write)
