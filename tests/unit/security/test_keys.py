"""The key file: made once, kept private, never tightened silently."""

import stat
from pathlib import Path
from typing import Any

import pytest

from meshd.security.keys import KEY_FILE, KeyFileError, jwks, load_signing_key, thumbprint


def test_the_first_start_makes_a_private_key_and_later_ones_keep_it(tmp_path: Path) -> None:
    directory = tmp_path / "data" / "keys"
    first = load_signing_key(directory)
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert stat.S_IMODE((directory / KEY_FILE).stat().st_mode) == 0o600
    again = load_signing_key(directory)
    assert again.key_id == first.key_id
    assert again.create_ms == first.create_ms


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o666, 0o620])
def test_a_key_that_others_may_touch_is_refused(tmp_path: Path, mode: Any) -> None:
    load_signing_key(tmp_path / "keys")
    path = tmp_path / "keys" / KEY_FILE
    path.chmod(mode)
    with pytest.raises(KeyFileError, match="chmod 0600"):
        load_signing_key(tmp_path / "keys")


def test_a_directory_that_others_may_enter_is_refused(tmp_path: Path) -> None:
    load_signing_key(tmp_path / "keys")
    (tmp_path / "keys").chmod(0o755)
    with pytest.raises(KeyFileError, match="chmod 0700"):
        load_signing_key(tmp_path / "keys")


@pytest.mark.parametrize(
    "content", [b"", b"not a key", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"]
)
def test_a_damaged_key_is_named(tmp_path: Path, content: Any) -> None:
    load_signing_key(tmp_path / "keys")
    (tmp_path / "keys" / KEY_FILE).write_bytes(content)
    with pytest.raises(KeyFileError, match=KEY_FILE):
        load_signing_key(tmp_path / "keys")


def test_a_link_is_refused(tmp_path: Path) -> None:
    load_signing_key(tmp_path / "keys")
    path = tmp_path / "keys" / KEY_FILE
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(KeyFileError, match="symbolic link"):
        load_signing_key(tmp_path / "keys")


def test_an_interrupted_first_start_leaves_nothing_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "keys").mkdir(mode=0o700)
    (tmp_path / "keys" / "signing.new").write_bytes(b"half")
    assert load_signing_key(tmp_path / "keys").key_id


def test_thumbprint_is_that_of_rfc_8037() -> None:
    public = bytes.fromhex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a")
    assert thumbprint(public) == "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"
    (entry,) = jwks([public])["keys"]
    assert entry == {
        "kty": "OKP",
        "crv": "Ed25519",
        "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo",
        "kid": "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k",
        "alg": "EdDSA",
        "use": "sig",
    }
