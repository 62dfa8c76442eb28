"""The views of an image: against torchvision's crops, and against boxes written out for Pillow."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from jaxcnn.data import crops, photographs
from jaxcnn.errors import InputError

SIDES = st.integers(1, 9)


def random_picture(height: int, width: int, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(height * width).integers(0, 256, (height, width, channels), np.uint8)


@pytest.fixture(scope="module")
def functional(torchvision):
    from torchvision.transforms import functional

    return functional


def as_torch(torch, images):
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(np.asarray(images), -1, -3)))


@given(data=st.data())
@settings(deadline=None, max_examples=30)
def test_the_boxes_are_those_of_torchvision(torch, functional, data):
    height, width, more, wider = (data.draw(SIDES) for _ in range(4))
    shape = (height + more - 1, width + wider - 1)
    image = np.arange(shape[0] * shape[1]).reshape(*shape, 1)
    expected = functional.ten_crop(as_torch(torch, image), [height, width])
    for box, crop in zip(crops.ten_boxes(shape, (height, width)), expected, strict=True):
        way = image[:, ::-1] if box.mirrored else image
        np.testing.assert_array_equal(
            way[box.top : box.top + height, box.left : box.left + width, 0], crop[0].numpy(), err_msg=str(box)
        )


@pytest.mark.parametrize("size", [(5, 5), (4, 7), (8, 9)])
def test_ten_views_are_torchvision_s_ten_crops(torch, functional, size):
    images = np.random.default_rng(0).random((2, 8, 9, 3), np.float32)
    views = crops.ten_views(jnp.asarray(images), size)
    assert views.shape == (10, 2, *size, 3)
    expected = functional.ten_crop(as_torch(torch, images), list(size))
    for view, crop in zip(views, expected, strict=True):
        np.testing.assert_array_equal(as_torch(torch, view), crop)


def test_a_traced_box_takes_the_same_view():
    images = jnp.asarray(np.random.default_rng(0).random((1, 6, 7, 1), np.float32))
    taken = jax.jit(crops.take, static_argnums=4)
    for box in crops.ten_boxes((6, 7), (4, 3)):
        way = images[:, :, ::-1] if box.mirrored else images
        np.testing.assert_array_equal(
            taken(images, *box, (4, 3)), way[:, box.top : box.top + 4, box.left : box.left + 3], err_msg=str(box)
        )


def test_crops_larger_than_the_image_are_refused():
    for size in ((5, 3), (4, 4)):
        with pytest.raises(InputError, match=rf"the image is 4x3; expected at least its crops' {size[0]}x{size[1]}"):
            crops.ten_boxes((4, 3), size)


def test_the_padding_is_the_cifar_recipe_s():
    assert [crops.padding(size) for size in ((32, 32), (28, 28), (64, 40), (3, 3))] == [4, 3, 5, 1]


@given(st.integers(20, 90), st.integers(20, 90), st.sampled_from([1, 3]))
@settings(deadline=None, max_examples=15)
def test_ten_views_of_a_photograph_are_torchvision_s_of_its_central_square(torchvision, height, width, channels):
    from torchvision import transforms

    image = random_picture(height, width, channels)
    steps = transforms.Compose([transforms.Resize(40), transforms.CenterCrop(40), transforms.TenCrop((31, 28))])
    expected = [np.asarray(view).reshape(31, 28, channels) for view in steps(Image.fromarray(image.squeeze()))]
    np.testing.assert_array_equal(crops.ten_of_photograph(image, 40, (31, 28)), expected)


def szegedy(image: np.ndarray, sides: tuple[int, ...], size: int) -> list[np.ndarray]:
    """The 144 views, cut by Pillow from boxes (left, upper, right, lower)."""
    views = []
    picture = Image.fromarray(image)
    for side in sides:
        if picture.width >= picture.height:
            large = picture.resize((picture.width * side // picture.height, side), Image.Resampling.BILINEAR)
            starts = [(0, 0), (round((large.width - side) / 2), 0), (large.width - side, 0)]
        else:
            large = picture.resize((side, picture.height * side // picture.width), Image.Resampling.BILINEAR)
            starts = [(0, 0), (0, round((large.height - side) / 2)), (0, large.height - side)]
        for x, y in starts:
            rest, half = side - size, round((side - size) / 2)
            for dx, dy in ((0, 0), (rest, 0), (0, rest), (rest, rest), (half, half)):
                views.append(large.crop((x + dx, y + dy, x + dx + size, y + dy + size)))
            square = large.crop((x, y, x + side, y + side))
            views.append(square.resize((size, size), Image.Resampling.BILINEAR))
    both = [(view, view.transpose(Image.Transpose.FLIP_LEFT_RIGHT)) for view in views]
    return [np.asarray(view) for pair in both for view in pair]


@pytest.mark.parametrize("shape", [(375, 500), (500, 333), (230, 230)])
def test_144_views_at_224_are_the_published_ones(shape):
    image = random_picture(*shape)
    views = crops.many_of_photograph(image, 224)
    assert views.shape == (4 * 3 * 6 * 2, 224, 224, 3)
    np.testing.assert_array_equal(views, szegedy(image, (256, 288, 320, 352), 224))
    distinct = len({view.tobytes() for view in views})
    assert distinct == (144 if shape[0] != shape[1] else 48)


@given(st.integers(10, 120), st.integers(10, 120), st.sampled_from([16, 32, 56]))
@settings(deadline=None, max_examples=15)
def test_144_views_of_other_sizes_keep_the_proportions(height, width, size):
    image = random_picture(height, width)
    sides = {16: (18, 21, 23, 25), 32: (37, 41, 46, 50), 56: (64, 72, 80, 88)}[size]
    np.testing.assert_array_equal(crops.many_of_photograph(image, size), szegedy(image, sides, size))


# ---- as a source


@pytest.fixture
def folder(tmp_path):
    for name, shape in (("n01440764_a.png", (40, 60)), ("n01443537_b.png", (50, 30)), ("n02110341_c.png", (33, 33))):
        Image.fromarray(random_picture(*shape)).save(tmp_path / name)
    return tmp_path


@pytest.mark.parametrize("views", [10, 144])
def test_any_views_are_read_in_any_order(folder, views):
    source = photographs.open_photographs(folder, (16, 16, 3), 20)
    several = photographs.ViewSource(source, views)
    assert (len(several), several.image_shape) == (3 * views, (16, 16, 3))
    assert several.class_names == source.class_names
    indices = np.random.default_rng(0).permutation(3 * views)[:40]
    images, labels = several.read(indices)
    pictures = [random_picture(40, 60), random_picture(50, 30), random_picture(33, 33)]
    every = np.concatenate(
        [
            crops.ten_of_photograph(picture, 20, (16, 16)) if views == 10 else crops.many_of_photograph(picture, 16)
            for picture in pictures
        ]
    )
    np.testing.assert_array_equal(images, every[indices])
    np.testing.assert_array_equal(labels, np.repeat(source.labels, views)[indices])


def test_views_that_make_no_sense_are_refused(folder):
    for shape, resize, views, says in (
        ((16, 16, 3), 16, 10, "the photographs are scaled to 16 for crops of 16x16, which leaves the ten views"),
        ((16, 16, 3), None, 10, "the photographs are scaled whole for crops of 16x16"),
        ((16, 20, 3), 40, 144, "the crop is 16x20 pixels; expected a square one for 144 views"),
    ):
        source = photographs.open_photographs(folder, shape, resize)
        with pytest.raises(InputError, match=says):
            photographs.ViewSource(source, views)
