"""The reconnect and renewal rules in virtual time, against a daemon of a few lines."""

from __future__ import annotations

import asyncio
import base64
import json
import random
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from agentmesh.errors import (
    ConfigurationError,
    MeshError,
    NotAuthenticated,
    NotFound,
    Overloaded,
    SessionEnded,
    Superseded,
    Unreachable,
)
from agentmesh.handlers import Uplink
from agentmesh.identity import Identity
from agentmesh.presence import Presence
from agentmesh.session import FEATURES, Attempt, SessionMachine
from agentmesh.v1.agent_pb2 import Agent, AgentSpec, AgentType, Health
from agentmesh.v1.auth_service_pb2 import JoinRequest, RenewTokenRequest, RenewTokenResponse, Token
from agentmesh.v1.registry_service_pb2 import GetAgentRequest, RegisterAgentRequest, RegisterAgentResponse
from agentmesh.v1.session_pb2 import (
    AgentFrame,
    Assign,
    Done,
    HeldPhase,
    LeaseAck,
    MeshFrame,
    Open,
    Opened,
    Reauthenticate,
    SessionLimits,
)
from tests.unit.sdk.virtual_clock import VirtualClock, settle

TOKEN_LIFETIME_S = 600.0


class World:
    """The daemon and the way to it. Tokens end in virtual time."""

    def __init__(self, clock: VirtualClock) -> None:
        self.clock = clock
        self.is_up = True
        self.answers_beats = True
        self.is_slow_to_open = False
        self.forgets_sessions = False
        self.knows_the_agent = True
        self.is_set_up = True
        self.refusal: MeshError | None = None
        self.rival: str | None = None
        self.tokens: dict[str, float] = {}
        self.joins = self.renewals = self.registrations = 0
        self.connects_s: list[float] = []
        self.open_links = 0
        self.openings: list[Open] = []
        self.streams: list[WorldStream] = []

    def issue(self) -> Token:
        claims = json.dumps({"iat": 0, "exp": TOKEN_LIFETIME_S, "n": len(self.tokens)}).encode()
        value = f"e30.{base64.urlsafe_b64encode(claims).decode().rstrip('=')}.x"
        self.tokens[value] = self.clock.now_s + TOKEN_LIFETIME_S
        return Token(value=value)

    def require(self, token: str | None = None) -> None:
        if not self.is_up:
            raise Unreachable("nobody there")
        if self.refusal is not None:
            raise self.refusal
        if token is not None and self.tokens.get(token, -1.0) <= self.clock.now_s:
            raise NotAuthenticated("expired", reason="TOKEN_EXPIRED")

    def go_down(self) -> None:
        self.is_up = False
        for stream in self.streams:
            stream.inbox.put_nowait(Unreachable("cut"))

    def connect(self, endpoint: str | None) -> WorldLink:
        self.connects_s.append(self.clock.now_s)
        self.open_links += 1
        if not self.is_set_up:
            raise ConfigurationError("the CA file does not exist")
        return WorldLink(self)


class WorldLink:
    def __init__(self, world: World) -> None:
        self.world = world

    async def join(self, request: JoinRequest) -> Token:
        self.world.require()
        self.world.joins += 1
        return self.world.issue()

    async def renew_token(self, request: RenewTokenRequest) -> RenewTokenResponse:
        self.world.require()
        if not request.signature:
            return RenewTokenResponse(nonce=b"n")
        self.world.renewals += 1
        return RenewTokenResponse(token=self.world.issue())

    async def register(self, request: RegisterAgentRequest, token: str) -> RegisterAgentResponse:
        self.world.require(token)
        self.world.registrations += 1
        self.world.forgets_sessions = False
        limits = SessionLimits()
        limits.beat_interval.FromSeconds(1)
        limits.lease_ttl.FromMilliseconds(3500)
        limits.max_reconnect_backoff.FromSeconds(1)
        limits.disconnected_grace.FromSeconds(600)
        return RegisterAgentResponse(session_id=f"s{self.world.registrations}", limits=limits)

    async def get_agent(self, request: GetAgentRequest, token: str) -> Agent:
        self.world.require(token)
        if not self.world.knows_the_agent:
            raise NotFound("unknown", reason="AGENT_NOT_FOUND")
        return Agent(session_id=self.world.rival or "", health=Health.HEALTH_HEALTHY)

    def open_stream(self, token: str, *, takes_work: bool) -> WorldStream:
        return WorldStream(self.world, token)

    async def close(self) -> None:
        self.world.open_links -= 1


