"""The 1,000 classes of ImageNet (ILSVRC 2012), in the order of the outputs of the networks trained on it."""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import NamedTuple


class ImageNetClass(NamedTuple):
    """One class.

    Attributes:
      synset: its WordNet number, "n01440764".
      name: its first word, "tench".
    """

    synset: str
    name: str


@cache
def classes() -> tuple[ImageNetClass, ...]:
    """All of them; output i of a network is the i-th.

    Reference: Russakovsky et al., "ImageNet large scale visual recognition challenge", 2015.
    """
    text = resources.files("jaxcnn.data").joinpath("imagenet_classes.txt").read_text(encoding="utf-8")
    return tuple(ImageNetClass(*line.split("\t")) for line in text.splitlines())


def names() -> tuple[str, ...]:
    """The names in order; two pairs of classes share theirs, "crane" and "maillot"."""
    return tuple(entry.name for entry in classes())


def label(text: str) -> int | None:
    """The class that the name of a file or folder stands for.

    Args:
      text: begins with a synset ("n01440764_tench.JPEG"), or is the name of a class ("great_white_shark").

    Returns:
      The position of the class, or None where there is no such class or more than one.
    """
    for position, entry in enumerate(classes()):
        if text.startswith(entry.synset):
            return position
    spoken = text.replace("_", " ").lower()
    found = [position for position, name in enumerate(names()) if name.lower() == spoken]
    return found[0] if len(found) == 1 else None
