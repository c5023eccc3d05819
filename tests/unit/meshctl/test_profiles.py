"""The file of profiles: what was stored comes back, and a write that fails leaves what was there."""

from __future__ import annotations

import datetime
import threading
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meshctl import profiles
from meshctl.problems import Problem
from meshctl.profiles import Profile, Profiles

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
PROFILES = st.builds(
    Profile,
    address=TEXTS.filter(bool),
    ca=TEXTS,
    insecure=st.booleans(),
    token=TEXTS,
    subject=TEXTS,
    expire_time=st.none() | st.datetimes(timezones=st.just(datetime.UTC)),
)


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    return profiles.file_path()


def store(stored: Profiles) -> None:
    with profiles.changing() as known:
        known.by_name, known.active = stored.by_name, stored.active


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.dictionaries(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_-]{0,9}", fullmatch=True), PROFILES, max_size=3))
def test_what_was_stored_comes_back(file: Path, by_name: dict[str, Profile]) -> None:
    stored = Profiles(by_name, next(iter(by_name), ""))
    store(stored)
    assert profiles.load() == stored


def test_no_file_is_no_profile(file: Path) -> None:
    assert profiles.load() == Profiles()


def test_a_write_that_fails_leaves_what_was_there(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = Profiles({"prod": Profile(address="h:1", token="t")}, "prod")
    store(before)

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("meshctl.profiles.os.fsync", full)
    with pytest.raises(Problem, match="No space left on device"):
        store(Profiles())
    assert profiles.load() == before
    assert list(file.parent.iterdir()) == [file]


def test_a_change_that_raises_is_none(file: Path) -> None:
    store(Profiles({"prod": Profile(address="h:1")}, "prod"))

    def change() -> None:
        with profiles.changing() as known:
            known.active = ""
            known.named("staging")

    with pytest.raises(Problem):
        change()
    assert profiles.load().active == "prod"


def test_two_changes_at_once_both_count(file: Path) -> None:
    begun = threading.Event()

    def second() -> None:
        begun.set()
        with profiles.changing() as known:
            known.by_name["second"] = Profile(address="h:2")

    other = threading.Thread(target=second)
    with profiles.changing() as known:
        other.start()
        assert begun.wait(10)
        known.by_name["first"] = Profile(address="h:1")
    other.join(10)
    assert sorted(profiles.load().by_name) == ["first", "second"]


def test_a_path_that_is_no_text_is_told(file: Path) -> None:
    with pytest.raises(Problem, match="cannot be kept"):
        store(Profiles({"prod": Profile(address="h:1", ca="/\udcff.pem")}))


def test_no_repr_shows_a_token() -> None:
    assert "s3cret" not in repr(Profiles({"prod": Profile(address="h:1", token="s3cret")}))
