"""The agent's key: its owner's alone, and one for all processes of the agent, however they start."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from agentmesh.errors import ConfigurationError
from agentmesh.identity import KEY_FILE, load_or_create_key


def test_only_its_owner_may_read_it(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        _, is_new = load_or_create_key(tmp_path / "state")
    finally:
        os.umask(before)
    assert is_new
    modes = [path.stat().st_mode & 0o777 for path in (tmp_path / "state", tmp_path / "state" / KEY_FILE)]
    assert modes == [0o700, 0o600]
    assert [path.name for path in (tmp_path / "state").iterdir()] == [KEY_FILE], "no draft is left"


def test_of_two_processes_that_make_one_at_once_both_have_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link, others = os.link, []

    def overtaken(draft: Any, path: Any) -> None:
        monkeypatch.setattr(os, "link", link)
        draft.rename(aside := draft.with_name("mine"))
        others.append(load_or_create_key(tmp_path)[0])
        aside.rename(draft)
        link(draft, path)

    monkeypatch.setattr(os, "link", overtaken)
    key, is_new = load_or_create_key(tmp_path)
    assert not is_new
    assert key.public_key() == others[0].public_key()
    assert [path.name for path in tmp_path.iterdir()] == [KEY_FILE]


@pytest.mark.parametrize(
    "content", [b"", b"no key", b"-----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----\n"]
)
def test_what_is_no_key_is_named_and_left(tmp_path: Path, content: bytes) -> None:
    (tmp_path / KEY_FILE).write_bytes(content)
    with pytest.raises(ConfigurationError, match="holds no Ed25519 key"):
        load_or_create_key(tmp_path)
    assert (tmp_path / KEY_FILE).read_bytes() == content
