"""Those parts of docs/concepts.md that the code knows better: state diagram, access table, limits.

People write the page; each part stands between two marks, `<!-- made: NAME -->` and `<!-- end: NAME -->`.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from docs.generate.markdown import table
from meshd.domain import limits
from meshd.domain.access import ACCESS_TABLE, ANY
from meshd.domain.transitions import TABLE
from meshd.domain.values import AgentType, TaskState

PAGE: Final = Path(__file__).resolve().parents[1] / "concepts.md"


def page() -> str:
    """Return the page as it stands, with its parts made anew. Raises ValueError when one has no place."""
    text = PAGE.read_text()
    for name, part in (("states", states()), ("access", access()), ("limits", sizes())):
        begin, end = f"<!-- made: {name} -->", f"<!-- end: {name} -->"
        pattern = re.compile(f"{begin}.*?{end}", re.DOTALL)
        if len(pattern.findall(text)) != 1:
            raise ValueError(f"docs/concepts.md needs {begin} and {end} once: the part stands between them")
        text = pattern.sub(f"{begin}\n{part}{end}", text)
    return text


def states() -> str:
    """Return the diagram in Mermaid: one arrow for each pair of states, with what moves a task along it."""
    arrows: dict[tuple[TaskState, TaskState], list[str]] = {}
    for (before, event), after in TABLE.items():
        arrows.setdefault((before, after), []).append(event.name.lower())
    lines = ["```mermaid", "stateDiagram-v2", "    [*] --> QUEUED: submit"]
    lines += [f"    {a.name} --> {b.name}: {', '.join(events)}" for (a, b), events in arrows.items()]
    final = [state for state in TaskState if all(before is not state for before, _ in TABLE)]
    lines += [f"    {state.name} --> [*]" for state in final]
    return "\n".join([*lines, "```", ""])


def access() -> str:
    """Return the access table."""
    rows = []
    for agent_type, rights in ACCESS_TABLE.items():
        parts = (rights.allowed_actions, rights.allowed_resources, rights.denied_actions)
        rows.append([agent_type.name.lower(), *(_words(part) for part in parts)])
    assert len(rows) == len(AgentType)
    return table(["Type", "May", "On", "Never"], rows)


def _words(words: Iterable[str]) -> str:
    return ", ".join("everything" if word == ANY else word for word in sorted(words))


def sizes() -> str:
    """Return the limits on what callers send."""
    kib = limits.KIB
    rows = [
        ("A message in either direction", f"{limits.MAX_MESSAGE_BYTES // kib:,} KiB"),
        ("Frames in a message of a stream", f"{limits.MAX_MESSAGE_FRAMES:,}"),
        ("An inline payload, a result", f"{limits.MAX_INLINE_BYTES // kib} KiB"),
        ("The same with its media type and metadata", f"{limits.MAX_PAYLOAD_BYTES // kib} KiB"),
        ("A media type", f"{limits.MAX_MEDIA_TYPE_BYTES} bytes"),
        (
            "Metadata of a payload",
            f"{limits.MAX_METADATA_ENTRIES} entries, each name and text {limits.MAX_METADATA_TEXT_BYTES} bytes",
        ),
        ("A piece of output", f"{limits.MAX_OUTPUT_CHUNK_BYTES // kib} KiB"),
        ("Tasks in one SubmitTasks", f"{limits.MAX_BATCH_ITEMS:,}"),
        ("Entries on a page of a list", f"{limits.MAX_PAGE_SIZE:,}; {limits.DEFAULT_PAGE_SIZE} unless asked"),
        ("Slots of an agent", f"{limits.MAX_SLOTS:,}"),
        ("Capabilities of an agent", f"{limits.MAX_CAPABILITIES}"),
        ("Labels of an agent", f"{limits.MAX_LABELS}"),
        ("Labels of a task", f"{limits.MAX_TASK_LABELS}"),
        ("Drains in a namespace", f"{limits.MAX_DRAINS}"),
        ("Grace of a cancel or a handover", f"{limits.MAX_GRACE_MS // 60_000} min"),
        ("A timeout of a task", f"{limits.MAX_DURATION_MS // 86_400_000} days"),
    ]
    return table(["What", "At most"], rows)


if __name__ == "__main__":
    sys.stdout.write(page())
