"""What is made from the code, and where it stands: the one list for `make docs` and for the test of drift."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from docs.generate import api, commands, concepts, errors, settings
from meshd.config import example
from meshd.ops import catalogue

HOUSE: Final = Path(__file__).resolve().parents[2]

MADE: Final[dict[str, Callable[[], str]]] = {
    "deploy/meshd.toml": example.example,
    "docs/concepts.md": concepts.page,
    "docs/reference/api.md": api.page,
    "docs/reference/commands.md": commands.page,
    "docs/reference/errors.md": errors.page,
    "docs/reference/metrics.md": catalogue.page,
    "docs/reference/settings.md": settings.page,
}
"""What each of these files would hold if it were made now."""
