"""What every test shares: async tests run on asyncio, the only loop that gRPC knows."""

import pytest


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"
