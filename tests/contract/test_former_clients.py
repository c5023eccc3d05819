"""A client made for a former contract works with this mesh: its bytes are understood, and ours by it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.contract.recorded.replay import Player, Recording
from tests.contract.recorded.wire import Wire
from tests.faults.meshd_process import MeshdProcess

RECORDINGS = sorted(Path(__file__).with_name("recorded").glob("*/client.json"))


@pytest.mark.parametrize("recording", [each.parent for each in RECORDINGS], ids=lambda folder: folder.name)
def test_a_recorded_client_is_served_as_it_was(recording: Path, tmp_path: Path) -> None:
    with MeshdProcess(tmp_path) as meshd, Wire(meshd.address) as wire:
        differences = list(Player(Recording(recording), wire).play())
    assert differences == []


def test_there_is_a_recording() -> None:
    assert "0.1.0" in [each.parent.name for each in RECORDINGS]
