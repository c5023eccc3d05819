"""Streams of agents: Work and Heartbeat carry the same session. Reads frames up, writes frames down, in batches."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from hashlib import sha256
from typing import Any

import grpc.aio

from agentmesh.v1 import registry_service_pb2, scheduler_service_pb2, session_pb2
from meshd.domain import commands as c
from meshd.domain.access import Call
from meshd.domain.errors import Reason, Refusal
from meshd.domain.frames import Assign, Done, Fail, Feature, Reauthenticate, Stopped, UpFrame
from meshd.domain.limits import MAX_MESSAGE_BYTES, MAX_SLOTS
from meshd.domain.state import Namespace
from meshd.domain.values import Session
from meshd.engine.authority import Authority
from meshd.engine.mesh import Entry, Mesh
from meshd.engine.streams import AgentStream
from meshd.wire import validate
from meshd.wire.arriving import RECEIVE_S
from meshd.wire.codec import frames as codec
from meshd.wire.context import authorize_namespace, current_call

Request = scheduler_service_pb2.WorkRequest | registry_service_pb2.HeartbeatRequest
FRAMES_AT_ONCE = 500
"""Frames of one stream, about a millisecond's work, that a turn of the mesh takes in passing. Who sends more before the
next turn stands in line with others who do, and each of them leaves the rest of the mesh some time."""
PAUSE_PER_FRAME_S = 5e-6
"""Somewhat longer than to read, handle and answer a frame takes."""
HEADROOM_BYTES = 16 * 1024
"""Kept free below the message limit for what the estimate of a frame's size leaves out."""


