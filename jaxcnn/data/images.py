"""Pictures in files to uint8 arrays: the formats, modes and orientations that Pillow reads."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

from jaxcnn.errors import InputError

GREY_MODES = frozenset({"1", "L", "LA", "La", "I;16", "I;16L", "I;16B", "I;16N"})
_HEADROOM = 2  # how much larger than wanted a JPEG is decoded, so that the resizing that follows decides what is seen
_ORIENTATION = 0x0112  # EXIF tag; values from 5 on swap height and width


def decode(
    file: Path | bytes, channels: int, size: int | None, *, upright: bool, where: str = ""
) -> UInt8[np.ndarray, "h w c"]:
    """Reads one picture.

    A JPEG of more than four times `size` in height and width is decoded at 1/2, 1/4 or 1/8 of its own, by inverse
    transforms of fewer of its cosine coefficients, to at least twice `size`, and resized from there.

    Args:
      file: its path, or its encoded bytes.
      channels: 1 for grey, 3 for RGB. Transparent pixels are composited over white.
      size: height and width in pixels to resize to (bilinear), or None for every pixel that the file holds.
      upright: whether to rotate and mirror as the EXIF orientation says.
      where: the name of the picture for messages; the path if left out.

    Returns:
      Pixels in 0..255.

    Raises:
      InputError: the file is missing, truncated or not a picture with 8 or 16 bits a channel.
    """
    try:
        with Image.open(io.BytesIO(file) if isinstance(file, bytes) else file) as image:
            turned = upright and _has_orientation(image)
            box = None if size is None else _reduce(image, channels, size)
            image.load()
            if size is not None and box is not None:
                # Before it is turned, as the box lies in the picture as it is stored.
                image = image.resize((size, size), Image.Resampling.BILINEAR, box)
            if turned:
                ImageOps.exif_transpose(image, in_place=True)
            image = _convert(image, channels)
            if size is not None and image.size != (size, size):
                image = image.resize((size, size), Image.Resampling.BILINEAR)
            pixels = np.asarray(image)
    except InputError as error:
        raise InputError(f"{where or file} {error}") from None
    except Exception as error:  # Pillow's decoders raise whatever they stumble over, struct.error and zlib.error too
        raise InputError(f"{where or file} cannot be read as a picture: {error}") from error
    return pixels[..., None] if pixels.ndim == 2 else pixels


def inspect(path: Path) -> tuple[tuple[int, int], bool]:
    """Height and width in pixels of a picture as it is looked at, and whether it is grey, from its header.

    Raises:
      InputError: the file is missing or not a picture.
    """
    try:
        with Image.open(path) as image:
            width, height = image.size
            sideways = _has_orientation(image) and image.getexif().get(_ORIENTATION, 1) >= 5
            return ((width, height) if sideways else (height, width)), image.mode in GREY_MODES
    except Exception as error:  # as above
        raise InputError(f"{path} cannot be read as a picture: {error}") from error


def _has_orientation(image: Image.Image) -> bool:
    # Asked of a picture that is not loaded yet: a PNG would be decoded whole to look for EXIF behind its pixels.
    return "exif" in image.info or image.format == "TIFF"


def _reduce(image: Image.Image, channels: int, size: int) -> tuple[int, int, float, float] | None:
    """Has a large JPEG decoded at a fraction of its size, and returns where it lies in what is decoded.

    Its last column and row may reach beyond it: 101 pixels at 1/2 are 51, of which it takes 50.5.
    """
    if min(image.size) < 2 * _HEADROOM * size:
        return None
    reduced = image.draft("L" if channels == 1 else "RGB", (_HEADROOM * size, _HEADROOM * size))
    return None if reduced is None else reduced[1]


def resize_all(images: UInt8[np.ndarray, "n h w c"], size: int | None) -> UInt8[np.ndarray, "n k l c"]:
    """Resizes pictures to `size` by `size` pixels (bilinear); None leaves them as they are."""
    if size is None or images.shape[1:3] == (size, size):
        return images
    squares = [Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image) for image in images]
    resized = [np.asarray(square.resize((size, size), Image.Resampling.BILINEAR)) for square in squares]
    return np.stack(resized).reshape(len(images), size, size, images.shape[-1])


def _convert(image: Image.Image, channels: int) -> Image.Image:
    mode = "L" if channels == 1 else "RGB"
    if image.mode == mode and not image.has_transparency_data:
        return image
    if image.mode.startswith("I;16"):
        image = Image.fromarray(((np.asarray(image).astype(np.uint32) + 128) // 257).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise InputError(f"has 32 bits a pixel (mode {image.mode}); expected 8 or 16")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image)
    return image.convert(mode)
