"""Plays a recorded client against a mesh, and reads the answers as that client would: by its own descriptors.

A recording is a folder: `contract.binpb` has the descriptors of its day, `client.json` the steps. What the mesh makes up
(session, tokens, fences) is learned from the answers and put in the place of the recorded values, byte for byte: such
values have kept their lengths, or the step fails. Every field that was filled then must be filled now; those of
`SAME` with the same value.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import Message

from tests.contract.recorded.wire import Stream, Wire

SAME = frozenset(
    [
        "agent_id",
        "attempt",
        "capabilities",
        "created",
        "drop",
        "inline",
        "keep",
        "media_type",
        "name",
        "namespace",
        "number",
        "outcome",
        "priority",
        "protocol",
        "slots",
        "state",
        "subject",
        "task_id",
        "task_type",
        "type",
    ]
)
"""Fields of answers that say the same to the same requests, whenever they are asked."""


class Recording:
    """What a client of one contract sent and learned."""

    def __init__(self, folder: Path) -> None:
        self.steps: list[dict[str, Any]] = json.loads((folder / "client.json").read_text())
        self._pool = descriptor_pool.DescriptorPool()
        files = descriptor_pb2.FileDescriptorSet.FromString((folder / "contract.binpb").read_bytes())
        for file in files.file:
            self._pool.Add(file)

    def read(self, kind: str, content: bytes) -> Message:
        """Read a message by the descriptors of the recording's day."""
        return message_factory.GetMessageClass(self._pool.FindMessageTypeByName(kind)).FromString(content)


class Player:
    """Plays one recording."""

    def __init__(self, recording: Recording, wire: Wire) -> None:
        self._recording = recording
        self._wire = wire
        self._learned: list[tuple[bytes, bytes]] = []
        self._stream: Stream | None = None
        self._frames: list[Any] = []

    def play(self) -> Iterator[str]:
        """Play all steps; yields what differs from the recording."""
        for number, step in enumerate(self._recording.steps, 1):
            request = self._now(bytes.fromhex(step.get("send", "")))
            where = f"step {number}, {step['method']}"
            if step["kind"] == "call":
                answer = self._wire.call(step["method"], request, as_agent=step["as_agent"])
                yield from self._judge(where, step, self._recording.read(step["receive"], answer))
            else:
                if self._stream is None:
                    self._stream = self._wire.stream(step["method"])
                if request:
                    self._stream.send(request)
                yield from self._judge(where, step, self._until(step["frame"]))
        if self._stream is not None:
            self._stream.close()

    def _until(self, kind: str) -> Message:
        """Return the next frame of a kind; others, such as LeaseAck, come when they will."""
        assert self._stream is not None
        while True:
            while self._frames:
                frame: Message = self._frames.pop(0)
                if frame.WhichOneof("frame") == kind:
                    return frame
            message: Any = self._recording.read("agentmesh.v1.WorkResponse", self._stream.receive())
            self._frames += message.frames

    def _judge(self, where: str, step: dict[str, Any], answer: Message) -> Iterator[str]:
        then = self._recording.read(step["receive"], bytes.fromhex(step["saw"]))
        now = dict(filled(answer))
        for path, value in filled(then):
            if path not in now:
                yield f"{where}: {path} is not filled any more"
            elif path.rpartition(".")[2].partition("[")[0] in SAME and now[path] != value:
                yield f"{where}: {path} is {now[path]!r}, was {value!r}"
        old = dict(filled(then))
        for path in step["learn"]:
            self._learn(path, old[path], now.get(path))

    def _learn(self, path: str, then: Any, now: Any) -> None:
        if path == "token.value":
            self._wire.token = now
            return
        pair = [value.encode() if isinstance(value, str) else value for value in (then, now)]
        assert len(pair[0]) == len(pair[1] or b""), f"{path} has another length than it had"
        self._learned.append((pair[0], pair[1]))

    def _now(self, request: bytes) -> bytes:
        for then, now in self._learned:
            request = request.replace(then, now)
        return request


def filled(message: Message, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (path, value) of every field with a value; of lists the first element stands for all."""
    for field, value in message.ListFields():
        path = f"{prefix}{field.name}"
        entries = [(f"{path}[0]", value[0])] if field.is_repeated and not _is_map(field) else [(path, value)]
        for where, entry in entries:
            if isinstance(entry, Message) and entry.DESCRIPTOR.file.package == "google.protobuf":
                yield where, "a time"  # whose parts may happen to be 0
            elif isinstance(entry, Message):
                yield from filled(entry, f"{where}.")
            else:
                yield where, entry if not _is_map(field) else "a map"


def _is_map(field: Any) -> bool:
    return bool(field.message_type is not None and field.message_type.GetOptions().map_entry)
