"""docs/reference/settings.md: every setting of meshd, from meshd/config/settings.py."""

from __future__ import annotations

import sys
from dataclasses import Field, fields
from typing import Any

from docs.generate.markdown import cell, table
from meshd.config import Settings
from meshd.config.sources import SYSTEM_FILE, shown_default

HEAD = f"""\
# Settings of meshd

meshd needs none of them: without any it keeps its data under your home, listens on loopback, and serves an operator
socket that only you can open. `deploy/meshd.toml` is the same list as a file. Made by `make docs` from
`meshd/config/settings.py`.

Each setting can be given in three places; the first that has it counts:

1. as a flag: `meshd --lease-ttl-ms 5000`, for switches `--insecure` or `--no-insecure`;
2. as an environment variable: `MESHD_LEASE_TTL_MS=5000`;
3. in a TOML file: `lease_ttl_ms = 5000`. The file is `--config FILE`, else `MESHD_CONFIG`, else `{SYSTEM_FILE}` if it
   exists.

A name or a value that meshd does not understand prevents its start, and is named. Times end in `_ms`, sizes in `_mib`;
an empty text turns the thing off.
"""


def page() -> str:
    """Return the page."""
    groups: dict[str, list[Field[Any]]] = {}
    for known in fields(Settings):
        groups.setdefault(known.metadata["group"], []).append(known)
    parts = [HEAD]
    for title, members in groups.items():
        rows = [[f"`{known.name}`", _allowed(known), _default(known), _text(known)] for known in members]
        parts.append(f"## {title}\n\n" + table(["Setting", "Values", "Default", "Meaning"], rows))
    return "\n".join(parts)


def _text(known: Field[Any]) -> str:
    return cell(known.metadata["text"])


def _allowed(known: Field[Any]) -> str:
    low, high = known.metadata["bounds"]
    if known.metadata["choices"]:
        return ", ".join(f"`{choice}`" for choice in known.metadata["choices"])
    if known.type == "bool":
        return "`true`, `false`"
    return f"{low:,} to {high:,}" if high else "text"


def _default(known: Field[Any]) -> str:
    return cell(known.metadata["shown"] or f"`{shown_default(known)}`")


if __name__ == "__main__":
    sys.stdout.write(page())
