"""One thing that `meshctl doctor` looked at, and what came of it."""

from __future__ import annotations

from typing import Literal, NamedTuple


class Check(NamedTuple):
    """A check; one that found something wrong names the next step."""

    name: str
    state: Literal["ok", "wrong", "skipped"]
    result: str
    next_step: str = ""


def ok(name: str, result: str) -> Check:
    """Returns a check that found nothing wrong."""
    return Check(name, "ok", result)


def wrong(name: str, result: str, next_step: str) -> Check:
    """Returns a finding."""
    return Check(name, "wrong", result, next_step)


def skipped(name: str, why: str) -> Check:
    """Returns a check that could not be made or means nothing here."""
    return Check(name, "skipped", why)
