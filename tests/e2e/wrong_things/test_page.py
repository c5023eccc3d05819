"""The page tells about all that is tested, and about nothing else."""

from __future__ import annotations

from pathlib import Path

from tests.e2e.wrong_things import page


def test_every_block_of_the_page_is_held_against_what_happens() -> None:
    tests = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    titles = page.titles()
    assert len(titles) == len(set(titles))
    assert [title for title in titles if f'"{title}"' not in tests and "clock an hour" not in title] == []
