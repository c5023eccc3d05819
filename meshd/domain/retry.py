"""When a failed attempt is tried again: exponential backoff with a random cut.

Source of the formula: "Exponential Backoff And Jitter" (AWS Architecture Blog, 2015), with the cut limited to 20 %.
"""

from __future__ import annotations

from typing import Protocol

from meshd.domain.values import RetryPolicy

JITTER_SHARE = 0.2


class Rng(Protocol):
    """Source of randomness, handed to the domain so that a run can be repeated."""

    def random(self) -> float:
        """Return a float in [0, 1)."""

    def getrandbits(self, bits: int, /) -> int:
        """Return a random integer of so many bits."""


def longest_backoff_ms(policy: RetryPolicy, failures: int) -> float:
    """Return the pause after ``failures`` failed attempts (>= 1) before the random cut, in milliseconds."""
    exponent = min(failures - 1, 64)
    return min(policy.max_backoff_ms, policy.initial_backoff_ms * policy.multiplier**exponent)


def backoff_ms(policy: RetryPolicy, failures: int, rng: Rng) -> int:
    """Return the pause before the next attempt after ``failures`` failed ones (>= 1), in milliseconds."""
    return int(longest_backoff_ms(policy, failures) * (1.0 - JITTER_SHARE * rng.random()))
