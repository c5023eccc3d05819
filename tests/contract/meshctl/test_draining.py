"""`drain` and `undrain`: whom they mean, what they say, how they wait, and their exit codes."""

from __future__ import annotations

import pytest

from agentmesh.v1 import agent_pb2
from agentmesh.v1 import registry_service_pb2 as pb
from meshctl import draining
from tests.contract.meshctl.conftest import Meshctl
from tests.contract.meshctl.fake_meshd import FakeMeshd


@pytest.fixture
def fleet(meshd: FakeMeshd) -> FakeMeshd:
    """Two workers in production, one of them busy, and nobody elsewhere."""
    meshd.namespaces += ["production", "staging"]
    meshd.add_agent("production", "worker-1", labels={"zone": "a"}).held_attempts = 1
    meshd.add_agent("production", "worker-2", labels={"zone": "b"})
    meshd.add_agent("staging", "watcher", type=agent_pb2.AGENT_TYPE_MONITOR)
    return meshd


def test_the_namespace_is_the_one_with_agents_that_match(fleet: FakeMeshd, meshctl: Meshctl) -> None:
    outcome = meshctl("drain", "worker-*", "--reason", "new kernel")
    assert outcome.code == 0
    assert "Drained worker-* in production: 1 attempt held by worker-1 (task-1)." in outcome.err
    request = fleet.sent(pb.DrainAgentsRequest)
    assert (request.namespace, request.selector.agent_id_pattern) == ("production", "worker-*")
    assert (request.reason, request.hand_over, request.HasField("hand_over_grace")) == (
        "new kernel",
        False,
        False,
    )
    assert "was in force before" in meshctl("drain", "worker-*").err


def test_a_pattern_in_several_namespaces_asks_for_one(fleet: FakeMeshd, meshctl: Meshctl) -> None:
    outcome = meshctl("drain", "w*")
    assert outcome.code == 2
    assert "--namespace production" in outcome.err
    assert not fleet.drains


def test_who_is_not_there_yet_is_drained_too(fleet: FakeMeshd, meshctl: Meshctl) -> None:
    assert "no agent matches yet" in meshctl("drain", "later-*").err
    assert fleet.sent(pb.DrainAgentsRequest).namespace == "default"


def test_labels_type_and_hand_over_are_sent(fleet: FakeMeshd, meshctl: Meshctl) -> None:
    arguments = ("--label", "zone=a", "--agent-type", "worker", "--hand-over", "--grace", "5s")
    outcome = meshctl("drain", *arguments)
    assert outcome.code == 0
    assert "Drained all agents of type worker with zone=a" in outcome.err
    request = fleet.sent(pb.DrainAgentsRequest)
    (condition,) = request.selector.labels
    assert (condition.label, list(condition.values)) == ("zone", ["a"])
    assert request.selector.type == agent_pb2.AGENT_TYPE_WORKER
    assert request.hand_over
    assert request.hand_over_grace.seconds == 5


def test_waiting_ends_when_they_are_idle(fleet: FakeMeshd, meshctl: Meshctl) -> None:
    fleet.idle_after_looks = 3
    outcome = meshctl("drain", "worker-*", "--wait")
    assert outcome.code == 0
    assert outcome.err.splitlines()[-2:] == [
        "1 attempt held by worker-1 (task-1)",
        "Done: 2 agents idle.",
    ]


def test_a_misspelt_id_does_not_pass_for_an_idle_agent(fleet: FakeMeshd, meshctl: Meshctl) -> None:
    outcome = meshctl("drain", "workr-1", "--label", "zone=a b", "--wait")
    assert (outcome.code, outcome.out) == (3, "")
    assert outcome.err.splitlines() == [
        "error: no agent matches workr-1 with zone=a b in default; the drain is in force for those that register later",
        (
            "next:  lift it: meshctl undrain workr-1 --label 'zone=a b' -n default   "
            "or see the ids: meshctl agent list"
        ),
    ]
    assert fleet.drains
    assert meshctl("undrain", "workr-1", "--label", "zone=a b", "-n", "default").code == 0
    assert not fleet.drains


