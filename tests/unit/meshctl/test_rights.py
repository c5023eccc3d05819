"""What meshctl says of rights is what meshd decides by."""

from __future__ import annotations

import pytest

from meshctl import rights
from meshd.domain.access import ACCESS_TABLE


def test_it_is_the_table_of_meshd() -> None:
    assert {
        agent_type.name.lower(): (row.allowed_actions, row.allowed_resources)
        for agent_type, row in ACCESS_TABLE.items()
    } == rights.RIGHTS


@pytest.mark.parametrize(
    ("agent_type", "scope", "text"),
    [
        ("worker", [], "execute, read on results, tasks"),
        ("worker", ["read:*"], "read on results, tasks"),
        ("orchestrator", ["read:tasks", "write:tasks"], "read on tasks; write on tasks"),
        ("monitor", ["write:tasks"], "nothing: its type may not do what its scope names"),
        ("worker", ["read:audit"], "nothing: its type may not do what its scope names"),
        ("", [], "everything on everything"),
        ("", ["read:*"], "read on everything"),
        ("17", [], ""),
    ],
)
def test_the_scope_cuts_the_row_of_the_type(agent_type: str, scope: list[str], text: str) -> None:
    assert rights.text(agent_type, scope) == text