class WorldStream:
    def __init__(self, world: World, token: str) -> None:
        self.world = world
        self.token = token
        self.up: list[AgentFrame] = []
        self.inbox: asyncio.Queue[Sequence[MeshFrame] | Exception] = asyncio.Queue()

    async def write(self, frames: list[AgentFrame]) -> None:
        try:
            self._take(frames)
        except MeshError as error:
            self.inbox.put_nowait(error)  # as with gRPC, the reader gets the status
            raise Unreachable("the stream is over") from None

    def _take(self, frames: list[AgentFrame]) -> None:
        self.world.require(self.token)
        for frame in frames:
            if frame.HasField("fresh_token"):
                self.token = frame.fresh_token.token
            if frame.HasField("open"):
                if self.world.forgets_sessions:
                    raise SessionEnded("unknown", reason="SESSION_NOT_FOUND")
                self.world.openings.append(frame.open)
                self.world.streams.append(self)
                if not self.world.is_slow_to_open:
                    self.open()
            elif frame.HasField("beat") and self.world.answers_beats:
                self.inbox.put_nowait([MeshFrame(lease_ack=LeaseAck(beat_seq=frame.beat.seq))])
            self.up.append(frame)

    def open(self) -> None:
        self.inbox.put_nowait([MeshFrame(opened=Opened(features=FEATURES))])

    async def read(self) -> Sequence[MeshFrame] | None:
        got = await self.inbox.get()
        if isinstance(got, Exception):
            raise got
        return got

    def cancel(self) -> None:
        pass


class Setup:
    def __init__(self, directory: Path, given_token: str | None = None) -> None:
        self.clock = VirtualClock()
        self.world = World(self.clock)
        self.machine = SessionMachine("default", "worker-1", 4, lambda task_type: True)
        self.delivered: list[tuple[Sequence[Attempt], Sequence[Attempt]]] = []
        self.uplink = Uplink(lambda: None)
        worker = AgentType.AGENT_TYPE_WORKER
        self.identity = Identity(
            "default",
            "worker-1",
            worker,
            [],
            directory,
            self.clock,
            given_token=given_token,
            on_socket=True,
        )
        self.presence = Presence(
            self.machine,
            self.identity,
            AgentSpec(agent_id="worker-1", slots=4),
            self.world.connect,
            self.uplink,
            lambda start, stop: self.delivered.append((start, stop)),
            self.clock,
            random.Random(1),
        )
        self.running = asyncio.create_task(self.presence.run())


@pytest.fixture
async def setup(tmp_path: Path) -> AsyncIterator[Setup]:
    made = Setup(tmp_path)
    await settle()
    yield made
    made.running.cancel()
    await asyncio.gather(made.running, return_exceptions=True)


async def test_twenty_minutes_without_meshd_and_the_agent_returns_unaided(setup: Setup) -> None:
    world, clock = setup.world, setup.clock
    assert (len(world.openings), world.joins) == (1, 1)
    world.go_down()
    world.connects_s.clear()
    await clock.advance(20 * 60)
    assert not setup.running.done()
    gaps_s = [after - before for before, after in zip(world.connects_s, world.connects_s[1:], strict=False)]
    assert max(gaps_s) <= 1.0
    assert len(gaps_s) > 20 * 60
    world.is_up = True
    await clock.advance(1.0)
    assert len(world.openings) == 2
    assert world.openings[1].session_id == "s1"
    assert world.joins == 1  # the key came back to a token, though the old one had expired
    assert world.renewals == 1
    assert world.open_links == 1


