"""Conditions on labels as people write them: `zone=a,b`, `zone!=a`, `gpu`, `!gpu`, `memory>16`, `memory<64`."""

from __future__ import annotations

import re
from collections.abc import Iterable

from agentmesh.v1.requirements_pb2 import LabelCondition, LabelOperator

_FORM = re.compile(r"(?P<not>!)?(?P<label>[^!=<>,\s]+)\s*(?:(?P<operator>!=|=|<|>)(?P<value>.*))?", re.DOTALL)
_OPERATORS = {
    "=": LabelOperator.LABEL_OPERATOR_IN,
    "!=": LabelOperator.LABEL_OPERATOR_NOT_IN,
    ">": LabelOperator.LABEL_OPERATOR_GREATER_THAN,
    "<": LabelOperator.LABEL_OPERATOR_LESS_THAN,
}


def label_conditions(conditions: Iterable[LabelCondition | str]) -> list[LabelCondition]:
    """Returns conditions of the contract; texts among them are read. ValueError when one means no condition."""
    return [label_condition(item) if isinstance(item, str) else item for item in conditions]


def label_condition(text: str) -> LabelCondition:
    """Returns the condition a text means. ValueError when it means none.

    `zone=a,b`: the label is one of these. `zone!=a,b`: it is absent or none of these. `gpu`, `!gpu`: it is present,
    absent. `memory>16`, `memory<64`: it is a number above, below.
    """
    form = _FORM.fullmatch(text.strip())
    if form is None or (form["not"] and form["operator"]):
        raise ValueError(
            f"{text!r} is not a condition on a label: write zone=a,b or zone!=a or gpu or !gpu or memory>16"
        )
    if form["operator"] is None:
        operator = (
            LabelOperator.LABEL_OPERATOR_NOT_EXISTS if form["not"] else LabelOperator.LABEL_OPERATOR_EXISTS
        )
        return LabelCondition(label=form["label"], operator=operator)
    value = form["value"].strip()
    if form["operator"] in "<>":
        try:
            float(value)
        except ValueError:
            raise ValueError(f"{text!r} compares with {value!r}, which is not a number") from None
        return LabelCondition(label=form["label"], operator=_OPERATORS[form["operator"]], values=[value])
    values = [part.strip() for part in value.split(",")]
    return LabelCondition(label=form["label"], operator=_OPERATORS[form["operator"]], values=values)
