"""What a model's file registers: how to build it, what has been published about it, how PyTorch calls its parts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from jaxcnn.config import Option
from jaxcnn.layers.image_model import ImageModel


@dataclass(frozen=True)
class Preprocessing:
    """How a picture becomes the input that published weights expect; where there are none, what PyTorch's usually do.

    Attributes:
      resize: shorter side in pixels that the picture is scaled to (bilinear) before the central crop of the input's
        size; None scales the whole picture to the input's size.
      mean: subtracted per channel, in [0, 1].
      std: divided by per channel, in (0, 1].
    """

    resize: int | None = None
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)


IMAGENET = Preprocessing(resize=256, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
"""What most of PyTorch's published ImageNet weights expect; the crop is the network's input size."""


@dataclass(frozen=True)
class Facts:
    """What is known of a network; counts are of the registered form at its published input and number of classes.

    Attributes:
      paper: authors and title.
      year: of the paper.
      input_shape: height and width in pixels, and channels, of the published form.
      num_classes: classes of the published form.
      parameters: trainable values, exactly; 0 where nobody has counted them.
      multiply_adds: of the convolutions and dense layers for one image in inference, exactly, or 0.
      accuracy: the published result and its protocol, or "".
      published_parameters: as the paper prints them, or "" where it does not.
      published_operations: as the paper prints them, with its unit, or "" where it does not.
      preprocessing: that weights in circulation expect; papers before 2015 subtract a mean and divide by nothing.
      smallest: least height and width in pixels that the architecture allows.
      differs: how implementations differ from the paper, this one among them, or "".
    """

    paper: str
    year: int
    input_shape: tuple[int, int, int]
    num_classes: int
    parameters: int = 0
    multiply_adds: int = 0
    accuracy: str = ""
    published_parameters: str = ""
    published_operations: str = ""
    preprocessing: Preprocessing = Preprocessing()
    smallest: int = 1
    differs: str = ""


def dotted(path: str) -> str:
    """PyTorch's way of writing a module path, where nobody has published other names: stage1.block1.conv1."""
    return path.replace("/", ".")


@dataclass(frozen=True)
class TorchNames:
    """How PyTorch's published weights name and lay out the parts of a network.

    Attributes:
      module: from the path of a module here, "stage1/block1/conv1", to PyTorch's, "layer1.0.conv1".
      flattened: dense modules that see a flattened map [H, W, C], each with its (H, W): PyTorch flattens [C, H, W].
      transposed: up-convolutions, whose kernels PyTorch keeps as [I, O, H, W].
      surplus: PyTorch prefixes, such as "aux1.", of parts that weight files have and the network may be built without.
    """

    module: Callable[[str], str] = dotted
    flattened: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    transposed: tuple[str, ...] = ()
    surplus: tuple[str, ...] = ()


@dataclass(frozen=True)
class Registration:
    """One registered name.

    Attributes:
      module: the network's class.
      facts: what has been published about it.
      fixed: fields that the name itself decides; they are not options.
      defaults: options whose default differs from the class's.
      torch_names: how PyTorch's weights name its parts.
    """

    module: type[ImageModel]
    facts: Facts
    fixed: Mapping[str, Option] = field(default_factory=dict)
    defaults: Mapping[str, Option] = field(default_factory=dict)
    torch_names: TorchNames = TorchNames()
