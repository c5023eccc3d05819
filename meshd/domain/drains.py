"""Drains: rules by which agents get no new work, and which agents a selector means.

Invariant: a session is drained exactly while a drain in force matches its agent; ``Session.drained`` then says why. A
drain outlives sessions and restarts: it is looked up whenever a session begins or a drain comes or goes.
"""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase
from hashlib import sha256
from typing import NamedTuple

from meshd.domain.placement.matching import label_holds
from meshd.domain.values import AgentSpec, AgentType, LabelCondition


class AgentSelector(NamedTuple):
    """Which agents of a namespace are meant; all conditions must hold."""

    pattern: str = ""
    """Glob over agent ids with * and ?; "" is any."""
    labels: tuple[LabelCondition, ...] = ()
    """Sorted, so that the same conditions are the same selector."""
    type: AgentType | None = None

    def matches(self, spec: AgentSpec) -> bool:
        """Return whether an agent is meant."""
        return (
            (self.type is None or spec.type is self.type)
            and (not self.pattern or fnmatchcase(spec.agent_id, self.pattern))
            and all(label_holds(condition, spec.labels) for condition in self.labels)
        )


class Drain(NamedTuple):
    """A drain, in force until it is lifted: one row of the table ``drains``."""

    namespace: str
    drain_id: str
    selector: AgentSelector
    reason: str
    creator: str
    """Subject of the caller who started it."""
    create_ms: int
    lift_ms: int = 0
    """When it was lifted; 0 while it is in force."""

    @property
    def words(self) -> str:
        """Why a drained agent gets no work, for people."""
        return f"drained by {self.creator}" + (f": {self.reason}" if self.reason else "")


def drain_id(selector: AgentSelector) -> str:
    """Return the id of a selector's drain: the same selector is the same drain."""
    text = repr((selector.pattern, [(c.label, int(c.operator), c.values) for c in selector.labels]))
    kind = int(selector.type) if selector.type is not None else 0
    return sha256(f"{kind}{text}".encode()).hexdigest()[:16]


def words_for(drains: Iterable[Drain], spec: AgentSpec) -> str:
    """Return why an agent is drained, by the first drain that matches; "" when none does."""
    return next((drain.words for drain in drains if drain.selector.matches(spec)), "")
