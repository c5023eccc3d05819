"""Conditions on labels as people write them."""

from __future__ import annotations

import pytest

from agentmesh.conditions import label_condition
from agentmesh.v1.requirements_pb2 import LabelOperator


@pytest.mark.parametrize(
    ("text", "label", "operator", "values"),
    [
        ("zone=a", "zone", "IN", ["a"]),
        (" zone = a, b ", "zone", "IN", ["a", "b"]),
        ("zone=", "zone", "IN", [""]),
        ("zone!=a,b", "zone", "NOT_IN", ["a", "b"]),
        ("example.com/gpu", "example.com/gpu", "EXISTS", []),
        ("!gpu", "gpu", "NOT_EXISTS", []),
        ("memory>16", "memory", "GREATER_THAN", ["16"]),
        ("memory < 1.5", "memory", "LESS_THAN", ["1.5"]),
        ("url=http://x?a=b", "url", "IN", ["http://x?a=b"]),
    ],
)
def test_a_text_means_a_condition(text: str, label: str, operator: str, values: list[str]) -> None:
    condition = label_condition(text)
    assert condition.label == label
    assert LabelOperator.Name(condition.operator) == f"LABEL_OPERATOR_{operator}"
    assert list(condition.values) == values


@pytest.mark.parametrize("text", ["", "=a", "!zone=a", "memory>much", "two words", "a>=1", "!"])
def test_other_texts_are_refused_with_examples(text: str) -> None:
    with pytest.raises(ValueError, match=r"write zone=a|not a number"):
        label_condition(text)
