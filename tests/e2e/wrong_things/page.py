"""docs/wrong-things.md, held against what happens: each `### Title` has one block with what a person sees.

Rule: the words around the blocks are written by hand, the blocks by the tests: WRITE_WRONG_THINGS=1 puts what is
seen now into the page, without it a difference is a failure.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

PAGE = Path(__file__).parents[3] / "docs" / "wrong-things.md"
_BLOCK = re.compile(
    r"^### (?P<title>.+)\n(?P<words>(?:(?!###|```).*\n)*)```text\n(?P<seen>(?:(?!```).*\n)*)```", re.MULTILINE
)


def titles() -> list[str]:
    """What the page tells about, in its order."""
    return [match["title"] for match in _BLOCK.finditer(PAGE.read_text())]


def check(title: str, seen: str) -> None:
    """Hold what was seen against the block under a title."""
    text = PAGE.read_text()
    match = next((each for each in _BLOCK.finditer(text) if each["title"] == title), None)
    assert match is not None, f"docs/wrong-things.md has no block under the title {title!r}"
    seen = seen.rstrip("\n") + "\n"
    if os.environ.get("WRITE_WRONG_THINGS") and match["seen"] != seen:
        PAGE.write_text(text[: match.start("seen")] + seen + text[match.end("seen") :])
        return
    assert seen == match["seen"], (
        f"under {title!r} docs/wrong-things.md does not show what one sees now (WRITE_WRONG_THINGS=1 writes it):\n{seen}"
    )
