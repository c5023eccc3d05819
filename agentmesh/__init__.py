"""Agent Mesh for Python: agents that take tasks, and clients that submit them.

    from agentmesh import Agent                        from agentmesh import SyncMesh

    agent = Agent("worker-1")                          with SyncMesh(namespace="default") as mesh:
                                                           task = mesh.submit("greeting", {"name": "you"})
    @agent.task("greeting")                                print(mesh.result(task.task_id))
    def greet(task):
        return {"hello": task.json()["name"]}

    agent.run()

Names are loaded when first used, so that importing the package costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agentmesh.agent import Agent
    from agentmesh.blocking import SyncMesh
    from agentmesh.client import ItemResult, Mesh, Submitted
    from agentmesh.errors import (
        AccessDenied,
        AlreadyExists,
        ConfigurationError,
        InternalError,
        InvalidRequest,
        MeshError,
        NotAuthenticated,
        NotFound,
        Overloaded,
        Refused,
        SessionEnded,
        StorageLow,
        Superseded,
        TaskNotSucceeded,
        TooLarge,
        Unreachable,
        WaitTimeout,
    )
    from agentmesh.handlers import TaskContext
    from agentmesh.payloads import Payload, decode_payload, encode_payload
    from agentmesh.reports import Fail, NonRetryable, TaskCancelled
    from agentmesh.task_specs import task_spec

_HOMES = {
    "Agent": "agent",
    "SyncMesh": "blocking",
    "ItemResult": "client",
    "Mesh": "client",
    "Submitted": "client",
    "AccessDenied": "errors",
    "AlreadyExists": "errors",
    "ConfigurationError": "errors",
    "InternalError": "errors",
    "InvalidRequest": "errors",
    "MeshError": "errors",
    "NotAuthenticated": "errors",
    "NotFound": "errors",
    "Overloaded": "errors",
    "Refused": "errors",
    "SessionEnded": "errors",
    "StorageLow": "errors",
    "Superseded": "errors",
    "TaskNotSucceeded": "errors",
    "TooLarge": "errors",
    "Unreachable": "errors",
    "WaitTimeout": "errors",
    "TaskContext": "handlers",
    "Payload": "payloads",
    "decode_payload": "payloads",
    "encode_payload": "payloads",
    "Fail": "reports",
    "NonRetryable": "reports",
    "TaskCancelled": "reports",
    "task_spec": "task_specs",
}

__all__ = [
    "AccessDenied",
    "Agent",
    "AlreadyExists",
    "ConfigurationError",
    "Fail",
    "InternalError",
    "InvalidRequest",
    "ItemResult",
    "Mesh",
    "MeshError",
    "NonRetryable",
    "NotAuthenticated",
    "NotFound",
    "Overloaded",
    "Payload",
    "Refused",
    "SessionEnded",
    "StorageLow",
    "Submitted",
    "Superseded",
    "SyncMesh",
    "TaskCancelled",
    "TaskContext",
    "TaskNotSucceeded",
    "TooLarge",
    "Unreachable",
    "WaitTimeout",
    "decode_payload",
    "encode_payload",
    "task_spec",
]


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'agentmesh' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"agentmesh.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