def test_an_undrain_that_lifts_nothing_says_where_to_look(fleet: FakeMeshd, meshctl: Meshctl) -> None:
    outcome = meshctl("undrain", "never-there")
    assert outcome.code == 3
    assert outcome.err.splitlines() == [
        "error: no drain of exactly never-there is in force in default",
        "next:  see those that are: meshctl drain --list",
    ]
    assert meshctl("undrain", "never-there", "-o", "json").code == 3


def test_waiting_goes_on_while_meshd_restarts(fleet: FakeMeshd, meshctl: Meshctl) -> None:
    fleet.idle_after_looks = 2
    fleet.away_looks = 2
    outcome = meshctl("drain", "worker-*", "--wait")
    assert outcome.code == 0
    assert "meshd is away" in outcome.err


def test_waiting_ends_when_meshd_stays_away(
    fleet: FakeMeshd, meshctl: Meshctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(draining, "GIVE_UP_S", 0.0)
    fleet.away_looks = 2
    outcome = meshctl("drain", "worker-*", "--wait")
    assert outcome.code == 5
    assert "meshd is going down" in outcome.err


def test_waiting_in_vain_is_a_timeout(fleet: FakeMeshd, meshctl: Meshctl) -> None:
    outcome = meshctl("drain", "worker-*", "--wait", "--timeout", "50ms")
    assert outcome.code == 6
    assert "1 attempt held by worker-1 (task-1); the drain stays in force" in outcome.err
    assert "--hand-over" in outcome.err


def test_json_has_the_names_of_the_contract(fleet: FakeMeshd, meshctl: Meshctl) -> None:
    fleet.idle_after_looks = 2
    document = meshctl("drain", "worker-*", "--wait", "-o", "json").json
    assert document["drain"]["selector"]["agent_id_pattern"] == "worker-*"
    assert document["agents"]["held_attempts"] == 0


def test_drains_are_listed(fleet: FakeMeshd, meshctl: Meshctl) -> None:
    assert "No drain is in force" in meshctl("drain", "--list").err
    meshctl("drain", "worker-*", "--label", "zone=a", "--reason", "new \x1b[31mkernel")
    lines = meshctl("drain", "--list").out.splitlines()
    assert lines[0].split() == ["NAMESPACE", "AGENTS", "MATCHING", "HELD", "AGE", "BY", "REASON"]
    assert lines[1].split()[:4] == ["production", "worker-*", "with", "zone=a"]
    assert "\x1b" not in lines[1]
    (listed,) = meshctl("drain", "--list", "-o", "json").json["drains"]
    assert listed["held_attempts"] == 1


@pytest.mark.parametrize("command", ["status", "discover", "workload"])
def test_a_draining_agent_is_shown_as_such(fleet: FakeMeshd, meshctl: Meshctl, command: str) -> None:
    fleet.agents["production", "worker-1"].health = agent_pb2.HEALTH_DRAINING
    lines = meshctl(command).out.splitlines()
    assert next("draining" in line for line in lines if "worker-1" in line)


def test_undrain_lifts_what_was_drained(fleet: FakeMeshd, meshctl: Meshctl) -> None:
    meshctl("drain", "worker-*")
    outcome = meshctl("undrain", "worker-*")
    assert outcome.code == 0
    assert "Lifted the drain of worker-* in production." in outcome.err
    assert fleet.sent(pb.DrainAgentsRequest).lift
    assert not fleet.drains


def test_undrain_of_one_agent_says_which_drain_holds_it(fleet: FakeMeshd, meshctl: Meshctl) -> None:
    meshctl("drain", "worker-*")
    outcome = meshctl("undrain", "worker-1", "-n", "production")
    assert outcome.code == 3
    assert "no drain of exactly worker-1 is in force in production" in outcome.err
    assert "other drains hold some of these agents" in outcome.err
    assert fleet.drains


@pytest.mark.parametrize(
    "arguments",
    [
        ("drain",),
        ("undrain",),
        ("drain", "w*", "--grace", "5s"),
        ("drain", "w*", "--timeout", "5s"),
        ("drain", "w*", "--list"),
        ("drain", "w*", "--label", "zone"),
    ],
)
def test_what_makes_no_sense_is_refused_before_any_call(
    fleet: FakeMeshd, meshctl: Meshctl, arguments: tuple[str, ...]
) -> None:
    outcome = meshctl(*arguments)
    assert outcome.code == 2
    assert "next:" in outcome.err
    assert not fleet.requests
