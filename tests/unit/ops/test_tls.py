"""Certificates that cannot work are found before anything listens."""

import ssl
from pathlib import Path

import pytest

from meshd.config import StartError
from meshd.ops import tls
from tests.unit.ops.certificates import write_certificate


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
