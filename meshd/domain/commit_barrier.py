"""The commit barrier: nothing leaves before the state it speaks of is durable.

Invariant: effects are let out in the order in which they were computed, and those computed at batch n leave only
after ``durable(n)``, or at once when nothing is pending. At most one batch is in flight; meanwhile the next collects.
"""

from __future__ import annotations

from meshd.domain.effects import Effects


class CommitBarrier:
    """Pairs batches of effects with the commits they wait for."""

    def __init__(self) -> None:
        self.collecting = Effects()
        self.batch_no = 1
        """Number of the batch that collects now."""
        self._in_flight: Effects | None = None

    @property
    def in_flight(self) -> bool:
        """True while a batch is being committed."""
        return self._in_flight is not None

    @property
    def pending(self) -> bool:
        """True when something computed so far is not durable yet."""
        return self._in_flight is not None or bool(self.collecting.writes)

    @property
    def pending_tasks(self) -> int:
        """How many tasks changed and are not durable in their newest state."""
        batches = [self.collecting] if self._in_flight is None else [self._in_flight, self.collecting]
        return sum(len(each.writes.new_tasks) + len(each.writes.changed_tasks) for each in batches)

    def take(self) -> tuple[int, Effects] | None:
        """Close the collecting batch for commit; None while one is in flight or when there is nothing to write."""
        if self._in_flight is not None or not self.collecting.writes:
            return None
        self._in_flight = self.collecting
        self.collecting = Effects()
        number = self.batch_no
        self.batch_no += 1
        return number, self._in_flight

    def durable(self, batch_no: int) -> list[Effects]:
        """Return what may leave now that the batch is durable."""
        if self._in_flight is None or batch_no != self.batch_no - 1:
            raise AssertionError(f"batch {batch_no} is not in flight")
        released = [self._in_flight]
        self._in_flight = None
        return released + self.idle()

    def idle(self) -> list[Effects]:
        """Return what may leave at once because nothing it was computed from is pending."""
        if self.pending:
            return []
        released = [self.collecting]
        self.collecting = Effects()
        return released