async def test_pauses_start_small_and_differ_between_agents(setup: Setup) -> None:
    setup.world.go_down()
    setup.world.connects_s.clear()
    await setup.clock.advance(3.0)
    assert setup.world.connects_s[0] <= 0.1
    assert len({round(at_s, 6) for at_s in setup.world.connects_s}) == len(setup.world.connects_s)


async def test_a_daemon_that_names_a_delay_is_left_alone_for_so_long(setup: Setup) -> None:
    setup.world.go_down()
    setup.world.is_up, setup.world.refusal = True, Overloaded("too much", retry_after_s=5.0)
    setup.world.connects_s.clear()
    await setup.clock.advance(60.0)
    assert 1 < len(setup.world.connects_s) <= 60 / 5 + 1
    setup.world.refusal = None
    await setup.clock.advance(6.0)
    assert len(setup.world.openings) == 2


async def test_fresh_tokens_that_are_refused_again_and_again_end_the_agent(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(setup.world, "issue", lambda: Token(value="never good"))
    setup.world.tokens.clear()
    setup.world.streams[-1].inbox.put_nowait(Unreachable("cut"))
    await setup.clock.advance(30.0)
    assert setup.running.done()
    assert isinstance(setup.running.exception(), NotAuthenticated)


async def test_tokens_are_renewed_at_four_fifths_of_their_life_on_one_stream(setup: Setup) -> None:
    await setup.clock.advance(TOKEN_LIFETIME_S * 0.8 - 1.0)
    assert setup.world.renewals == 0
    await setup.clock.advance(2.0)
    assert setup.world.renewals == 1
    fresh = [frame.fresh_token.token for frame in setup.world.streams[0].up if frame.HasField("fresh_token")]
    assert fresh == [setup.identity.current]
    await setup.clock.advance(TOKEN_LIFETIME_S * 10)
    assert len(setup.world.streams) == 1
    assert setup.world.renewals == 13


async def test_a_silent_daemon_is_left_after_one_and_a_half_leases(setup: Setup) -> None:
    await setup.clock.advance(10.0)
    setup.world.answers_beats = False
    await setup.clock.advance(4.0)
    assert len(setup.world.streams) == 1
    await setup.clock.advance(3.5)
    assert len(setup.world.streams) == 2


async def test_a_stall_of_this_process_is_not_the_daemons_silence(setup: Setup) -> None:
    await setup.clock.advance(3.0)
    setup.clock.now_s += 60.0
    await setup.clock.advance(3.0)
    assert len(setup.world.streams) == 1


async def test_results_wait_through_an_absence_and_are_given_up_after_the_grace(setup: Setup) -> None:
    setup.world.streams[0].inbox.put_nowait([MeshFrame(assign=Assign(fence=b"a", task_type="t"))])
    await settle()
    (attempt,) = setup.delivered[0][0]
    setup.world.go_down()
    await settle()
    setup.uplink.post((attempt, AgentFrame(done=Done(fence=b"a"))))
    setup.presence.flush_uplink()
    await setup.clock.advance(300.0)
    setup.world.is_up = True
    await setup.clock.advance(1.0)
    assert [(h.fence, h.phase) for h in setup.world.openings[1].held] == [
        (b"a", HeldPhase.HELD_PHASE_RESULT_PENDING)
    ]
    assert any(frame.HasField("done") for frame in setup.world.streams[1].up)
    setup.world.go_down()
    await setup.clock.advance(603.0)
    setup.world.is_up = True
    await setup.clock.advance(1.0)
    assert not setup.world.openings[2].held


async def test_a_forgotten_session_is_registered_anew_unless_a_rival_lives(setup: Setup) -> None:
    setup.world.forgets_sessions = True
    setup.world.go_down()
    setup.world.is_up = True
    await setup.clock.advance(2.0)
    assert setup.world.registrations == 2
    setup.world.forgets_sessions = True
    setup.world.rival = "other"
    setup.world.streams[-1].inbox.put_nowait(Unreachable("cut"))
    await setup.clock.advance(2.0)
    assert setup.running.done()
    assert isinstance(setup.running.exception(), Superseded)


async def test_a_mesh_that_forgot_the_agent_itself_gets_it_back(setup: Setup) -> None:
    setup.world.knows_the_agent = False  # restored from a backup that is older than the agent
    setup.world.forgets_sessions = True
    setup.world.go_down()
    setup.world.is_up = True
    await setup.clock.advance(2.0)
    assert not setup.running.done()
    assert (setup.world.registrations, len(setup.world.openings)) == (2, 2)


async def test_a_ca_file_that_is_missing_for_a_while_is_waited_for(setup: Setup) -> None:
    setup.world.is_set_up = False
    setup.world.go_down()
    setup.world.is_up = True
    await setup.clock.advance(60.0)
    assert not setup.running.done()
    setup.world.is_set_up = True
    await setup.clock.advance(1.0)
    assert len(setup.world.openings) == 2


async def test_a_ca_file_that_was_never_there_ends_the_agent(tmp_path: Path) -> None:
    setup = Setup(tmp_path)
    setup.world.is_set_up = False
    await settle()
    assert isinstance(setup.running.exception(), ConfigurationError)


async def test_leaving_while_the_daemon_is_away_ends(setup: Setup) -> None:
    setup.world.go_down()
    await settle()
    await setup.presence.leave(0.0)
    await setup.clock.advance(1.0)
    assert setup.running.done()
    assert setup.running.exception() is None


async def test_who_leaves_says_how_many_attempts_it_hands_back(
    setup: Setup, caplog: pytest.LogCaptureFixture
) -> None:
    setup.world.streams[0].inbox.put_nowait([MeshFrame(assign=Assign(fence=b"a", task_type="t"))])
    await settle()
    await setup.presence.leave(0.0)
    assert caplog.messages == [
        "agent default/worker-1 leaves with 1 unfinished attempts: other agents get them"
    ]


async def test_a_given_token_that_runs_out_is_told_before(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    setup = Setup(tmp_path, given_token="given")
    setup.world.tokens["given"] = 60.0
    await settle()
    setup.world.streams[0].inbox.put_nowait([MeshFrame(reauthenticate=Reauthenticate())])
    await settle()
    (told,) = caplog.messages
    assert "will end soon" in told
    setup.world.streams[0].inbox.put_nowait(
        NotAuthenticated("renew it by RenewToken", reason="TOKEN_EXPIRED")
    )
    await settle()
    ended = setup.running.exception()
    assert isinstance(ended, NotAuthenticated)
    assert ended.reason == "TOKEN_EXPIRED"
    assert "RenewToken" not in str(ended)
    assert "AGENTMESH_JOIN_TOKEN" in str(ended)


async def test_leaving_while_the_stream_opens_says_bye_on_it(setup: Setup) -> None:
    setup.world.is_slow_to_open = True
    setup.world.go_down()
    setup.world.is_up = True
    await setup.clock.advance(1.0)
    leaving = asyncio.create_task(setup.presence.leave(30.0))
    await settle()
    assert not leaving.done()
    stream = setup.world.streams[1]
    stream.open()
    await settle()
    assert leaving.done()
    assert stream.up[-1].HasField("bye")


async def test_a_faster_pace_does_not_wait_for_the_end_of_a_slow_pause(setup: Setup) -> None:
    def beats() -> int:
        return sum(frame.HasField("beat") for frame in setup.world.streams[0].up)

    async def prescribe(seconds: float) -> None:
        ack = LeaseAck()
        ack.beat_interval.FromMilliseconds(round(seconds * 1000))
        ack.lease_ttl.FromMilliseconds(round(seconds * 3500))
        setup.world.streams[0].inbox.put_nowait([MeshFrame(lease_ack=ack)])
        await settle()

    await prescribe(100.0)
    before = beats()
    await setup.clock.advance(79.0)
    assert beats() == before
    await prescribe(1.0)
    await setup.clock.advance(5.0)
    assert beats() >= before + 5
