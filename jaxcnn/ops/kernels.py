"""The classic kernels of image processing: convolutions whose weights somebody chose, before networks learned them."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Num

from jaxcnn.errors import InputError, unknown_name
from jaxcnn.ops.convolution import convolution
from jaxcnn.ops.op import check_floating


class Kernel(NamedTuple):
    """A kernel of one channel.

    Attributes:
      title: what it does to a picture.
      weights: k rows of k numbers, k odd; the picture is correlated with them, so they apply as they are read.
      source: who wrote these numbers down, and where others differ.
    """

    title: str
    weights: tuple[tuple[float, ...], ...]
    source: str


LIST = "Wikipedia, 'Kernel (image processing)'"
"""Where many of the kernels are listed."""
TUTORIAL = "L. Vandevenne, Lode's Computer Graphics Tutorial, 'Image Filtering'"
"""Where the others are."""

KERNELS: dict[str, Kernel] = {
    "identity": Kernel(
        "identity",
        (
            (0, 0, 0),
            (0, 1, 0),
            (0, 0, 0),
        ),
        f"{LIST}.",
    ),
    "sharpen": Kernel(
        "sharpen",
        (
            (0, -1, 0),
            (-1, 5, -1),
            (0, -1, 0),
        ),
        f"{LIST}: the identity less the 4-neighbour Laplacian. With all 8 neighbours it is 9 amid -1.",
    ),
    "sharpen_detail_5x5": Kernel(
        "sharpen with more detail",
        (
            (-1 / 8, -1 / 8, -1 / 8, -1 / 8, -1 / 8),
            (-1 / 8, 2 / 8, 2 / 8, 2 / 8, -1 / 8),
            (-1 / 8, 2 / 8, 8 / 8, 2 / 8, -1 / 8),
            (-1 / 8, 2 / 8, 2 / 8, 2 / 8, -1 / 8),
            (-1 / 8, -1 / 8, -1 / 8, -1 / 8, -1 / 8),
        ),
        f"{TUTORIAL}, section 'Sharpen', the subtle one. Another customary 5x5 is unsharp masking, the identity and "
        "its difference from a Gaussian.",
    ),
    "edge_detection_diagonal": Kernel(
        "edge detection, diagonal",
        (
            (1, 0, -1),
            (0, 0, 0),
            (-1, 0, 1),
        ),
        f"{LIST}, the first of three: the mixed derivative, blind to edges along rows and columns.",
    ),
    "edge_detection_laplacian": Kernel(
        "edge detection, Laplacian",
        (
            (0, 1, 0),
            (1, -4, 1),
            (0, 1, 0),
        ),
        f"{LIST}, the second of three: the Laplacian of the 4 neighbours. Others print it with the opposite sign.",
    ),
    "edge_detection_all_directions": Kernel(
        "edge detection, all directions",
        (
            (-1, -1, -1),
            (-1, 8, -1),
            (-1, -1, -1),
        ),
        f"{LIST}, the third of three, and {TUTORIAL}, section 'Find Edges', for edges in all directions: "
        "the Laplacian of the 8 neighbours, negated.",
    ),
    "horizontal_edges_5x5": Kernel(
        "horizontal edges",
        (
            (0, 0, -1, 0, 0),
            (0, 0, -1, 0, 0),
            (0, 0, 2, 0, 0),
            (0, 0, 0, 0, 0),
            (0, 0, 0, 0, 0),
        ),
        f"{TUTORIAL}, section 'Find Edges'. Older copies print the numbers along the row, where they find vertical "
        "edges.",
    ),
    "vertical_edges_5x5": Kernel(
        "vertical edges",
        (
            (0, 0, 0, 0, 0),
            (0, 0, 0, 0, 0),
            (-1, -1, 4, -1, -1),
            (0, 0, 0, 0, 0),
            (0, 0, 0, 0, 0),
        ),
        f"{TUTORIAL}, section 'Find Edges', transposed: it prints the numbers down the column, where they find "
        "horizontal edges.",
    ),
    "edges_45_degrees_5x5": Kernel(
        "edges at 45°",
        (
            (-1, 0, 0, 0, 0),
            (0, -2, 0, 0, 0),
            (0, 0, 6, 0, 0),
            (0, 0, 0, -2, 0),
            (0, 0, 0, 0, -1),
        ),
        f"{TUTORIAL}, section 'Find Edges': differences along the falling diagonal find the edges that rise.",
    ),
    "horizontal_edges_3x3": Kernel(
        "horizontal edges, Prewitt",
        (
            (1, 1, 1),
            (0, 0, 0),
            (-1, -1, -1),
        ),
        "J. Prewitt, 'Object Enhancement and Extraction', 1970: positive where it is brighter above. Sobel's has 1 2 1 "
        "for 1 1 1.",
    ),
    "vertical_edges_3x3": Kernel(
        "vertical edges, Prewitt",
        (
            (1, 0, -1),
            (1, 0, -1),
            (1, 0, -1),
        ),
        "J. Prewitt, 'Object Enhancement and Extraction', 1970: positive where it is brighter on the left. Others "
        "print the opposite sign.",
    ),
}
"""The filter bank by name, named by what each kernel finds: a horizontal edge separates what is above from below."""


def apply(kernel: Kernel | str, images: Num[Array, "n h w c"]) -> Num[Array, "n h w c"]:
    """Filter pictures with one kernel, every channel by itself.

    z[i, j] = sum_uv kernel[u, v] x[i + u - r, j + v - r],  r = (k - 1) / 2

    A convolution with as many groups as channels. Beyond the border, x repeats the pixel at the edge: zeros would be
    a step there, around which every kernel that finds edges draws a frame.

    Args:
      kernel: a name in `KERNELS`, or a kernel.
      images: [N, H, W, C] in [0, 1].

    Returns:
      [N, H, W, C], neither clipped nor scaled: a kernel whose weights sum to 1 keeps a constant picture, one whose
      weights sum to 0 turns it to 0 and answers edges with either sign.

    Raises:
      InputError: an unknown name, weights that are no square of odd size, or images that are integers, empty or not
        four-dimensional.

    Reference: Gonzalez and Woods, "Digital Image Processing", 2018, section 3.4.
    """
    check_floating("a kernel", images=images)
    if images.ndim != 4 or 0 in images.shape:
        raise InputError(f"a kernel got images {images.shape}; expected [N, H, W, C], none of them 0")
    weights = jnp.asarray(_find(kernel).weights, images.dtype)
    if weights.ndim != 2 or weights.shape[0] != weights.shape[1] or weights.shape[0] % 2 == 0:
        raise InputError(f"a kernel's weights have shape {weights.shape}; expected a square of odd size")
    k, c = weights.shape[0], images.shape[-1]
    r = k // 2
    x = jnp.pad(images, ((0, 0), (r, r), (r, r), (0, 0)), mode="edge")
    return convolution(x, jnp.broadcast_to(weights.reshape(k, k, 1, 1), (k, k, 1, c)), groups=c)


def _find(kernel: Kernel | str) -> Kernel:
    if isinstance(kernel, Kernel):
        return kernel
    if kernel not in KERNELS:
        raise unknown_name("kernel", kernel, KERNELS)
    return KERNELS[kernel]
