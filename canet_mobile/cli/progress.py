"""Progress on stderr: bars on a terminal, one line per epoch anywhere."""

from __future__ import annotations

from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from canet_mobile.run.config import TrainConfig


def stderr_console() -> Console:
    """A console that writes to stderr and keeps stdout for results."""
    return Console(stderr=True, highlight=False)


class TrainReporter:
    """Shows a run: a bar of the epoch's steps with its loss parts, then a line for the epoch."""

    def __init__(self, config: TrainConfig) -> None:
        self.config, self.console = config, stderr_console()
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[parts]}"),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )
        self.task = self.progress.add_task("", parts="", visible=False)

    def __enter__(self) -> TrainReporter:
        self.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.progress.stop()

    def step(self, epoch: int, done: int, total: int, parts: dict[str, float]) -> None:
        """Move the bar."""
        text = " ".join(f"{name} {value:.3f}" for name, value in parts.items())
        self._move(f"epoch {epoch + 1}/{self.config.epochs}", done, total, text)

    def stage(self, name: str, done: int, total: int) -> None:
        """Move the bar of a stage; it goes when the stage is over."""
        self._move(name, done, total, "", visible=done < total)

    def _move(self, name: str, done: int, total: int, parts: str, *, visible: bool = True) -> None:
        if self.progress.tasks[0].description != name:  # the time that remains is that of this bar
            self.progress.reset(self.task, description=name)
        self.progress.update(self.task, completed=done, total=total, parts=parts, visible=visible)

    def epoch(self, record: dict[str, Any]) -> None:
        """Print the epoch's line, then its warnings."""
        found = record["validation"]
        parts = " ".join(f"{name} {value:.3f}" for name, value in record["train"].items())
        line = (
            f"epoch {record['epoch'] + 1}/{self.config.epochs}  {parts}  "
            f"validation NDCG@10 {found['ndcg10']:.4f}{' *' if record['best'] else ''}  "
            f"{found['mflops']:.1f} MFLOPs"
        )
        if found["routes"] and self.config.model != "sasrec":
            top = sorted(found["routes"].items(), key=lambda item: -item[1])
            shares = ", ".join(f"{entry} {share:.0%}" for entry, share in top[:3])
            more = f" and {len(top) - 3} more" if len(top) > 3 else ""
            line += f"  routes: {shares}{more}"
            if found["router_entropy"] is not None:
                line += f"  router entropy {found['router_entropy']:.2f}"
        self.console.print(f"{line}  [{record['seconds']:.0f} s]", markup=False, soft_wrap=True)
        for warning in record["warnings"]:
            self.note(f"warning: {warning}")

    def note(self, text: str) -> None:
        """Print a line."""
        self.console.print(text, markup=False, soft_wrap=True)
