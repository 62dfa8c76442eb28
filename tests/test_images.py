"""Pictures that will be small: a JPEG is decoded no further than needed, and looks as if it had been decoded whole."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps, JpegImagePlugin

from jaxcnn.data import images, photographs
from jaxcnn.errors import InputError

BILINEAR = Image.Resampling.BILINEAR


def encoded(pixels: np.ndarray | Image.Image, kind: str = "JPEG", **options) -> bytes:
    picture = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    file = io.BytesIO()
    picture.save(file, kind, **({"quality": 90} if kind == "JPEG" else {}) | options)
    return file.getvalue()


def grating(height: int, width: int, period: float = 8.0) -> np.ndarray:
    """Black and white stripes with sharp edges, slanted, of other phases in each colour."""
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(2 * np.pi * (0.8 * x + 0.6 * y) / period + phase) for phase in (0.0, 1.0, 2.0)]
    return np.where(np.stack(waves, -1) > 0, 255, 0).astype(np.uint8)


def whole(file: bytes, size: int, mode: str = "RGB") -> np.ndarray:
    """Every pixel decoded, turned upright, and then resized: what a fraction should look like."""
    with Image.open(io.BytesIO(file)) as picture:
        upright = ImageOps.exif_transpose(picture).convert(mode)
        return np.asarray(upright.resize((size, size), BILINEAR)).reshape(size, size, -1)


def apart(one: np.ndarray, other: np.ndarray) -> tuple[float, int]:
    """Mean and largest difference in grey levels."""
    difference = np.abs(one.astype(int) - other.astype(int))
    return float(difference.mean()), int(difference.max())


@pytest.fixture
def decoded(monkeypatch) -> list[tuple[str, tuple[int, int]]]:
    """Modes and sizes (width, height) of the pictures as their decoder delivers them."""
    seen = []
    load = JpegImagePlugin.JpegImageFile.load

    def watched(self):
        result = load(self)
        if (self.mode, self.size) not in seen:
            seen.append((self.mode, self.size))
        return result

    monkeypatch.setattr(JpegImagePlugin.JpegImageFile, "load", watched)
    return seen


@pytest.mark.parametrize(
    ("shape", "size", "delivered"),
    [
        ((256, 255), 64, (255, 256)),  # one pixel short of four times
        ((256, 256), 64, (128, 128)),
        ((511, 700), 64, (350, 256)),  # 255.5 rows, of which the last one is half padding
        ((512, 700), 64, (175, 128)),
        ((1023, 1030), 64, (258, 256)),
        ((1030, 1025), 64, (129, 129)),
        ((4000, 1024), 64, (128, 500)),  # nothing is decoded at less than an eighth
        ((1030, 1025), None, (1025, 1030)),
    ],
)
def test_a_jpeg_is_decoded_to_twice_the_size_wanted_or_more(decoded, shape, size, delivered):
    file = encoded(grating(*shape))
    pixels = images.decode(file, 3, size, upright=True)
    assert decoded == [("RGB", delivered)]
    assert pixels.shape == (*(shape if size is None else (size, size)), 3)


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 12), st.integers(0, 90), st.integers(0, 90), st.sampled_from([1, 3]))
def test_a_jpeg_of_less_than_four_times_the_size_is_the_whole_picture_bit_for_bit(size, more, less, channels):
    file = encoded(grating(4 * size - 1, 4 * size + more))
    expected = whole(file, size, "RGB" if channels == 3 else "L")
    np.testing.assert_array_equal(images.decode(file, channels, size, upright=True), expected)
    every = np.asarray(Image.open(io.BytesIO(encoded(grating(50 + less, 50 + more)))))
    again = images.decode(encoded(grating(50 + less, 50 + more)), 3, None, upright=True)
    np.testing.assert_array_equal(again, every)


@settings(max_examples=25, deadline=None)
@given(st.integers(260, 600), st.integers(260, 600), st.sampled_from([16, 24, 32, 64]), st.sampled_from([24.0, 40.0]))
def test_a_fraction_lies_where_the_whole_picture_does(height, width, size, period):
    # Sizes that no power of two divides: a shift of half a pixel, at the end of a row, moves these edges by 30 levels.
    file = encoded(grating(height, width, period))
    mean, most = apart(images.decode(file, 3, size, upright=True), whole(file, size))
    assert mean < 6
    assert most < 30


def test_photographs_look_the_same(real_data, decoded):
    files = [path.read_bytes() for path in sorted((real_data / "imagenet_samples").glob("*.JPEG"))]
    for size, longest, mean_bound, bound in ((224, 576, 0, 0), (64, 300, 0.7, 12), (32, 150, 0.9, 14)):
        decoded.clear()
        seen = [images.decode(file, 3, size, upright=True) for file in files]
        assert max(max(delivered) for _, delivered in decoded) == longest
        differences = [apart(one, whole(file, size)) for one, file in zip(seen, files, strict=True)]
        assert max(mean for mean, _ in differences) <= mean_bound
        assert max(most for _, most in differences) <= bound


@pytest.mark.parametrize("resize", [None, 40])
def test_published_evaluations_see_every_pixel(tmp_path, resize):
    stored = grating(500, 500)
    (tmp_path / "n01443537_goldfish.jpg").write_bytes(encoded(stored))
    (image,), _ = photographs.open_photographs(tmp_path, (32, 32, 3), resize).read(np.array([0]))
    margin = 0 if resize is None else (resize - 32) // 2
    expected = whole(encoded(stored), resize or 32)[margin : margin + 32, margin : margin + 32]
    np.testing.assert_array_equal(image, expected)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_fraction_is_turned_upright(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = grating(421, 555, 40.0)
    file = encoded(stored, exif=exif)
    assert apart(images.decode(file, 3, 32, upright=True), whole(file, 32))[1] < 30
    plain = images.decode(file, 3, 32, upright=False)
    np.testing.assert_array_equal(plain, images.decode(encoded(stored), 3, 32, upright=True))
    if orientation > 1:
        assert apart(images.decode(file, 3, 32, upright=True), plain)[1] > 100


def test_of_a_jpeg_that_will_be_grey_the_colours_are_left_out(decoded):
    file = encoded(grating(400, 500, 24.0))
    grey = images.decode(file, 1, 32, upright=True)
    assert decoded == [("L", (125, 100))]
    mean, most = apart(grey, whole(file, 32, "L"))
    assert mean < 3
    assert most < 15


@pytest.mark.parametrize("channels", [1, 3])
def test_a_jpeg_for_print_keeps_its_colours(channels):
    # Four inks: the decoder has no way from them to grey.
    file = encoded(Image.fromarray(grating(400, 500, 40.0)).convert("CMYK"))
    mode = "RGB" if channels == 3 else "L"
    assert apart(images.decode(file, channels, 32, upright=True), whole(file, 32, mode))[1] < 30


@pytest.mark.parametrize("options", [{"progressive": True}, {"subsampling": 0}, {"subsampling": 2}, {"quality": 20}])
def test_every_kind_of_jpeg_is_reduced(decoded, options):
    file = encoded(grating(400, 500, 40.0), **options)
    pixels = images.decode(file, 3, 32, upright=True)
    assert decoded == [("RGB", (125, 100))]
    assert apart(pixels, whole(file, 32))[1] < 30


def test_of_several_pictures_in_one_file_the_first_is_reduced(decoded):
    first, second = (Image.fromarray(grating(400, 500, period)) for period in (40.0, 24.0))
    file = encoded(first, "MPO", save_all=True, append_images=[second])
    pixels = images.decode(file, 3, 32, upright=True)
    assert decoded == [("RGB", (125, 100))]
    assert apart(pixels, whole(file, 32))[1] < 30


@pytest.mark.parametrize("kind", ["PNG", "BMP", "GIF", "WEBP", "TIFF"])
def test_other_formats_are_decoded_whole(kind):
    file = encoded(grating(400, 500), kind)
    np.testing.assert_array_equal(images.decode(file, 3, 32, upright=True), whole(file, 32))


@pytest.mark.parametrize("share", [0.02, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_truncated_jpeg_is_refused_as_before(share, channels):
    file = encoded(np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8))
    cut = file[: int(share * len(file))]
    messages = [refusal(cut, channels, size) for size in (16, 200, None)]
    assert messages[0] == messages[1] == messages[2]
    assert messages[0].startswith("photo.jpg cannot be read as a picture: ")


def refusal(file: bytes, channels: int, size: int | None) -> str:
    with pytest.raises(InputError) as error:
        images.decode(file, channels, size, upright=True, where="photo.jpg")
    return str(error.value)
