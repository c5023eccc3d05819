"""Page tokens and statuses."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentmesh.v1 import error_reason_pb2
from meshd.domain.errors import Reason, Refusal
from meshd.wire import page_token
from meshd.wire.status import CODES


@given(st.text(max_size=20), st.text(max_size=50), st.text(max_size=100))
def test_round_trip(kind: Any, conditions: Any, position: Any) -> None:
    token = page_token.encode(kind, conditions, position)
    assert page_token.decode(kind, conditions, token) == position


@pytest.mark.parametrize(
    "change", [("tasks", "c", ""), ("audit", "d", ""), ("audit", "c", "x"), ("audi", "tc", "")]
)
def test_a_token_belongs_to_one_list(change: Any) -> None:
    kind, conditions, suffix = change
    token = page_token.encode("audit", "c", "17")
    with pytest.raises(Refusal) as caught:
        page_token.decode(kind, conditions, token + suffix)
    assert (caught.value.reason, caught.value.field) == (Reason.INVALID_PAGE_TOKEN, "page_token")


@given(st.text(max_size=100))
def test_no_text_is_a_page_token(text: str) -> None:
    with pytest.raises(Refusal):
        page_token.decode("audit", "", text)


@pytest.mark.parametrize("forged", ["x", "", "-1", "1.5", str(2**63), "9" * 700])
def test_a_forged_token_names_no_row(forged: str) -> None:
    assert page_token.decode_key("audit", "c", page_token.encode("audit", "c", "17")) == 17
    with pytest.raises(Refusal) as caught:
        page_token.decode_key("audit", "c", page_token.encode("audit", "c", forged))
    assert caught.value.reason is Reason.INVALID_PAGE_TOKEN


def test_every_reason_has_a_code_and_the_contracts_name() -> None:
    names = {f"ERROR_REASON_{reason.name}": int(reason) for reason in Reason}
    assert {"ERROR_REASON_UNSPECIFIED": 0, **names} == dict(error_reason_pb2.ErrorReason.items())
    assert set(CODES) == set(Reason)
