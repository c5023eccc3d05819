"""Hosts of one's own: a network namespace for an agent, tied to this one by a pair of veth ends that can be unplugged.

Needs root. Names carry this process's id, and all goes with the `with` block.
"""

from __future__ import annotations

import os
import subprocess
from types import TracebackType
from typing import Self

#: Of the block for benchmarks between networks (RFC 2544): nobody's real one.
_BLOCK = "198.18"


class Host:
    """Host `number` as seen from the network: `inside` goes before a command that shall run there."""

    def __init__(self, number: int) -> None:
        self._name = f"agentmesh-{os.getpid()}-{number}"
        self._near = f"am{os.getpid() % 100_000}n{number}"
        #: This side's address, under which the host finds it.
        self.gateway = f"{_BLOCK}.{number}.1"
        self._address = f"{_BLOCK}.{number}.2"

    def __enter__(self) -> Self:
        _ip("netns", "add", self._name)
        try:
            _ip("link", "add", self._near, "type", "veth", "peer", "name", "far", "netns", self._name)
            _ip("address", "add", f"{self.gateway}/30", "dev", self._near)
            _ip("link", "set", self._near, "up")
            _ip("-n", self._name, "address", "add", f"{self._address}/30", "dev", "far")
            _ip("-n", self._name, "link", "set", "far", "up")
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _ip("netns", "delete", self._name)  # its end of the pair goes with it, and so does ours

    @property
    def inside(self) -> list[str]:
        return ["ip", "netns", "exec", self._name]

    def unplug(self) -> None:
        """Nothing gets through, and nobody is told."""
        _ip("link", "set", self._near, "down")

    def plug(self) -> None:
        _ip("link", "set", self._near, "up")


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)
