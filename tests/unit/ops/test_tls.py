"""Certificates that cannot work are found before anything listens."""

import contextlib
import shutil
import ssl
import time
from datetime import timedelta
from pathlib import Path

import pytest
import structlog

from meshd.config import StartError
from meshd.ops import tls
from tests.unit.ops.certificates import Authority, write_certificate


def test_none_set_is_no_tls() -> None:
    assert tls.load("", "") is None


def test_a_pair_is_read_and_never_printed(tmp_path: Path) -> None:
    cert, key = write_certificate(tmp_path)
    loaded = tls.load(str(cert), str(key))
    assert loaded is not None
    assert loaded.cert_pem == cert.read_bytes()
    assert "PRIVATE" not in repr(loaded)
    assert loaded.context.minimum_version is ssl.TLSVersion.TLSv1_2


def test_a_key_of_another_certificate_is_told(tmp_path: Path) -> None:
    cert, _ = write_certificate(tmp_path, "a")
    _, key = write_certificate(tmp_path, "b")
    with pytest.raises(StartError, match="does not belong to the first certificate"):
        tls.load(str(cert), str(key))


def test_missing_and_broken_files_are_told(tmp_path: Path) -> None:
    cert, key = write_certificate(tmp_path)
    with pytest.raises(StartError, match=r"tls_key .* cannot be read: No such file"):
        tls.load(str(cert), str(tmp_path / "absent"))
    cert.write_text("nonsense")
    with pytest.raises(StartError, match="not usable PEM"):
        tls.load(str(cert), str(key))
    key.write_text("-----BEGIN ENCRYPTED PRIVATE KEY-----\n")
    with pytest.raises(StartError, match="encrypted"):
        tls.load(str(cert), str(key))


def served(cert: Path, key: Path) -> tls.Served:
    first = tls.load(str(cert), str(key))
    assert first is not None
    return tls.Served(str(cert), str(key), first)


@pytest.mark.parametrize(("days", "words"), [(-1, "has ended"), (13, "ends soon"), (15, "")])
def test_one_that_ends_is_told(tmp_path: Path, days: int, words: str) -> None:
    with structlog.testing.capture_logs() as logged:
        made = served(*Authority(tmp_path).issue(good_for=timedelta(days=days)))
    assert [words in line["event"] for line in logged] == [True] * bool(words)
    assert made.current.expire_s == pytest.approx(time.time() + days * 86_400, abs=3_700)


def test_a_renewed_pair_is_taken_and_a_broken_one_is_not(tmp_path: Path) -> None:
    pair, other = write_certificate(tmp_path, "a"), write_certificate(tmp_path, "b")
    made = served(*pair)
    before = made.current
    shutil.copy(other[0], pair[0])
    with structlog.testing.capture_logs() as logged:
        made.read_again()
        assert made.current is before
        shutil.copy(other[1], pair[1])
        made.read_again()
    assert made.current.cert_pem == other[0].read_bytes()
    assert [line["log_level"] for line in logged if "read again" in line["event"]] == ["warning", "info"]
    assert "does not belong" in logged[0]["error"]
    assert shown_by(made.context) == ssl.PEM_cert_to_DER_cert(other[0].read_text())


def shown_by(context: ssl.SSLContext) -> bytes | None:
    """The certificate that a client of this context is shown, through two buffers."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    asking = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    asking.check_hostname, asking.verify_mode = False, ssl.CERT_NONE
    client = asking.wrap_bio(to_client, to_server)
    server = context.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(3):
        for side in (client, server):
            with contextlib.suppress(ssl.SSLWantReadError):
                side.do_handshake()
    return client.getpeercert(binary_form=True)
