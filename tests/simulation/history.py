"""Histories that people can read: one short line for everything that happened in a world."""

from __future__ import annotations

from typing import Any

from meshd.domain import commands as c
from meshd.domain.values import Agent, Session, Task


def plain(value: Any) -> Any:
    """Return something short to print for a value."""
    if isinstance(value, bytes):
        return f"{value[:3].hex()}/{int.from_bytes(value[8:12], 'big')}" if len(value) == 12 else repr(value)
    if isinstance(value, Task):
        return f"{value.spec.task_id}({value.state.name} #{value.attempt} gen {value.generation})"
    if isinstance(value, Session):
        return f"session {value.session_id} of {value.agent.spec.agent_id}"
    if isinstance(value, Agent):
        return f"agent {value.spec.agent_id}"
    if isinstance(value, c.Submit):
        return f"Submit {[spec.task_id for spec in value.specs]}"
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        shown = [
            f"{name}={plain(part)}"
            for name, part in zip(value._fields, value, strict=True)
            if name not in ("ticket", "stream", "resume_hash", "key_hash", "features", "requirements")
        ]
        return f"{type(value).__name__}({', '.join(shown)})"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(str(plain(each)) for each in value) + "]"
    return value
