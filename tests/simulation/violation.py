"""What the simulator finds."""

from __future__ import annotations


class Violation(AssertionError):
    """A promise was broken."""
