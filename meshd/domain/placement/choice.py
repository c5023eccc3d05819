"""Chooses a session for one task by the task's strategy, preferences and past declines."""

from __future__ import annotations

from itertools import islice
from types import ModuleType

from meshd.domain.limits import PREFERENCE_SAMPLE
from meshd.domain.placement import least_loaded, round_robin
from meshd.domain.placement.pools import Pool
from meshd.domain.values import Session, Strategy, Task

STRATEGIES: dict[Strategy, ModuleType] = {
    Strategy.LEAST_LOADED: least_loaded,
    Strategy.ROUND_ROBIN: round_robin,
}


def has_preferences(task: Task) -> bool:
    """Return whether the task must be placed singly because agents score differently for it."""
    requirements = task.spec.requirements
    return bool(requirements.preferred_capabilities or requirements.preferred_labels)


def declines(task: Task, session: Session, now_mono: float) -> bool:
    """Return whether the session's agent declined the task and is not to be asked again yet."""
    return task.declined is not None and task.declined.get(session.agent.spec.agent_id, 0.0) > now_mono


def choose(pool: Pool, task: Task, now_mono: float) -> Session | None:
    """Return the session for a task, or None when every available one declined it."""
    strategy = STRATEGIES[task.spec.strategy]
    fitting = (s for s in strategy.candidates(pool) if not declines(task, s, now_mono))
    if has_preferences(task):
        sample = list(islice(fitting, PREFERENCE_SAMPLE))
        # max() keeps the first of equals, and the strategy's order is best first.
        best = max(sample, key=pool.score, default=None)
    else:
        best = next(fitting, None)
    if best is not None:
        strategy.chosen(pool, best)
    return best
