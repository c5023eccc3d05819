"""Values become payloads and specs, and batches are cut by bytes before count."""

from __future__ import annotations

import pytest

from agentmesh import InvalidRequest, Payload, TooLarge, decode_payload, encode_payload, task_spec
from agentmesh.connection import MAX_INLINE_BYTES
from agentmesh.payloads import PayloadLike
from agentmesh.task_specs import MAX_BATCH_BYTES, MAX_BATCH_SPECS, batches, item_size_bytes, refusal_of
from agentmesh.v1.payload_pb2 import PayloadRef
from agentmesh.v1.task_pb2 import PlacementStrategy, TaskSpec


@pytest.mark.parametrize(
    "value",
    [b"\x00\xff", "grüß", None, 1, 1.5, True, [1, None], {"a": {"b": [1]}}],
    ids=["bytes", "text", "none", "int", "float", "bool", "list", "dict"],
)
def test_values_come_back_as_they_went(value: PayloadLike) -> None:
    assert decode_payload(encode_payload(value)) == value


def test_empty_values_keep_their_kind() -> None:
    assert decode_payload(encode_payload(b"")) == b""
    assert decode_payload(encode_payload("")) == ""


def test_a_payload_is_taken_as_it_is() -> None:
    payload = Payload(inline=b"x", media_type="image/png", metadata={"k": "v"})
    assert encode_payload(payload) is payload
    assert decode_payload(payload) == b"x"


def test_limits_are_named_with_both_numbers() -> None:
    encode_payload(bytes(MAX_INLINE_BYTES))
    with pytest.raises(TooLarge, match=r"262145 bytes, the limit is 262144"):
        encode_payload(bytes(MAX_INLINE_BYTES + 1))


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        (Payload(ref=PayloadRef()), "ref"),
        (Payload(media_type="\N{SNOWMAN}" * 86), "media type has at most 255 bytes"),
        (Payload(metadata={str(n): "" for n in range(17)}), "metadata"),
        (Payload(metadata={"k": "v" * 257}), "metadata"),
    ],
    ids=("ref", "media-type", "entries", "text"),
)
def test_a_payload_that_the_daemon_refuses_is_refused_here(payload: Payload, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        encode_payload(payload)


def test_fields_of_later_versions_count_as_well() -> None:
    later = b"\x9a\x06\x80\x80\x11" + bytes(17 << 14)
    with pytest.raises(TooLarge, match=r"with all its fields is 278533 bytes, the limit is 278528"):
        encode_payload(Payload.FromString(later))


def nested(depth: int) -> list[object]:
    value: list[object] = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    "value",
    [object(), {"a": object()}, float("nan"), nested(100_000), ["secret\udcff"], "secret\udcff"],
    ids=["object", "inner", "nan", "deep", "inner-surrogate", "surrogate"],
)
def test_what_json_or_utf_8_cannot_hold_is_refused_without_showing_it(value: PayloadLike) -> None:
    with pytest.raises(InvalidRequest) as refused:
        encode_payload(value)
    assert "object at" not in str(refused.value)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    "payload",
    [
        Payload(inline=b"{secret", media_type="application/json"),
        Payload(inline=b"[" * 100_000, media_type="application/json"),
        Payload(inline=b"secret\xff", media_type="text/plain; charset=latin-1"),
    ],
    ids=["json", "deep", "text"],
)
def test_what_is_not_what_it_says_is_refused_without_showing_it(payload: Payload) -> None:
    with pytest.raises(InvalidRequest, match="inline") as refused:
        decode_payload(payload)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("seconds", [float("inf"), float("nan"), 1e15])
def test_what_is_no_time_is_refused(seconds: float) -> None:
    with pytest.raises(InvalidRequest, match="no number of seconds"):
        task_spec("t", timeout_s=seconds)


def test_words_become_numbers() -> None:
    spec = task_spec("t", priority="critical", strategy="ROUND_ROBIN", retries=0, timeout_s=0.25)
    assert (spec.priority, spec.strategy) == (9, PlacementStrategy.PLACEMENT_STRATEGY_ROUND_ROBIN)
    assert spec.retry_policy.HasField("max_retries")
    assert spec.timeout.ToMilliseconds() == 250
    assert not task_spec("t").HasField("priority")
    with pytest.raises(InvalidRequest, match="low, normal, high, critical"):
        task_spec("t", priority="urgent")
    with pytest.raises(InvalidRequest, match="least_loaded, round_robin"):
        task_spec("t", strategy="best")


def test_batches_are_cut_by_bytes_before_count_and_keep_the_order() -> None:
    large = [task_spec("t", bytes(250_000), task_id=f"l{i}") for i in range(9)]
    small = [TaskSpec(task_id=f"s{i}", task_type="t") for i in range(MAX_BATCH_SPECS + 1)]
    cut = list(batches([*large, *small]))
    assert [spec.task_id for batch in cut for spec in batch] == [spec.task_id for spec in [*large, *small]]
    assert all(sum(map(item_size_bytes, batch)) <= MAX_BATCH_BYTES for batch in cut)
    assert all(len(batch) <= MAX_BATCH_SPECS for batch in cut)
    assert len(cut) == 4
    assert list(batches([])) == []


def test_an_item_that_fits_nowhere_is_refused_with_both_numbers() -> None:
    spec = TaskSpec(task_id="big", labels={str(i): "x" * 1000 for i in range(1100)})
    refusal = refusal_of(spec)
    assert refusal is not None
    assert str(item_size_bytes(spec)) in refusal.message
    assert str(MAX_BATCH_BYTES) in refusal.message
    assert refusal_of(TaskSpec(task_id="small")) is None
