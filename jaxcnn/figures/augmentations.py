"""What augmentations make of a picture.

The picture in the documentation (docs/augmentations.png) shows each at its default strength, or at one that fits 96
pixels:

    import jax, jax.numpy as jnp, numpy as np
    from PIL import Image
    from sklearn.datasets import load_sample_image
    from jaxcnn.data.augment import AUGMENTATIONS, make
    from jaxcnn.figures import augmentations, style

    boxes = {"china": (100, 0, 527, 427), "flower": (180, 0, 600, 420)}
    squares = [Image.fromarray(load_sample_image(f"{name}.jpg")).crop(box).resize((96, 96))
               for name, box in boxes.items()]
    batch = jnp.array(np.stack(squares).astype(np.float32) / 255)
    order = ("flip crop resized_crop scale rotation cutout randaugment "
             "brightness contrast saturation hue lighting mixup cutmix")
    rows = {}
    for name in order.split():
        strength = {"crop": 12.0, "cutout": 48.0, "mixup": 1.0}.get(name, AUGMENTATIONS[name].default)
        augment = make({name: strength})
        draws = [augment(jax.random.key(seed), batch, jnp.eye(2), 0)[0][0] for seed in range(4)]
        rows[f"{name} {strength:g}"] = np.stack(draws)
    style.save(augmentations.augmentations(batch[0], rows), "docs/augmentations")
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from jaxcnn.errors import InputError
from jaxcnn.figures import style
from jaxcnn.figures.pictures import as_pictures, caption, grid, show


@style.styled
def augmentations(original: ArrayLike, results: Mapping[str, ArrayLike], *, width: float = style.PAGE) -> Figure:
    """One row for each augmentation: its name, the original picture, and what became of it in several draws.

    Args:
      original: [H, W, C] with one or three channels; floats in [0, 1] or uint8.
      results: by name, with the strength, pictures [N, H, W, C] of the original's size; N the same for all, at least 1.
      width: width of the figure in inches; a page's width holds two rows beside each other.

    Returns:
      A figure with N + 1 axes for each augmentation.

    Raises:
      InputError: nothing to show, or pictures of another number, size or range.
    """
    first = as_pictures(np.asarray(original)[None])[0]
    rows = {name: as_pictures(pictures) for name, pictures in results.items()}
    if not rows:
        raise InputError("results are empty; expected pictures of at least one augmentation")
    shape = (len(next(iter(rows.values()))), *first.shape)
    for name, pictures in rows.items():
        if pictures.shape != shape:
            raise InputError(f"pictures of {name} have shape {pictures.shape}; expected {shape}")
    blocks = 2 if width > 1.5 * style.COLUMN and len(rows) > 1 else 1
    columns = 1 + shape[0]
    figure, axes = grid(
        -(-len(rows) // blocks), columns * blocks, first.shape[:2], width=width, blocks=blocks, above=0.17, top=0.13
    )
    # Down the first block, then down the second, as columns of text are read.
    places = [row[columns * block : columns * (block + 1)] for block in range(blocks) for row in axes]
    for panels, (name, pictures) in zip(places, rows.items(), strict=False):
        for panel, picture in zip(panels, [first, *pictures], strict=True):
            show(panel, picture)
        room = columns * panels[0].get_position().width * width / style.POINT
        caption(panels[0], style.shorten(name, room))
    for panel in (panel for panels in places[len(rows) :] for panel in panels):
        panel.remove()
    tall = figure.get_figheight()
    for block in range(blocks):
        for column, heading in enumerate(("original", "draws")):
            left = axes[0][columns * block + column].get_position().x0
            figure.text(left, 1 - 0.12 / tall, heading, va="baseline", size=style.SMALL, color="0.35")
    return figure
