"""From where a call came, as the audit log names it."""

from __future__ import annotations

import pytest

from meshd.wire.chain import host_of


@pytest.mark.parametrize(
    ("peer", "host"),
    [
        ("ipv4:192.0.2.7:4711", "192.0.2.7"),
        ("ipv6:%5B::1%5D:4711", "::1"),
        ("ipv6:%5B2001:db8::7%5D:4711", "2001:db8::7"),
        ("ipv6:%5Bfe80::1%25eth0%5D:4711", "fe80::1%eth0"),
    ],
)
def test_the_host_of_a_peer_is_its_plain_address(peer: str, host: str) -> None:
    assert host_of(peer) == host