class SessionStreams:
    """Serves both kinds of streams."""

    def __init__(self, mesh: Mesh, authority: Authority) -> None:
        self._mesh = mesh
        self._authority = authority
        self._large = asyncio.Lock()
        """Held by the stream whose many frames are handled."""

    async def serve(
        self,
        requests: AsyncIterator[Any],
        context: Any,
        response: type[Any],
        *,
        takes_work: bool,
    ) -> None:
        """Serve one stream until either side ends it."""
        call = current_call()
        iterator = requests.__aiter__()
        first = await _first(iterator)
        if first is None or not first.frames or first.frames[0].WhichOneof("frame") != "open":
            raise Refusal(
                Reason.PROTOCOL_VIOLATION,
                "the first frame of a stream is Open; send it",
            )
        codec.check_count(first.frames)
        opening = first.frames[0].open
        ns = self._mesh.namespace(authorize_namespace(call, opening.namespace))
        stream = AgentStream(ns)
        limit = min(opening.max_inbound_bytes or MAX_MESSAGE_BYTES, MAX_MESSAGE_BYTES) - HEADROOM_BYTES
        try:
            session = await self._open(ns, stream, opening, call, takes_work=takes_work)
        except asyncio.CancelledError:
            # The caller is gone while the opening becomes durable: the session must not pass for connected.
            opened = ns.sessions.get(opening.session_id)
            if opened is not None:
                self._mesh.post(ns, c.StreamEnded(opened, stream))
            raise
        stream.session = session
        self._mesh.streams.add(stream)
        if Feature.REAUTHENTICATE in session.features:
            self._authority.ask_in_time(call.stream, lambda by_ms: stream.push(Reauthenticate(by_ms)))
        stream.writer = writer = asyncio.create_task(self._write(stream, context, response, limit))
        reader = asyncio.create_task(self._read(ns, stream, call, first.frames[1:], iterator))
        try:
            done, _ = await asyncio.wait((reader, writer), return_when=asyncio.FIRST_COMPLETED)
            if stream.refusal is not None:
                raise stream.refusal
            for task in done:
                # The reader's refusal ends the call with its status. A writer is cancelled when its peer does not read.
                if not task.cancelled() and task.result() is False:
                    raise asyncio.CancelledError  # as gRPC does when it finds that out first
        finally:
            self._mesh.streams.discard(stream)
            self._mesh.post(ns, c.StreamEnded(session, stream))
            reader.cancel()
            writer.cancel()
            await asyncio.gather(reader, writer, return_exceptions=True)

    async def _open(
        self,
        ns: Namespace,
        stream: AgentStream,
        opening: session_pb2.Open,
        call: Call,
        *,
        takes_work: bool,
    ) -> Any:
        agent_id = validate.agent_id(opening.agent_id, "open.agent_id")
        own_identity(call, agent_id)
        held = codec.check_open(opening)
        slots = (
            int(validate.number(opening.slots, 0, MAX_SLOTS, "open.slots"))
            if opening.HasField("slots")
            else None
        )
        return await self._mesh.ask(
            ns,
            lambda ticket: c.OpenStream(
                ticket,
                stream,
                agent_id,
                opening.session_id,
                sha256(opening.resume_token).digest(),
                opening.stream_seq,
                takes_work,
                codec.features(opening.features),
                slots,
                held,
            ),
            Entry(call, f"agent:{agent_id}"),
        )

    async def _read(
        self,
        ns: Namespace,
        stream: AgentStream,
        call: Call,
        rest: Any,
        requests: AsyncIterator[Any],
    ) -> None:
        ended: set[bytes] = set()
        """Fences of the reports that this turn of the mesh is still to handle."""
        if rest:
            self._arrived(ns, stream, call, rest, ended)
        turn = frames_of_turn = 0
        async for request in requests:
            count = len(request.frames)
            if turn != self._mesh.turns:
                turn, frames_of_turn = self._mesh.turns, 0
                ended.clear()
            frames_of_turn += count
            if frames_of_turn <= FRAMES_AT_ONCE:
                self._arrived(ns, stream, call, request.frames, ended)
                continue
            async with self._large:
                self._arrived(ns, stream, call, request.frames, ended)
                await self._mesh.turned()
                await asyncio.sleep(count * PAUSE_PER_FRAME_S)

    def _arrived(
        self, ns: Namespace, stream: AgentStream, call: Call, messages: Any, ended: set[bytes]
    ) -> None:
        frames, token = codec.up(messages)
        if token:
            self._authority.reauthenticate(call.stream, token)
        assert stream.session is not None
        entry = _audited(call, frames, stream.session, ended)
        self._mesh.post(ns, c.Frames(stream.session, stream, frames), entry)

    async def _write(self, stream: AgentStream, context: Any, response: type[Any], limit_bytes: int) -> bool:
        """Write what waits until the stream is to end; returns False when the call was over before that."""
        while frames := await stream.take():
            for batch in codec.cut(frames, limit_bytes):
                if codec.too_large(batch[0], limit_bytes):
                    # A task from before payloads had a limit: sent, it would end every stream that is to carry it.
                    self._mesh.post(stream.namespace, c.Unsendable(stream, batch[0], limit_bytes))
                    continue
                payloads = await self._payloads(batch)
                message = response()
                message.frames.extend([codec.down(f, payloads, self._mesh.rules) for f in batch])
                try:
                    await context.write(message)
                except grpc.aio.BaseError:
                    # Not raised: the task would keep it, it this stream, and that the task, until garbage is searched.
                    return False
        return True

    async def _payloads(self, batch: list[Any]) -> dict[int, bytes]:
        """Return the inputs of a batch's assignments: from memory, else from the store in one read."""
        payloads: dict[int, bytes] = {}
        absent: list[int] = []
        for frame in batch:
            if type(frame) is Assign:
                cached = self._mesh.payloads.get(frame.task_key) if frame.payload_bytes else b""
                if cached is None:
                    absent.append(frame.task_key)
                else:
                    payloads[frame.task_key] = cached
        if absent:
            payloads.update(await self._mesh.commits.read(self._mesh.store.get_payloads, absent))
        return payloads


async def _first(requests: AsyncIterator[Any]) -> Request | None:
    """Return the first message of a stream. Raises Refusal when it does not come: no lease ends such a stream."""
    try:
        async with asyncio.timeout(RECEIVE_S):
            return await anext(requests, None)
    except TimeoutError:
        message = f"Open did not arrive within {RECEIVE_S:g} s of the stream's beginning; send it at once"
        raise Refusal(Reason.WAIT_TIMEOUT, message) from None


def own_identity(call: Call, agent_id: str) -> None:
    """Refuse a caller that names an agent other than itself; operators are no agents."""
    if call.principal.agent_id != agent_id:
        message = f"{call.principal.subject} is not agent {agent_id}; use that agent's own token"
        raise Refusal(Reason.IDENTITY_MISMATCH, message, field="agent_id")


def _audited(call: Call, frames: list[UpFrame], session: Session, ended: set[bytes]) -> Entry | None:
    """Return one audit entry for the reports of a message that end attempts, or None without any.

    Such a report ends an attempt that its session holds, and changes nothing with another fence: who holds no work must
    not be able to fill the log. ``ended`` has the fences that were reported before in this turn.
    """
    fences: list[bytes] = []
    for frame in frames:
        if (
            isinstance(frame, Done | Fail | Stopped)
            and frame.fence in session.held
            and frame.fence not in ended
        ):
            ended.add(frame.fence)
            fences.append(frame.fence)
    if not fences:
        return None
    return Entry(call, count=len(fences), digest=sha256(b"".join(fences)).digest())
