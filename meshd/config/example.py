"""The settings file with every setting explained, deploy/meshd.toml; ``make docs`` renews it."""

from __future__ import annotations

import json
import textwrap
from dataclasses import fields

from meshd.config.settings import Settings
from meshd.config.sources import SYSTEM_FILE, describe

WIDTH = 110

HEAD = f"""Settings of meshd, all at their defaults: it runs without this file. Remove the # before those you change.
Read from --config FILE, else MESHD_CONFIG, else {SYSTEM_FILE}. A flag (--lease-ttl-ms) or an environment variable
(MESHD_LEASE_TTL_MS) of the same name goes before the file. A name that meshd does not know is an error."""


def example() -> str:
    """Return the file's text."""
    lines = [f"# {line}" for line in HEAD.splitlines()]
    group = ""
    for known in fields(Settings):
        if known.metadata["group"] != group:
            group = known.metadata["group"]
            lines += ["", f"# ---- {group} ".ljust(WIDTH, "-")]
        default = known.metadata["example"] or known.default
        lines += ["", *textwrap.wrap(describe(known), WIDTH, initial_indent="# ", subsequent_indent="# ")]
        lines.append(f"#{known.name} = {json.dumps(default)}")
    return "\n".join(lines) + "\n"
