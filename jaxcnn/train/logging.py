"""What a run tells on the terminal while it goes on: a progress bar, or plain lines where nobody watches."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

_BESIDE = len("  loss 0.1234  accuracy 0.957  12,345 images/s  1:02:03 left")


class Display:
    """A bar of the epoch with loss, accuracy, images per second and the time left; one line an epoch stays behind.

    It fits 80 columns. Moving it costs some microseconds a step, in which the device is at work.

    Args:
      console: where to write; without a terminal that can move its cursor only the lines are written.
      step: optimisation steps done already.
      epochs: of the whole run.
      steps_per_epoch: optimisation steps of an epoch.
      clock: seconds from any moment.
    """

    def __init__(
        self,
        console: Console,
        *,
        step: int,
        epochs: int,
        steps_per_epoch: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._console, self._epochs, self._steps_per_epoch = console, epochs, steps_per_epoch
        self._clock, self._shown = clock, console.is_interactive
        self._start: tuple[int, float] | None = None  # the first step that was not compiled, and when it was done
        self._first, self._status = step, "compiling"
        width = console.width - len(self._head(epochs)) - len(" ") - _BESIDE
        self._bar = Progress(
            TextColumn("{task.fields[head]}"),
            BarColumn(bar_width=min(max(width, 4), 24)),
            TextColumn(" {task.description}"),
            console=console,
            disable=not self._shown,
            refresh_per_second=4,
            transient=True,
        )
        self._task = self._bar.add_task(self._status, total=steps_per_epoch, head="")
        self._move(step)

    def __enter__(self) -> Display:
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self._bar.stop()

    def stepped(self, step: int) -> None:
        """Moves the bar; called after every step."""
        if self._shown:
            if self._start is None:
                self._start = (step, self._clock())
            self._move(step)

    def trained(self, loss: float, top1: float, images_per_second: float) -> None:
        """Renews the numbers beside the bar."""
        digits = f"{loss:.4f}" if loss < 100 else f"{loss:.3g}"
        self._status = f"loss {digits}  accuracy {top1:.3f}  {images_per_second:,.0f} images/s"

    def evaluated(self, step: int, record: dict[str, Any], images_per_second: float) -> None:
        """Writes the line of an epoch."""
        self.say(
            f"epoch {step // self._steps_per_epoch}/{self._epochs}  step {step}  "
            f"{record['split']} loss {record['loss']:.4f}  accuracy {record['top1']:.4f}  "
            f"{images_per_second:,.0f} images/s"
        )

    def say(self, text: str) -> None:
        """Writes a line above the bar."""
        self._console.print(text, highlight=False, soft_wrap=True)

    def _head(self, epoch: int) -> str:
        return f"epoch {min(epoch, self._epochs)}/{self._epochs}"

    def _move(self, step: int) -> None:
        epoch, within = divmod(step, self._steps_per_epoch)
        if within == 0 and step > self._first:  # an epoch is full before the next is empty
            epoch, within = epoch - 1, self._steps_per_epoch
        status = self._status + self._left(step)
        self._bar.update(self._task, completed=within, description=status, head=self._head(epoch + 1))

    def _left(self, step: int) -> str:
        if self._start is None or step == self._start[0]:
            return ""
        first, then = self._start
        seconds = round((self._clock() - then) / (step - first) * (self._epochs * self._steps_per_epoch - step))
        minutes, hours = seconds // 60, seconds // 3600
        return f"  {hours}:{minutes % 60:02}:{seconds % 60:02} left" if hours else f"  {minutes}:{seconds % 60:02} left"
