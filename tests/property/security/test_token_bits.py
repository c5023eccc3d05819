"""No token but the one that was signed is accepted: not with any bit changed, nor anything made of its parts."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshd.domain.errors import Reason, Refusal
from meshd.domain.values import AgentType
from meshd.ports.tokens import TokenClaims
from meshd.security.keys import load_signing_key
from meshd.security.tokens import JwtTokens

NOW_MS = 1_700_000_000_000
with TemporaryDirectory() as directory:
    TOKENS = JwtTokens(load_signing_key(Path(directory) / "keys"), "agentmesh")
CLAIMS = TokenClaims(
    "agent:blue/w-1", "blue", AgentType.WORKER, ("a",), (), "jti", "w-1.0.f", 0, NOW_MS, NOW_MS + 60_000
)
GOOD = TOKENS.sign(CLAIMS)


def refused(token: str) -> bool:
    try:
        TOKENS.verify(token, NOW_MS)
    except Refusal as refusal:
        return refusal.reason is Reason.TOKEN_INVALID
    return False


@pytest.mark.parametrize("bit", range(8))
def test_every_single_bit_flip_is_refused(bit: Any) -> None:
    assert not refused(GOOD)
    raw = GOOD.encode()
    for position in range(len(raw)):
        changed = bytearray(raw)
        changed[position] ^= 1 << bit
        assert refused(changed.decode("latin-1")), (position, bit)


@given(st.text(max_size=600))
def test_no_text_is_a_token(text: str) -> None:
    assert refused(text)


@settings(max_examples=300)
@given(st.data())
def test_edits_are_refused(data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(GOOD)))
    end = data.draw(st.integers(start, min(len(GOOD), start + 40)))
    alphabet = st.sampled_from('ABCDEFabcdef0123456789-_.=+/ {}"\n')
    changed = GOOD[:start] + data.draw(st.text(alphabet, max_size=40)) + GOOD[end:]
    assert refused(changed) is (changed != GOOD)
