"""Records a client of this checkout's contract: `python -m tests.contract.recorded.record tests/contract/recorded/0.1.0`.

Run once for each release, with its stubs; a recording of a released contract is never made anew. The client goes by the
generated stubs through the life of one agent and its task, and looks at everything an operator looks at.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2
from google.protobuf.message import Message

from agentmesh.v1 import (
    agent_pb2,
    auth_service_pb2,
    namespace_service_pb2,
    payload_pb2,
    registry_service_pb2,
    scheduler_service_pb2,
    session_pb2,
    task_pb2,
)
from tests.contract.recorded.replay import filled
from tests.contract.recorded.wire import Stream, Wire
from tests.faults.meshd_process import MeshdProcess

MODULES: dict[str, Any] = {
    "AuthService": auth_service_pb2,
    "NamespaceService": namespace_service_pb2,
    "RegistryService": registry_service_pb2,
    "SchedulerService": scheduler_service_pb2,
}
NAMESPACE = "default"
AGENT = "recorded-1"
# A point of the curve, or the mesh would not take it for a key.
PUBLIC_KEY = bytes.fromhex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a")


class Recorder:
    """Makes calls and writes them down."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._stream: Stream | None = None
        self._frames: list[session_pb2.MeshFrame] = []
        self.steps: list[dict[str, Any]] = []

    def call(
        self, service: str, method: str, *, as_agent: bool = False, learn: tuple[str, ...] = (), **fields: Any
    ) -> Any:
        """One unary call; ``learn`` are paths of what the mesh made up."""
        module = MODULES[service]
        request = getattr(module, f"{method}Request")(**fields)
        path = f"/agentmesh.v1.{service}/{method}"
        sent = request.SerializeToString(deterministic=True)
        response = getattr(module, f"{method}Response").FromString(
            self._wire.call(path, sent, as_agent=as_agent)
        )
        if method == "Join":
            self._wire.token = response.token.value
        self._note("call", path, sent, response, learn, as_agent=as_agent)
        return response

    def work(
        self, frame: str, *frames: session_pb2.AgentFrame, learn: tuple[str, ...] = ()
    ) -> session_pb2.MeshFrame:
        """Send frames on the Work stream and wait for a frame of a kind."""
        path = "/agentmesh.v1.SchedulerService/Work"
        sent = b""
        if self._stream is None:
            self._stream = self._wire.stream(path)
        if frames:
            sent = scheduler_service_pb2.WorkRequest(frames=frames).SerializeToString(deterministic=True)
            self._stream.send(sent)
        while True:
            while self._frames:
                found = self._frames.pop(0)
                if found.WhichOneof("frame") == frame:
                    self._note("stream", path, sent, found, learn, frame=frame)
                    return found
            self._frames += scheduler_service_pb2.WorkResponse.FromString(self._stream.receive()).frames

    def close(self) -> None:
        """End the stream."""
        if self._stream is not None:
            self._stream.close()

    def _note(
        self,
        kind: str,
        path: str,
        sent: bytes,
        saw: Message,
        learn: tuple[str, ...],
        **more: Any,
    ) -> None:
        assert set(learn) <= dict(filled(saw)).keys()
        self.steps.append(
            {
                "kind": kind,
                "method": path,
                "send": sent.hex(),
                "receive": saw.DESCRIPTOR.full_name,
                "saw": saw.SerializeToString(deterministic=True).hex(),
                "learn": list(learn),
                **more,
            }
        )


