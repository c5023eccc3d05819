"""Whether meshd serves, and if not, why; one truth for /readyz, grpc.health.v1 and the service manager."""

from __future__ import annotations

from collections.abc import Callable


class Readiness:
    """Not ready at first; ready once; never again after it was withdrawn."""

    def __init__(self) -> None:
        self._ready = False
        self._why_not = "starting"
        self._final = False
        self._listeners: list[Callable[[bool], None]] = []

    @property
    def ready(self) -> bool:
        """True while calls are served."""
        return self._ready

    @property
    def why_not(self) -> str:
        """Why calls are not served; empty while they are."""
        return "" if self._ready else self._why_not

    def listen(self, listener: Callable[[bool], None]) -> None:
        """Have a listener told at every change, and now."""
        self._listeners.append(listener)
        listener(self._ready)

    def begin(self) -> None:
        """Serve from now on; ignored once withdrawn."""
        if not self._final:
            self._set(ready=True, why_not="")

    def withdraw(self, why: str) -> None:
        """Serve no more; the first reason counts."""
        if not self._final:
            self._final = True
            self._set(ready=False, why_not=why)

    def _set(self, *, ready: bool, why_not: str) -> None:
        self._ready, self._why_not = ready, why_not
        for listener in self._listeners:
            listener(ready)
