"""The log of single tasks: one line a step at level debug, each with the task's id. Off at any other level."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Final

import structlog

from meshd.ports.task_steps import StepListener, TaskStep

NAME: Final = "meshd.tasks"

log = structlog.get_logger(NAME)


def listener() -> StepListener | None:
    """Return what writes the steps down; None when the log's level leaves them out anyway."""
    return _write if logging.getLogger(NAME).isEnabledFor(logging.DEBUG) else None


def _write(steps: Sequence[TaskStep]) -> None:
    for step in steps:
        log.debug(
            step.step.value,
            task_id=step.task.spec.task_id,
            namespace=step.task.namespace,
            attempt=step.attempt,
            agent_id=step.agent_id,
            detail=step.detail,
        )
