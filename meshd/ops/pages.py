"""What the HTTP side port shows."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final

from meshd.ops.event_loop import LoopLag
from meshd.ops.http_port import Page, Render, text_page
from meshd.ops.metrics import CONTENT_TYPE, Metrics
from meshd.ops.readiness import Readiness
from meshd.ops.shared_page import SharedPage

DEAD_LOOP_S: Final = 10.0
"""A loop that has not turned for so long is not busy but stuck: /healthz asks for a restart."""


def pages(
    metrics: Metrics, readiness: Readiness, lag: LoopLag, jwks: Callable[[], dict[str, Any]]
) -> dict[str, Render]:
    """Return the pages by path."""

    def healthz() -> Page:
        late_s = lag.lag_s
        if late_s > DEAD_LOOP_S:
            return text_page(503, f"the event loop has not turned for {late_s:.0f} s")
        return text_page(200, "ok")

    def readyz() -> Page:
        return (
            text_page(200, "ready") if readiness.ready else text_page(503, f"not ready: {readiness.why_not}")
        )

    return {
        "/metrics": SharedPage(lambda: Page(200, CONTENT_TYPE, metrics.page())),
        "/healthz": healthz,
        "/readyz": readyz,
        "/.well-known/jwks.json": lambda: Page(200, "application/json", json.dumps(jwks()).encode()),
    }
