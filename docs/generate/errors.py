"""docs/reference/errors.md: every reason by which the mesh refuses, from the contract, the wire and the SDK."""

from __future__ import annotations

import re
import sys
from functools import cache
from pathlib import Path
from typing import Final

from agentmesh.errors import from_reason
from docs.generate import contract
from docs.generate.markdown import cell, table
from meshd.domain.errors import Reason
from meshd.wire.status import CODES

HEAD = """\
# Error reasons

Made by `make docs` from `proto/agentmesh/v1/error_reason.proto`, `meshd/wire/status.py` and `agentmesh/errors.py`.

Every refused call ends with a gRPC status whose details (`grpc-status-details-bin`, a `google.rpc.Status`) hold

- exactly one `google.rpc.ErrorInfo`: `domain` is `agentmesh`, `reason` one of the names below, `metadata` further facts;
- a `google.rpc.BadRequest` when one field is to blame; it names the field;
- a `google.rpc.RetryInfo` when trying again later helps; it says after how long.

Decide by the reason, never by the text. The text says what was wrong and what to do next, and never repeats a payload or
a token. Items of a batch that are refused carry reason and text in their result instead, and the call itself is OK.

A status without these details does not come from meshd's code but from gRPC, a proxy or a dead connection: its code is
all there is to know. UNAVAILABLE, DEADLINE_EXCEEDED and CANCELLED then say that nothing answered, or not in time; whether
the call took effect is unknown. Repeat it: a task of the same id and content is taken once.

[wrong-things.md](../wrong-things.md) shows what people see of them.

"""
UNSENT: Final = "This version never sends it."
NEXT: Final[dict[Reason, str]] = {
    Reason.INVALID_ARGUMENT: "Mend the field that BadRequest names.",
    Reason.FIELD_REQUIRED: "Set the field that BadRequest names.",
    Reason.INVALID_PAGE_TOKEN: "Begin at the first page, and keep the conditions from page to page.",
    Reason.TOO_LARGE: "Send less, or split the input into several tasks.",
    Reason.NAMESPACE_NOT_FOUND: "See those that exist: `meshctl namespace list`.",
    Reason.NAMESPACE_EXISTS: "Use it as it is: `meshctl namespace get NAME`.",
    Reason.AGENT_NOT_FOUND: "See those that exist: `meshctl agent list`.",
    Reason.TASK_NOT_FOUND: "Check id and namespace: `meshctl task list`. It may have ended longer ago than it is kept.",
    Reason.TASK_EXISTS: "Choose another task id.",
    Reason.SESSION_NOT_FOUND: "Call RegisterAgent, then open a stream.",
    Reason.STREAM_SUPERSEDED: "If it was another process, stop: two with one agent id take turns for ever.",
    Reason.PROTOCOL_VIOLATION: "Mend the agent: see [the agent protocol](../agent-protocol.md).",
    Reason.TOKEN_MISSING: "Send a token, or use the operator socket on meshd's host.",
    Reason.TOKEN_INVALID: "Agents join again; people ask an operator for a token.",
    Reason.TOKEN_EXPIRED: "Agents renew it by their key; people ask an operator for a token.",
    Reason.TOKEN_REVOKED: "Agents renew it once by their key: that helps after a restore. Else ask an operator why.",
    Reason.JOIN_TOKEN_INVALID: "Have an operator make a new one: `meshctl token join-token`.",
    Reason.PROOF_INVALID: "Sign a fresh nonce; when that is refused too, join again.",
    Reason.ACCESS_DENIED: "See what the token may do: `meshctl token introspect`.",
    Reason.NAMESPACE_MISMATCH: "Leave the namespace empty, or use a token of that namespace.",
    Reason.IDENTITY_MISMATCH: "Use that agent's own token.",
    Reason.GRANT_EXCEEDS_CALLER: "Ask for less, or let an operator grant it.",
    Reason.OVERLOADED: "Repeat after the delay in RetryInfo.",
    Reason.STORAGE_LOW: "Free space on meshd's disk; repeat after the delay in RetryInfo.",
    Reason.SHUTTING_DOWN: "Connect again and repeat; a delay may be in RetryInfo.",
    Reason.INTERNAL: "Look for the incident in meshd's log, and report it.",
    Reason.WAIT_TIMEOUT: "Send the call again, with all of its request at once.",
    Reason.METHOD_NOT_FOUND: "Compare the versions of both sides: `meshctl version`.",
}
"""For a program; what meshctl says to people follows from the command they typed."""


def page() -> str:
    """Return the page."""
    return HEAD + table(
        ["Reason", "gRPC code", "Meaning", "What to do next", "Raised by the SDK"],
        [[f"`{reason.name}`", CODES[reason].name, *_words(reason)] for reason in Reason],
    )


def _words(reason: Reason) -> tuple[str, str, str]:
    meaning = contract.read().about("ErrorReason", f"ERROR_REASON_{reason.name}")
    next_step = NEXT[reason] if reason.name in _sent() else UNSENT
    return cell(meaning), cell(next_step), f"`{type(from_reason(reason.name, '')).__name__}`"


@cache
def _sent() -> set[str]:
    """Return the names of the reasons that some line of meshd gives, other than those that only list them."""
    house = Path(__file__).resolve().parents[2] / "meshd"
    lists = {house / "wire/status.py", house / "domain/errors.py"}
    sources = [path.read_text() for path in house.rglob("*.py") if path not in lists]
    return {name for text in sources for name in re.findall(r"\bReason\.([A-Z_]+)\b", text)}


if __name__ == "__main__":
    sys.stdout.write(page())
