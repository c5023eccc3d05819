"""The demo's input: the running interpreter's standard library, one task per module.

A module is taken when it parses and its source fits into a payload; what is left out is counted with its reason.
"""

from __future__ import annotations

import ast
import sysconfig
import warnings
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from agentmesh import task_spec
from agentmesh.connection import MAX_INLINE_BYTES
from agentmesh.v1.task_pb2 import TaskSpec

TASK_TYPE = "analyse-module"
_NOT_STANDARD = {"site-packages", "dist-packages"}
_LONGEST_ID = 128


@dataclass(slots=True)
class Library:
    """What there is to do, and how many modules were left out for which reason."""

    specs: list[TaskSpec] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)


def standard_library() -> Library:
    """Reads and parses the whole library, on all processors."""
    root = Path(sysconfig.get_path("stdlib"))
    paths = [path for path in sorted(root.rglob("*.py")) if not _NOT_STANDARD.intersection(path.parts)]
    library = Library()
    with ProcessPoolExecutor() as pool:
        for path, found in zip(paths, pool.map(_read, paths, chunksize=16), strict=True):
            task_id = f"stdlib/{path.relative_to(root)}"
            if isinstance(found, str):
                library.skipped[found] += 1
            elif len(task_id) > _LONGEST_ID or not task_id.isascii():
                library.skipped["whose path is no task id"] += 1
            else:
                library.specs.append(task_spec(TASK_TYPE, found, task_id=task_id))
    return library


def _read(path: Path) -> bytes | str:
    """Returns the source, or why the module is left out."""
    try:
        source = path.read_bytes()
    except OSError:
        return "that cannot be read"
    if len(source) > MAX_INLINE_BYTES:
        return "larger than a payload may be"
    warnings.simplefilter("ignore")
    try:
        ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return "that do not parse"
    return source
