"""What became of the specs of a batch, said so briefly that the answer fits into one message whatever was sent.

Invariant: the results of one SubmitTasks take no more than a message holds, though every id and every message of a
refusal may come from the caller.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from agentmesh.v1 import scheduler_service_pb2 as pb
from meshd.domain.commands import Submitted
from meshd.domain.errors import Refusal
from meshd.domain.limits import MAX_MESSAGE_BYTES
from meshd.wire.fitting import shortened

MAX_TASK_ID_BYTES: Final = 128
RESULT_BYTES: Final = 20
"""More than a result takes without its task id and message: tags, lengths and the reason."""


def submit_results(sent_ids: Sequence[str], outcomes: Sequence[Submitted | Refusal]) -> list[pb.SubmitResult]:
    """Return a result for each outcome, in order; ``sent_ids`` are the task ids as the specs named them.

    The messages of refusals share what the rest leaves of an answer: among few none is cut.
    """
    results = [
        pb.SubmitResult(task_id=shortened(sent_id, MAX_TASK_ID_BYTES))
        if isinstance(outcome, Refusal)
        else pb.SubmitResult(task_id=outcome.task_id, existed=outcome.existed)
        for sent_id, outcome in zip(sent_ids, outcomes, strict=True)
    ]
    refused = [(result, o) for result, o in zip(results, outcomes, strict=True) if isinstance(o, Refusal)]
    if refused:
        others_bytes = sum(len(result.task_id.encode()) + RESULT_BYTES for result in results)
        message_bytes = (MAX_MESSAGE_BYTES - others_bytes) // len(refused)
        for result, refusal in refused:
            result.error.reason = int(refusal.reason)  # type: ignore[assignment]
            result.error.message = shortened(refusal.message, message_bytes)
    return results
