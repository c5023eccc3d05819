"""Puts the newest kept runs into docs/benchmarks.md, between the marks that name them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from bench.record import Row, in_order, table

PAGE = Path("docs/benchmarks.md")
PLOTS = {
    "run": "![How the figures went from commit to commit](benchmarks/history.png)",
    "peers": "![Ours and the peers](benchmarks/peers.png)",
}


def fill(text: str, name: str, body: str) -> str:
    """Replace what stands between `<!-- name -->` and `<!-- /name -->`; raises ValueError if the marks are missing."""
    marks = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
    if not marks.search(text):
        raise ValueError(f"{PAGE} has no marks called {name}")
    return marks.sub(lambda found: f"{found[1]}\n{body}\n\n{found[2]}", text)


def heading(record: dict[str, Any]) -> str:
    """Say in a sentence what the figures depend on."""
    machine = record["machine"]
    compiled = ", hot rooms compiled" if machine.get("compiled") else ""
    return (
        f"Commit {record['commit']}, measured {record['day']}: rounds: {record['rounds']}; on {machine['cores']} cores "
        f"({machine['processor']}, {machine['memory_gib']} GiB), Python {machine['python']}, grpcio "
        f"{machine['grpcio']}{compiled}; load average at the end {record['busy']}."
    )


def write() -> None:
    """Write the tables of the newest runs into the page, each with its plot."""
    text = PAGE.read_text()
    for kind, plot in PLOTS.items():
        records = in_order(kind)
        if records:
            newest = records[-1]
            body = newest.get("table") or table(Row(**row) for row in newest["rows"])
            skipped = [f"Skipped: {name}: {why}." for name, why in newest.get("skipped", {}).items()]
            text = fill(text, kind, "\n\n".join([heading(newest), body, *skipped, plot]))
    PAGE.write_text(text)
