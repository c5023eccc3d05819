"""What every test shares: async tests run on asyncio, the only loop that gRPC knows, and all of them on one loop."""

from collections.abc import AsyncIterator

import pytest


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session", autouse=True)
async def one_event_loop(anyio_backend: str) -> AsyncIterator[None]:
    """Keep the loop open from test to test: gRPC's poller, one per process, may still hold an event for the last one."""
    assert anyio_backend == "asyncio"
    yield  # noqa: PT022  # only a fixture that is not over keeps the loop open
