"""A run's TensorBoard files: every number of metrics.jsonl, and the images and histograms that have no place there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from jaxtyping import Float, Int, UInt8
from PIL import Image, ImageDraw, ImageFont

BINS = 64
_SIDE = 96  # pixels of a picture, at least
_GAP, _LINE = 6, 16
_RIGHT, _WRONG = (0, 90, 160), (200, 40, 20)  # apart for the colour-blind too; a mistake also says so


class TensorBoard:
    """The run's TensorBoard event files; what an interrupted run wrote beyond `step` is superseded.

    Args:
      directory: where the event files go.
      step: optimisation steps done already.
    """

    def __init__(self, directory: Path, *, step: int) -> None:
        from tensorboardX import SummaryWriter  # imports PyTorch wherever that is installed, which takes seconds

        # The suffix keeps apart the files of two starts within one second.
        self._writer = SummaryWriter(str(directory), purge_step=step + 1, filename_suffix=f".{step:09d}")

    def __enter__(self) -> TensorBoard:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self._writer.close()

    def write(self, record: Mapping[str, Any], **timing: float) -> None:
        """Writes a record of metrics.jsonl, and numbers of the clock that have no place there."""
        numbers = {name: value for name, value in record.items() if isinstance(value, float)} | timing
        for name, value in numbers.items():
            self._writer.add_scalar(f"{record['split']}/{name}", value, record["step"])

    def histograms(self, step: int, group: str, arrays: Mapping[str, Any]) -> None:
        """Writes how the finite values of each array are spread, in 64 bins of one width.

        Of more than two million values, between one and two million are taken, at equal distances.

        Args:
          step: optimisation steps done.
          group: what the arrays are, such as "gradients".
          arrays: by name.
        """
        for name, array in arrays.items():
            values = np.asarray(array).ravel()
            values = values[:: max(1, len(values) >> 20)].astype(np.float64)
            values = values[np.isfinite(values)]
            if not len(values):
                continue
            counts, edges = np.histogram(values, BINS)
            self._writer.add_histogram_raw(
                f"{group}/{name}",
                min=values.min(),
                max=values.max(),
                num=len(values),
                sum=values.sum(),
                sum_squares=values.dot(values),
                bucket_limits=edges[1:].tolist(),
                bucket_counts=counts.tolist(),
                global_step=step,
            )

    def image(self, step: int, name: str, picture: UInt8[np.ndarray, "h w 3"]) -> None:
        """Writes a picture."""
        self._writer.add_image(name, picture, step, dataformats="HWC")


def kernels_sheet(kernel: Float[np.ndarray, "kh kw cin cout"]) -> UInt8[np.ndarray, "rows columns 3"]:
    """Kernels that see an image, side by side on one scale: grey is 0, black and white the largest magnitude.

    Args:
      kernel: of one or three input channels; of any other number their mean is shown.
    """
    kernel = np.asarray(kernel, np.float32)
    if kernel.shape[2] not in (1, 3):
        kernel = kernel.mean(2, keepdims=True)
    largest = float(np.abs(kernel).max()) or 1.0
    pictures = np.moveaxis(0.5 + kernel / (2 * largest), -1, 0)
    return _sheet([_enlarged(picture) for picture in np.rint(255 * np.clip(pictures, 0, 1)).astype(np.uint8)])


def predictions_sheet(
    images: UInt8[np.ndarray, "n h w c"],
    probabilities: Float[np.ndarray, "n k"],
    targets: Int[np.ndarray, " n"],
    class_names: Sequence[str],
) -> UInt8[np.ndarray, "rows columns 3"]:
    """Pictures over the predicted class and its probability, in red and with the true class where it is another.

    Args:
      images: pixels in 0..255.
      probabilities: in [0, 1].
      targets: the true classes.
      class_names: K names.
    """
    font = ImageFont.load_default(12)
    cells = []
    for image, shares, target in zip(images, probabilities, targets, strict=True):
        picture = _enlarged(image if image.shape[-1] in (1, 3) else image[..., :1])
        height, width = picture.shape[:2]
        cell = Image.new("RGB", (width, height + 2 * _LINE), "white")
        cell.paste(Image.fromarray(picture), (0, 0))
        best = int(shares.argmax())
        wrong = best != int(target)
        lines = [(f"{class_names[best]} {shares[best]:.0%}", _WRONG if wrong else _RIGHT)]
        if wrong:
            lines.append((f"not {class_names[target]}", _WRONG))
        draw = ImageDraw.Draw(cell)
        for row, (text, color) in enumerate(lines):
            draw.text((2, height + row * _LINE), text, fill=color, font=font)
        if wrong:
            draw.rectangle((0, 0, width - 1, height - 1), outline=_WRONG, width=3)
        cells.append(np.asarray(cell))
    return _sheet(cells)


def _enlarged(picture: UInt8[np.ndarray, "h w c"]) -> UInt8[np.ndarray, "rows columns 3"]:
    factor = max(1, -(-_SIDE // max(picture.shape[:2])))
    rgb = np.broadcast_to(picture, (*picture.shape[:2], 3))
    return rgb.repeat(factor, 0).repeat(factor, 1)


def _sheet(cells: Sequence[UInt8[np.ndarray, "h w 3"]]) -> UInt8[np.ndarray, "rows columns 3"]:
    """The cells in rows, as nearly square as they can be, on white."""
    columns = int(np.ceil(np.sqrt(len(cells))))
    rows = -(-len(cells) // columns)
    height, width = cells[0].shape[:2]
    sheet = np.full((rows * (height + _GAP) + _GAP, columns * (width + _GAP) + _GAP, 3), 255, np.uint8)
    for place, cell in enumerate(cells):
        row, column = divmod(place, columns)
        y, x = _GAP + row * (height + _GAP), _GAP + column * (width + _GAP)
        sheet[y : y + height, x : x + width] = cell
    return sheet
