"""Text from elsewhere, made safe to show."""

from __future__ import annotations

import json


def printable(text: str, *, keep_newlines: bool = False) -> str:
    """Replaces control characters: what agents and callers wrote must not steer the user's terminal."""
    return "".join(
        character
        if character.isprintable() or (keep_newlines and character in "\n\t")
        else "\N{REPLACEMENT CHARACTER}"
        for character in text
    )


def escaped_json(text: str) -> str:
    """Returns the same JSON document with what is not printable escaped; its line breaks stay."""
    return "".join(
        character if character.isprintable() or character == "\n" else json.dumps(character)[1:-1]
        for character in text
    )
