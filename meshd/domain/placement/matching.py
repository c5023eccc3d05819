"""Whether an agent meets requirements, and how well. Requirements filter, preferences score."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from math import nan

from meshd.domain.values import AgentSpec, LabelCondition, LabelOperator, Requirements


def missing_capability(required: Requirements, agent: AgentSpec) -> str:
    """Return a required capability that the agent lacks, or "" when it has them all."""
    return min(required.capabilities - agent.capabilities, default="")


def failed_condition(required: Requirements, agent: AgentSpec) -> LabelCondition | None:
    """Return a required label condition that the agent does not meet, or None."""
    return next((c for c in required.labels if not label_holds(c, agent.labels)), None)


def fits(required: Requirements, agent: AgentSpec) -> bool:
    """Return whether the agent meets everything that is required."""
    return required.capabilities <= agent.capabilities and failed_condition(required, agent) is None


def score(required: Requirements, agent: AgentSpec) -> int:
    """Return how many preferences the agent meets."""
    return len(required.preferred_capabilities & agent.capabilities) + sum(
        label_holds(c, agent.labels) for c in required.preferred_labels
    )


def label_holds(condition: LabelCondition, labels: dict[str, str]) -> bool:
    """Return whether labels meet one condition."""
    return label_test(condition)(labels.get(condition.label))


def label_test(condition: LabelCondition) -> Callable[[str | None], bool]:
    """Return a test of the label's value, which is None without the label. What is no number meets no comparison."""
    operator, values = condition.operator, condition.values
    if operator is LabelOperator.EXISTS:
        return lambda value: value is not None
    if operator is LabelOperator.NOT_EXISTS:
        return lambda value: value is None
    if operator is LabelOperator.IN:
        return values.__contains__
    if operator is LabelOperator.NOT_IN:
        return lambda value: value not in values

    bound = _number(values[0])
    # Nothing is more or less than what is no number.
    if operator is LabelOperator.GREATER_THAN:
        return lambda value: value is not None and _number(value) > bound
    return lambda value: value is not None and _number(value) < bound


@lru_cache(4_096)  # a long label would be read anew for each task and agent
def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return nan
