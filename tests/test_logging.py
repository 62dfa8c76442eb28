"""What a run shows while it goes on: on the terminal, and in TensorBoard's files, read back with its own reader."""

from __future__ import annotations

import io
import re

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from jaxcnn.train.board import TensorBoard, kernels_sheet, predictions_sheet
from jaxcnn.train.logging import Display

LINE = "epoch 2/182  step 800  validation loss 0.2500  accuracy 0.9000  12,345 images/s"


def text_of(terminal: bool, kind: str = "xterm", width: int = 80) -> str:
    """What is written of the second epoch of 182, of 400 steps each, at a second a step."""
    stream = io.StringIO()
    seconds = iter(range(1000))
    console = Console(
        file=stream, force_terminal=terminal, width=width, color_system=None, _environ={"TERM": kind, "COLUMNS": ""}
    )
    display = Display(console, step=400, epochs=182, steps_per_epoch=400, clock=lambda: float(next(seconds)))
    with display:
        for step in (401, 600):
            display.stepped(step)
            display.trained(0.51234, 0.957, 12345.0)
        display.stepped(800)
        display.evaluated(800, {"split": "validation", "loss": 0.25, "top1": 0.9}, 12345.0)
    return stream.getvalue()


def frames_of(text: str) -> list[str]:
    """What stood in the bar's line, one state after the other."""
    return [frame for frame in re.split(r"[\r\n]|\x1b\[[0-9;?]*[A-Za-z]", text) if frame]


def test_the_bar_shows_progress_loss_accuracy_rate_and_the_time_left_in_80_columns():
    frames = frames_of(text_of(terminal=True))
    assert max(map(len, frames)) <= 80
    assert frames[0].startswith("epoch 2/182")
    assert frames[0].rstrip().endswith("compiling")
    assert any(
        re.fullmatch(
            r"epoch 2/182 [━╸╺]+ +loss 0\.5123  accuracy 0\.957  12,345 images/s  \d+:\d\d left", frame.strip()
        )
        for frame in frames
    ), frames


def test_the_time_left_is_that_of_the_steps_so_far():
    console = Console(file=io.StringIO(), force_terminal=True, _environ={"TERM": "xterm"})
    now = iter([0.0, 10.0, 5400.0])
    display = Display(console, step=0, epochs=2, steps_per_epoch=50, clock=lambda: next(now))
    display.stepped(1)
    assert display._left(1) == ""
    assert display._left(21) == "  0:40 left"  # 20 steps in 10 s, 79 to go
    assert display._left(51) == "  1:28:12 left"


@pytest.mark.parametrize("terminal", [True, False])
def test_one_line_an_epoch_stays_and_fits_80_columns(terminal):
    assert LINE in text_of(terminal)
    assert len(LINE) <= 80


@pytest.mark.parametrize(("terminal", "kind"), [(False, "xterm"), (True, "dumb")])
def test_without_a_terminal_that_moves_its_cursor_there_is_nothing_but_lines(terminal, kind):
    assert text_of(terminal, kind) == LINE + "\n"


def events_of(directory):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return EventAccumulator(str(directory), size_guidance={"images": 0, "histograms": 0}).Reload()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_reads_what_was_written_and_not_what_a_kill_left(tmp_path):
    def record(step, loss):
        return {"step": step, "split": "train", "loss": loss, "top1": 0.5}

    with TensorBoard(tmp_path, step=0) as board:
        board.write(record(10, 3.0), images_per_second=100.0)
        board.write(record(20, 2.0))
    with TensorBoard(tmp_path, step=10) as board:  # continued from the checkpoint of step 10
        board.write(record(20, 1.5))
    events = events_of(tmp_path)
    assert set(events.Tags()["scalars"]) == {"train/loss", "train/top1", "train/images_per_second"}
    assert [(event.step, event.value) for event in events.Scalars("train/loss")] == [(10, 3.0), (20, 1.5)]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_reads_images_and_histograms(tmp_path):
    rng = np.random.default_rng(0)
    values = rng.normal(size=1000)
    picture = rng.integers(0, 256, (20, 30, 3), np.uint8)
    with TensorBoard(tmp_path, step=0) as board:
        board.histograms(7, "gradients", {"c1/kernel": [*values, np.nan], "c1/bias": [0.0, 0.0], "gone": [np.inf]})
        board.image(7, "first_layer", picture)
    events = events_of(tmp_path)
    assert set(events.Tags()["histograms"]) == {"gradients/c1/kernel", "gradients/c1/bias"}
    (event,) = events.Histograms("gradients/c1/kernel")
    spread = event.histogram_value
    counts, edges = np.histogram(values, 64)
    assert (event.step, spread.num) == (7, 1000)
    np.testing.assert_array_equal(spread.bucket, counts)
    np.testing.assert_allclose(spread.bucket_limit, edges[1:])
    np.testing.assert_allclose([spread.min, spread.max, spread.sum], [values.min(), values.max(), values.sum()])
    (image,) = events.Images("first_layer")
    assert image.step == 7
    with Image.open(io.BytesIO(image.encoded_image_string)) as decoded:
        np.testing.assert_array_equal(np.asarray(decoded), picture)


def test_kernels_are_drawn_on_one_scale_with_zero_in_the_middle():
    kernel = np.zeros((2, 2, 1, 5), np.float32)
    kernel[..., 1], kernel[..., 2] = 2.0, -1.0
    sheet = kernels_sheet(kernel)
    assert sheet.shape == (2 * 96 + 3 * 6, 3 * 96 + 4 * 6, 3)  # two rows of three, 48 pixels for each weight
    middles = sheet[6 + 48, 6 + 48 :: 96 + 6, 0]
    assert middles.tolist() == [128, 255, 64]


def test_predictions_are_captioned_and_mistakes_are_framed():
    images = np.zeros((2, 96, 96, 1), np.uint8)
    sheet = predictions_sheet(images, np.array([[0.9, 0.1], [0.2, 0.8]]), np.array([0, 0]), ["cat", "dog"])
    right, wrong = sheet[6 : 6 + 96, 6:102], sheet[6 : 6 + 96, 108:204]
    assert not right.any()
    assert (wrong[0] == (200, 40, 20)).all()
    assert not wrong[4:-4, 4:-4].any()
    below = sheet[102:-6]
    assert (below[:16, 6:102] < 255).any()
    assert not (below[16:, 6:102] < 255).any(), "what is right has one line"
    assert (below[16:, 108:204] < 255).any(), "a mistake says what is true"
