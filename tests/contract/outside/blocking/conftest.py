"""pytest-grpc against a meshd that runs already, instead of a servicer in this process.

Rule: its fixtures keep their names and meaning; `grpc_addr` and `grpc_server` are all that is replaced.
"""

from __future__ import annotations

import pytest

from tests.faults.meshd_process import MeshdProcess


@pytest.fixture(scope="module")
def grpc_addr(meshd: MeshdProcess) -> str:
    """The TCP port: every call shows a token. A module of operators' calls names the socket instead."""
    return meshd.tcp_address


@pytest.fixture(scope="module")
def grpc_server(meshd: MeshdProcess) -> MeshdProcess:
    return meshd
