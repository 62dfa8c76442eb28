"""What a model's file registers: how to build it, and what has been published about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from jaxcnn.config import Option
from jaxcnn.layers.image_model import ImageModel


@dataclass(frozen=True)
class Facts:
    """What the literature says of a network.

    Attributes:
      paper: authors, title and year.
      input_shape: height and width in pixels, and channels, of the published form.
      num_classes: classes of the published form.
      parameters: trainable values of the published form.
      accuracy: the published result and its protocol.
    """

    paper: str
    input_shape: tuple[int, int, int]
    num_classes: int
    parameters: int
    accuracy: str


@dataclass(frozen=True)
class Registration:
    """One registered name.

    Attributes:
      module: the network's class.
      facts: what has been published about it.
      fixed: fields that the name itself decides; they are not options.
      defaults: options whose default differs from the class's.
    """

    module: type[ImageModel]
    facts: Facts
    fixed: Mapping[str, Option] = field(default_factory=dict)
    defaults: Mapping[str, Option] = field(default_factory=dict)
