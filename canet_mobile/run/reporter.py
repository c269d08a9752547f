"""Who listens to a training."""

from __future__ import annotations

from typing import Any, Protocol


class Reporter(Protocol):
    """Who listens to a run; the command line draws progress bars, tests listen to nothing."""

    def step(self, epoch: int, done: int, total: int, parts: dict[str, float]) -> None:
        """After every step: means of the loss parts over the epoch so far."""

    def epoch(self, record: dict[str, Any]) -> None:
        """After every epoch: the line that went into metrics.jsonl."""

    def stage(self, name: str, done: int, total: int) -> None:
        """Within what is long and no epoch: what is being done, and how much of it is."""

    def note(self, text: str) -> None:
        """Something worth saying: a warning, a new stage."""


class Silent:
    """A reporter that says nothing."""

    def step(self, epoch: int, done: int, total: int, parts: dict[str, float]) -> None:
        """Nothing."""

    def epoch(self, record: dict[str, Any]) -> None:
        """Nothing."""

    def stage(self, name: str, done: int, total: int) -> None:
        """Nothing."""

    def note(self, text: str) -> None:
        """Nothing."""
