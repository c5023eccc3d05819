"""Everything that lists the settings lists all of them, with the words of their declaration."""

import tomllib
from dataclasses import fields
from pathlib import Path

import pytest

from meshd.config import Settings, load
from meshd.config.example import example
from meshd.config.sources import parser

NAMES = [known.name for known in fields(Settings)]


def test_the_settings_file_is_accepted_when_everything_in_it_is_uncommented(tmp_path: Path) -> None:
    text = "\n".join(line.removeprefix("#") for line in example().splitlines() if not line.startswith("# "))
    values = tomllib.loads(text)
    assert list(values) == NAMES
    (tmp_path / "all.toml").write_text(text)
    settings = load(["--config", str(tmp_path / "all.toml")], {}).settings
    assert settings == Settings(data_dir="/var/lib/meshd", socket="/run/meshd/meshd.sock")


@pytest.mark.parametrize("name", NAMES)
def test_help_explains_the_setting(name: str) -> None:
    text = " ".join(parser().format_help().split())
    assert "--" + name.replace("_", "-") in text


@pytest.mark.parametrize("known", fields(Settings), ids=lambda known: known.name)
def test_the_setting_is_explained(known: object) -> None:
    metadata = known.metadata  # type: ignore[attr-defined]
    assert len(metadata["text"]) > 20
    assert metadata["text"].endswith(".")
