"""How far a long run of seeds is, kept in a file, so that one that was cut off goes on where it was.

Rule: what was judged counts for the sources it was judged with, and for no others; a run with others begins anew and says so.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

HOUSE = Path(__file__).resolve().parents[2]
JUDGED = ("agentmesh", "meshd", "tests/simulation")


def sources() -> str:
    """Return the digest of everything that is judged or judges; the compiled copy has the same."""
    digest = hashlib.sha256()
    for part in JUDGED:
        for path in sorted((HOUSE / part).rglob("*.py")):
            digest.update(f"{path.relative_to(HOUSE)}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


class Progress:
    """Which seeds of one run have been judged, and what they broke; kept in a folder, or nowhere."""

    def __init__(self, folder: Path | None, first: int, count: int) -> None:
        self._path = None if folder is None else folder / f"{count}-seeds-from-{first}.json"
        self._sources = "" if folder is None else sources()
        self.next = first
        self.seconds = 0.0
        self.violations: list[tuple[int, str]] = []
        if self._path is not None and self._path.exists():
            kept = json.loads(self._path.read_text())
            if kept["sources"] != self._sources:
                print(f"{self._path} is of other sources: beginning anew", flush=True)
                return
            self.next, self.seconds = kept["next"], kept["seconds"]
            self.violations = [(seed, words) for seed, words in kept["violations"]]
            print(f"going on at seed {self.next}, after {self.words()}: {self._path}", flush=True)

    def words(self) -> str:
        """Say what came of the run so far."""
        return f"{self.seconds:.0f} s: {len(self.violations)} violations"

    def judged(self, following: int, found: list[tuple[int, str]], seconds: float) -> None:
        """Note that all seeds before one have been judged."""
        self.next, self.seconds = following, seconds
        self.violations += found
        if self._path is None:
            return
        kept = {
            "sources": self._sources,
            "next": self.next,
            "seconds": round(seconds, 1),
            "violations": self.violations,
        }
        self._path.parent.mkdir(parents=True, exist_ok=True)
        new = self._path.with_suffix(".new")
        new.write_text(json.dumps(kept, indent=1) + "\n")
        new.replace(self._path)
