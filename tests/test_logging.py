"""What a run shows while it goes on."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from jaxcnn.train.logging import Display, TensorBoard


def text_of(terminal: bool) -> str:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=terminal, width=80)
    with Display(console, step=10, total_steps=40) as display:
        display.trained(20, 0.5, 0.75, 1234.0)
        record = {"step": 20, "split": "validation", "loss": 0.25, "top1": 0.9}
        display.evaluated(1, 2, record, 1234.0)
    return stream.getvalue()


def test_the_bar_shows_loss_accuracy_rate_and_progress_on_a_terminal():
    text = text_of(terminal=True)
    for part in ("20/40", "loss 0.5000", "accuracy 0.750", "1,234 images/s"):
        assert part in text


@pytest.mark.parametrize("terminal", [True, False])
def test_one_line_an_epoch_stays(terminal):
    line = "epoch 1/2  step 20  validation loss 0.2500  accuracy 0.9000  1,234 images/s"
    assert line in text_of(terminal)


def test_without_a_terminal_there_is_nothing_but_lines():
    assert text_of(terminal=False).splitlines() == [
        "epoch 1/2  step 20  validation loss 0.2500  accuracy 0.9000  1,234 images/s"
    ]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_reads_what_was_written_and_not_what_a_kill_left(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    def record(step, loss):
        return {"step": step, "split": "train", "loss": loss, "top1": 0.5}

    with TensorBoard(tmp_path, step=0) as board:
        board.write(record(10, 3.0), images_per_second=100.0)
        board.write(record(20, 2.0))
    with TensorBoard(tmp_path, step=10) as board:  # continued from the checkpoint of step 10
        board.write(record(20, 1.5))
    events = EventAccumulator(str(tmp_path)).Reload()
    assert set(events.Tags()["scalars"]) == {"train/loss", "train/top1", "train/images_per_second"}
    assert [(event.step, event.value) for event in events.Scalars("train/loss")] == [(10, 3.0), (20, 1.5)]
