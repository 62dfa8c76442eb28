"""What a run tells while it goes on: a progress bar (or plain lines), and TensorBoard files beside metrics.jsonl."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from tensorboardX import SummaryWriter


class Display:
    """A progress bar with loss, accuracy, images per second and time left; one line an epoch stays behind.

    Args:
      console: where to write; without a terminal only the lines are written.
      step: optimisation steps done already.
      total_steps: optimisation steps of the whole run.
    """

    def __init__(self, console: Console, *, step: int, total_steps: int) -> None:
        self._console = console
        self._bar = Progress(
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            BarColumn(bar_width=20),
            TextColumn("{task.description}"),
            TimeRemainingColumn(compact=True),
            console=console,
            disable=not console.is_terminal,
            transient=True,
        )
        self._task = self._bar.add_task("compiling", total=total_steps, completed=step)

    def __enter__(self) -> Display:
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self._bar.stop()

    def trained(self, step: int, loss: float, top1: float, images_per_second: float) -> None:
        """Moves the bar."""
        status = f"loss {loss:.4f}  accuracy {top1:.3f}  {images_per_second:,.0f} images/s"
        self._bar.update(self._task, completed=step, description=status)

    def evaluated(self, epoch: int, epochs: int, record: dict[str, Any], images_per_second: float) -> None:
        """Writes the line of an epoch."""
        self.say(
            f"epoch {epoch}/{epochs}  step {record['step']}  {record['split']} loss {record['loss']:.4f}  "
            f"accuracy {record['top1']:.4f}  {images_per_second:,.0f} images/s"
        )

    def say(self, text: str) -> None:
        """Writes a line above the bar."""
        self._console.print(text, highlight=False, soft_wrap=True)


class TensorBoard:
    """The run's TensorBoard event files; what an interrupted run wrote beyond `step` is superseded.

    Args:
      directory: where the event files go.
      step: optimisation steps done already.
    """

    def __init__(self, directory: Path, *, step: int) -> None:
        # The suffix keeps apart the files of two starts within one second.
        self._writer = SummaryWriter(str(directory), purge_step=step + 1, filename_suffix=f".{step:09d}")

    def __enter__(self) -> TensorBoard:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self._writer.close()

    def write(self, record: dict[str, Any], **timing: float) -> None:
        """Writes a record of metrics.jsonl, and numbers of the clock that have no place there."""
        numbers = {name: value for name, value in record.items() if isinstance(value, float)} | timing
        for name, value in numbers.items():
            self._writer.add_scalar(f"{record['split']}/{name}", value, record["step"])
