"""Pages that are made from the code say what the code says."""

from __future__ import annotations

import pytest

from docs.generate.pages import HOUSE, MADE


@pytest.mark.parametrize("place", MADE)
def test_the_page_is_what_the_code_makes(place: str) -> None:
    assert (HOUSE / place).read_text() == MADE[place](), f"{place} is out of date; renew it: make docs"


def test_every_page_of_the_reference_is_made() -> None:
    found = {str(path.relative_to(HOUSE)) for path in (HOUSE / "docs/reference").iterdir()}
    assert found <= MADE.keys(), "docs/reference is for pages that are made from the code"
