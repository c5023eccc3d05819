"""What the pages point to exists, and every page can be found from the README."""

from __future__ import annotations

import re
import string
from collections.abc import Iterator
from pathlib import Path

import pytest

HOUSE = Path(__file__).resolve().parents[3]
ENTRY = HOUSE / "README.md"
PAGES = [ENTRY, *(HOUSE / name for name in ("CONTRIBUTING.md", "CHANGELOG.md")), *HOUSE.glob("docs/**/*.md")]
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
QUOTED = re.compile(r"`([^`\n]+)`")
#: Where a path in a page may begin: at the checkout, or in a room that the page speaks about.
ROOMS = ("", "meshd", "meshd/domain", "proto/agentmesh/v1")
SUFFIXES = (".py", ".md", ".toml", ".proto", ".json", ".yaml", ".service", ".txt")
#: Files that a mesh or its user makes.
MADE_ELSEWHERE = re.compile(
    r"build/|/etc/|~/|/var/|/backups/|meshd\.toml$|profiles\.toml$|worker\.py$|^keys/|-[A-Z]+\."
)


def prose(path: Path) -> str:
    """A page without its blocks of code."""
    return re.sub(r"^```.*?^```$", "", path.read_text(), flags=re.DOTALL | re.MULTILINE)


def links(path: Path) -> Iterator[tuple[Path, str]]:
    """File and heading of each link that stays in the checkout."""
    for target in LINK.findall(prose(path)):
        if "://" not in target:
            place, _, heading = target.partition("#")
            yield ((path.parent / place).resolve() if place else path), heading


def anchors(path: Path) -> set[str]:
    """The headings of a page as links name them."""
    kept = set(string.ascii_letters + string.digits + "-_ ")
    titles = re.findall(r"^#+ (.+)$", prose(path), flags=re.MULTILINE)
    return {"".join(sign for sign in title if sign in kept).lower().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(HOUSE)))
def test_links_lead_somewhere(page: Path) -> None:
    for target, heading in links(page):
        assert target.exists(), f"{page.name} links to {target}, which is not there"
        if heading:
            assert heading in anchors(target), f"{page.name} links to #{heading}, no heading of {target.name}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(HOUSE)))
def test_files_named_in_a_page_exist(page: Path) -> None:
    for name in QUOTED.findall(prose(page)):
        is_path = name.endswith(SUFFIXES) or ("/" in name and name.endswith("/"))
        if not is_path or " " in name or MADE_ELSEWHERE.search(name):
            continue
        places = [HOUSE / room / name for room in ROOMS] + [page.parent / name]
        assert any(list(place.parent.glob(place.name)) for place in places), f"{page.name} names {name}"


def test_every_page_can_be_found_from_the_readme() -> None:
    reached, todo = set(), [ENTRY]
    while todo:
        page = todo.pop()
        if page.is_dir():
            todo += page.glob("*.md")
        elif page not in reached and page.suffix == ".md":
            reached.add(page)
            todo += [target for target, _ in links(page)]
    assert {str(page.relative_to(HOUSE)) for page in set(PAGES) - reached} == set()


@pytest.mark.parametrize("file", sorted((HOUSE / "deploy").iterdir()), ids=lambda file: file.name)
def test_pages_named_in_a_file_to_deploy_exist(file: Path) -> None:
    for name in re.findall(r"docs/[\w/-]+\.md", file.read_text()):
        assert (HOUSE / name).exists(), f"{file.name} names {name}, which is not there"
