"""Proof of possession."""

from typing import Any

import pytest

from meshd.engine.challenge import Challenges
from meshd.security.proofs import Ed25519Proofs
from tests.auth_world import AgentKey

PROOFS = Ed25519Proofs()
PRIME = 2**255 - 19
SMALL_ORDER = [
    "0100000000000000000000000000000000000000000000000000000000000000",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "0000000000000000000000000000000000000000000000000000000000000080",
    "0000000000000000000000000000000000000000000000000000000000000000",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
]


@pytest.mark.parametrize("key", SMALL_ORDER)
def test_keys_of_small_order_are_no_keys(key: Any) -> None:
    assert not PROOFS.valid_key(bytes.fromhex(key))


@pytest.mark.parametrize("key", [b"", b"x" * 31, b"x" * 33, PRIME.to_bytes(32, "little"), b"\xff" * 32])
def test_malformed_keys_are_no_keys(key: Any) -> None:
    assert not PROOFS.valid_key(key)


def test_a_signature_is_good_for_one_message_and_one_key() -> None:
    mine, other = AgentKey(), AgentKey()
    assert PROOFS.valid_key(mine.public)
    signature = mine.prove("blue", "w-1", b"nonce")
    from meshd.engine.challenge import proof_message

    message = proof_message("blue", "w-1", b"nonce")
    assert message == b"agentmesh-renew-v1\0blue\0w-1\0nonce"
    assert PROOFS.valid_signature(mine.public, message, signature)
    assert not PROOFS.valid_signature(other.public, message, signature)
    assert not PROOFS.valid_signature(mine.public, message + b"x", signature)
    assert not PROOFS.valid_signature(mine.public, message, signature[:-1])
    assert not PROOFS.valid_signature(b"", message, signature)


def test_nonces_are_for_one_agent_one_minute_and_one_daemon() -> None:
    challenges = Challenges()
    nonce = challenges.nonce("blue", "w-1", 1_000_000)
    assert challenges.valid(nonce, "blue", "w-1", 1_000_000)
    assert challenges.valid(nonce, "blue", "w-1", 1_060_000)
    assert not challenges.valid(nonce, "blue", "w-1", 1_060_001)
    assert not challenges.valid(nonce, "blue", "w-1", 999_999)
    assert not challenges.valid(nonce, "blue", "w-2", 1_000_000)
    assert not challenges.valid(nonce, "red", "w-1", 1_000_000)
    assert not Challenges().valid(nonce, "blue", "w-1", 1_000_000)
    for bad in (b"", b"x" * 7, nonce[:-1], nonce + b"x", bytes(40)):
        assert not challenges.valid(bad, "blue", "w-1", 1_000_000)
