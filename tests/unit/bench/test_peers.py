"""The table of peers: ours is held against the better placement of each, and none is compared without its terms."""

import pytest

from bench.peers import __main__ as peers
from bench.peers.__main__ import FREE, GOALS, OURS_BATCHED, OURS_SINGLE, PEERS, PINNED, Contender
from bench.record import Round, summarise

OTHER = Contender("Other", "one per call", "nothing", "no", 10)
ROUND: Round = {
    OURS_BATCHED.name: {PINNED: 1000.0},
    OURS_SINGLE.name: {PINNED: 100.0},
    OTHER.name: {PINNED: 20.0, FREE: 50.0},
}


def test_ours_is_compared_with_the_better_placement() -> None:
    rows = {row.name: row for row in summarise(peers.figures_of([OTHER]), [ROUND])}
    assert rows[f"{OURS_BATCHED.name} / Other"].median == 20
    assert rows[f"{OURS_SINGLE.name} / Other"].median == 2
    assert rows["Other, free"].median == 50


def test_table_tells_rates_ratios_and_terms() -> None:
    lines = peers.table([OTHER], [ROUND]).splitlines()
    assert lines[-1] == "| Other | 20 | 50 | 20 | 2 | one per call | nothing | no |"
    assert len({line.count("|") for line in lines}) == 1


def test_goals_are_about_contenders() -> None:
    names = {each.name for each in (OURS_BATCHED, OURS_SINGLE, *PEERS)}
    assert {name for pair in GOALS for name in pair} <= names
    assert len(names) == 2 + len(PEERS)


def test_peer_that_fails_is_named_once_and_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []

    def run(peer: Contender, placement: str) -> float:
        tried.append((peer.name, placement))
        raise RuntimeError("no such server")

    monkeypatch.setattr(peers, "run", run)
    monkeypatch.setattr(peers, "mesh", lambda *_: {"per_s": 1.0})
    skipped: dict[str, str] = {}
    for _ in range(2):
        figures = peers.one_round([OTHER], skipped)
        assert OTHER.name not in figures
    assert skipped == {"Other": "no such server"}
    assert tried == [("Other", PINNED)]


def test_peer_without_environment_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    monkeypatch.setattr(peers, "ENVIRONMENTS", tmp_path)
    with pytest.raises(RuntimeError, match="build/peers/celery is not there"):
        peers.run(PEERS[0], PINNED)