def converse(recorder: Recorder) -> None:
    """The whole conversation."""
    call, work, frame = recorder.call, recorder.work, session_pb2.AgentFrame
    payload = payload_pb2.Payload(inline=b"in", media_type="text/plain")
    spec = task_pb2.TaskSpec(task_id="recorded-task", task_type="work", payload=payload)
    call("NamespaceService", "CreateNamespace", name="recorded", description="of a former client")
    call("NamespaceService", "ListNamespaces")
    call("SchedulerService", "SubmitTask", namespace=NAMESPACE, spec=spec)
    others = [task_pb2.TaskSpec(task_id=f"other-{n}", task_type="other") for n in range(2)]
    call("SchedulerService", "SubmitTasks", namespace=NAMESPACE, specs=others)
    who: dict[str, Any] = {"namespace": NAMESPACE, "agent_id": AGENT}
    call(
        "AuthService",
        "Join",
        **who,
        type=agent_pb2.AGENT_TYPE_WORKER,
        public_key=PUBLIC_KEY,
        capabilities=["work"],
        learn=("token.value",),
    )
    registered = call(
        "RegistryService",
        "RegisterAgent",
        as_agent=True,
        namespace=NAMESPACE,
        spec=agent_pb2.AgentSpec(
            agent_id=AGENT, type=agent_pb2.AGENT_TYPE_WORKER, capabilities=["work"], slots=1, name="Recorded"
        ),
        session_key=bytes(range(16)),
        learn=("session_id", "resume_token"),
    )
    work(
        "opened",
        frame(
            open=session_pb2.Open(
                **who,
                session_id=registered.session_id,
                resume_token=registered.resume_token,
                stream_seq=1,
                protocol=1,
                features=session_pb2.Feature.values()[1:],
                max_inbound_bytes=4 * 1024 * 1024,
                slots=1,
            )
        ),
    )
    fence = work("assign", learn=("assign.fence",)).assign.fence
    output = payload_pb2.Payload(inline=b"out", media_type="text/plain")
    work(
        "ack",
        frame(accept=session_pb2.Accept(fence=fence)),
        frame(beat=session_pb2.Beat(seq=1)),
        frame(progress=session_pb2.Progress(fence=fence, seq=1, fraction=0.5, message="half")),
        frame(done=session_pb2.Done(fence=fence, output=output)),
    )
    one: dict[str, Any] = {"namespace": NAMESPACE, "task_id": "recorded-task"}
    call("SchedulerService", "WaitTask", **one)
    call("SchedulerService", "GetTask", **one)
    call("SchedulerService", "ListTasks", namespace=NAMESPACE, page_size=10)
    call("SchedulerService", "ExplainTask", namespace=NAMESPACE, task_id="other-0")
    call("SchedulerService", "CancelTask", namespace=NAMESPACE, task_id="other-0")
    call("SchedulerService", "GetWorkload", **who)
    call("RegistryService", "GetAgent", **who)
    call("RegistryService", "ListAgents", namespace=NAMESPACE, capabilities=["work"])
    call("RegistryService", "GetMeshStatus", namespace=NAMESPACE)
    call("AuthService", "IntrospectToken", as_agent=True)
    call("AuthService", "RenewToken", **who)
    call("AuthService", "ListKeys")
    join: dict[str, Any] = {"namespace": NAMESPACE, "agent_id": "next", "type": agent_pb2.AGENT_TYPE_WORKER}
    call("AuthService", "CreateJoinToken", **join, capabilities=["work"])
    call("AuthService", "ListAuditEvents", namespace=NAMESPACE, page_size=5)
    call("RegistryService", "DeregisterAgent", as_agent=True, **who, session_id=registered.session_id)
    call("AuthService", "RevokeToken", **who, reason="over")
    recorder.close()


def descriptors() -> bytes:
    """The contract's descriptors with all they build on, in an order in which they can be read."""
    files = descriptor_pb2.FileDescriptorSet()
    done: set[str] = set()

    def add(file: Any) -> None:
        if file.name in done:
            return
        done.add(file.name)
        for needed in file.dependencies:
            add(needed)
        file.CopyToProto(files.file.add())

    for module in MODULES.values():
        add(module.DESCRIPTOR)
    return files.SerializeToString(deterministic=True)


def main() -> int:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True)
    with (
        tempfile.TemporaryDirectory() as place,
        MeshdProcess(Path(place)) as meshd,
        Wire(meshd.address) as wire,
    ):
        recorder = Recorder(wire)
        converse(recorder)
    (folder / "client.json").write_text(json.dumps(recorder.steps, indent=1) + "\n")
    (folder / "contract.binpb").write_bytes(descriptors())
    return 0


if __name__ == "__main__":
    sys.exit(main())
