"""The audit chain: every change of a record, and every missing or moved one, is found."""

import hashlib
from typing import Any

import pytest

from meshd.domain.audit import FIRST_HASH, record_hash, verify
from meshd.domain.records import AuditRecord


def chain(length: int, namespace: str = "blue") -> list[AuditRecord]:
    records: list[AuditRecord] = []
    previous = FIRST_HASH
    for sequence in range(1, length + 1):
        record = AuditRecord(
            namespace,
            sequence,
            1_000 + sequence,
            "agent:blue/w",
            "127.0.0.1",
            "SubmitTask",
            f"task:{sequence}",
            True,
            "",
            1,
            b"",
            previous,
            b"",
        )
        record = record._replace(hash=record_hash(record))
        previous = record.hash
        records.append(record)
    return records


def test_the_documented_encoding() -> None:
    record = AuditRecord("b", 1, 2, "s", "p", "M", "o", True, "", 3, b"\xff", FIRST_HASH, b"")
    fields = [
        b"b",
        (1).to_bytes(8, "big"),
        (2).to_bytes(8, "big"),
        b"s",
        b"p",
        b"M",
        b"o",
        b"\x01",
        b"",
        (3).to_bytes(8, "big"),
        b"\xff",
        bytes(32),
    ]
    expected = b"agentmesh-audit-v1" + b"".join(len(field).to_bytes(4, "big") + field for field in fields)
    assert record_hash(record) == hashlib.sha256(expected).digest()


def test_whole_chains() -> None:
    records = chain(20)
    assert verify([]) is None
    assert verify(records) is None
    assert verify(records[5:], after=(5, records[4].hash)) is None
    assert verify(records, head=(20, records[-1].hash)) is None
    assert verify(records, head=(7, records[6].hash)) is None


@pytest.mark.parametrize("field", AuditRecord._fields)
def test_every_field_counts(field: Any) -> None:
    records = chain(5)
    value = getattr(records[2], field)
    changed: Any = {str: "x", int: 77, bool: False, bytes: b"x" * 32}[type(value)]
    records[2] = records[2]._replace(**{field: changed})
    fault = verify(records)
    assert fault is not None
    assert fault.sequence == 3


@pytest.mark.parametrize("field", ["subject", "allowed", "count", "reason", "time_ms"])
def test_an_edit_with_a_fresh_hash_breaks_the_next_record(field: Any) -> None:
    records = chain(5)
    value = getattr(records[2], field)
    other: Any = {str: "x", int: 77, bool: False}[type(value)]
    edited = records[2]._replace(**{field: other})
    records[2] = edited._replace(hash=record_hash(edited))
    fault = verify(records)
    assert fault is not None
    assert fault.sequence == 4


def test_deletion_reordering_insertion() -> None:
    records = chain(6)
    for broken in (
        records[:2] + records[3:],
        [*records[:2], records[3], records[2], *records[4:]],
        [*records[:3], records[2], *records[3:]],
        records[1:],
        [*records[:3], *chain(6, "red")[3:]],
    ):
        assert verify(broken) is not None


def test_truncation_and_replacement_are_found_by_a_kept_head() -> None:
    records = chain(6)
    head = (6, records[-1].hash)
    assert verify(records[:4], head=head) is not None
    assert verify([], head=head) is not None
    rewritten = chain(6, "red")
    assert verify(rewritten) is None
    assert verify(rewritten, head=head) is not None


def test_fields_cannot_flow_into_one_another() -> None:
    one = AuditRecord("b", 1, 2, "ab", "c", "M", "o", True, "", 3, b"", FIRST_HASH, b"")
    assert record_hash(one) != record_hash(one._replace(subject="a", peer="bc"))
