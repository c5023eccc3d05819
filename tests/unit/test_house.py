"""The rules of the house that no linter knows: sizes, names, docstrings, and what no file may say."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

HOUSE = Path(__file__).resolve().parents[2]
PRODUCT = ("agentmesh", "meshd", "meshctl")
ROOMS = (*PRODUCT, "tests", "bench", "examples", "docs")
LARGEST_FILE_LINES = 500
VAGUE_NAMES = {"utils", "util", "manager", "managers", "common", "helpers", "helper", "misc"}
# Written in two parts, so that this file obeys its own rule.
UNFINISHED = re.compile(r"\b(?:TO" r"DO|FIX" r"ME|XX" r"X)\b")


def sources(*rooms: str) -> list[Path]:
    files = [path for room in rooms for path in sorted((HOUSE / room).rglob("*.py"))]
    return [path.relative_to(HOUSE) for path in files if not path.stem.endswith(("_pb2", "_pb2_grpc"))]


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse((HOUSE / path).read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", sources(*PRODUCT), ids=str)
def test_file_is_small_enough_to_read(path: Path) -> None:
    lines = len((HOUSE / path).read_text().splitlines())
    assert lines <= LARGEST_FILE_LINES, f"{path} has {lines} lines: split it along its subjects"


@pytest.mark.parametrize("path", sources(*ROOMS), ids=str)
def test_file_says_what_it_is_for(path: Path) -> None:
    text = (HOUSE / path).read_text()
    if path.parts[0] == "tests" and path.name == "__init__.py" and not text:
        return  # it only makes its directory a package
    assert ast.get_docstring(ast.parse(text)), f"{path} has no module docstring"


@pytest.mark.parametrize("path", sources(*ROOMS), ids=str)
def test_name_says_what_is_inside(path: Path) -> None:
    vague = VAGUE_NAMES.intersection(
        [part for name in path.with_suffix("").parts for part in name.split("_")]
    )
    assert not vague, f"{path}: {vague} could hold anything; name it after its content"


@pytest.mark.parametrize("path", sources(*ROOMS), ids=str)
def test_file_is_finished(path: Path) -> None:
    found = UNFINISHED.findall((HOUSE / path).read_text())
    assert not found, f"{path} still says {found}: do it, or describe it where work is planned"


@pytest.mark.parametrize("path", sources("meshd"), ids=str)
def test_daemon_shares_only_the_contract_with_the_sdk(path: Path) -> None:
    stubs = ("agentmesh.v1.", "agentmesh.options.")
    strangers = [
        name for name in imports(path) if name.split(".")[0] == "agentmesh" and not name.startswith(stubs)
    ]
    assert not strangers, f"{path} imports {strangers}; meshd uses the generated stubs only"


@pytest.mark.parametrize("lock", sorted((HOUSE / "requirements").glob("*.txt")), ids=lambda path: path.name)
def test_lock_pins_hashes_and_names_no_host(lock: Path) -> None:
    text = lock.read_text()
    assert "://" not in text, "a lock works with any index"
    assert "--index" not in text
    assert "--find-links" not in text
    pins = re.findall(r"^[a-z0-9][^\n]*==.*\n.*", text, flags=re.MULTILINE)
    assert pins
    assert [pin for pin in pins if "--hash=sha256:" not in pin] == []


def test_nothing_compiled_runs_in_the_place_of_a_source() -> None:
    hidden = [path for room in PRODUCT for path in (HOUSE / room).rglob("*.so")]
    assert not hidden, (
        "what the sources say does not run: delete these, `make compiled` has a copy of its own"
    )


def test_every_room_is_a_package() -> None:
    numbered = "versions"  # migrations, loaded by path
    rooms = {path.parent for path in sources(*PRODUCT) if path.parent.name != numbered}
    assert [room for room in sorted(rooms) if not (HOUSE / room / "__init__.py").exists()] == []
