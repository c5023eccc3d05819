"""A page that costs something, made once for all who ask for it at about the same time.

Rule: however many ask, and however often, it is made once a second at most, and by one thread; those who wait for it
leave places of the HTTP port to others.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

from meshd.ops.http_port import MAX_CONNECTIONS, Page, Render, text_page

KEEP_S: Final = 1.0
"""No scraper comes more often; two that come together see the same."""

MAX_WAITING: Final = MAX_CONNECTIONS // 2
"""It may ask an event loop that is busy; probes need their places most of all then."""


class SharedPage:
    """Renders a page, or shows the one just made."""

    def __init__(self, render: Render, mono: Callable[[], float] = time.monotonic) -> None:
        self._render = render
        self._mono = mono
        self._asking = threading.BoundedSemaphore(MAX_WAITING)
        self._making = threading.Lock()
        self._made: tuple[Page, float] | None = None

    def __call__(self) -> Page:
        """Return the page, not older than KEEP_S."""
        if not self._asking.acquire(blocking=False):
            return text_page(503, "many ask for this page at once; ask again in a second")
        try:
            with self._making:
                if self._made is None or self._mono() - self._made[1] >= KEEP_S:
                    self._made = self._render(), self._mono()
                return self._made[0]
        finally:
            self._asking.release()
