"""Several networks that are asked the same of the same images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax.errors import ScopeParamShapeError
from jaxtyping import Float, Int

from jaxcnn import models
from jaxcnn.errors import InputError
from jaxcnn.report import results
from jaxcnn.report.subject import BATCH, Network, Subject

_T = TypeVar("_T")
_Architecture: TypeAlias = tuple[str, tuple[tuple[str, Any], ...]]


@dataclass(frozen=True)
class Measured:
    """What was measured of some networks, and drawn.

    Attributes:
      folder: what was written.
      files: in it.
      examples: images that the networks were asked about.
      networks: the networks with what was measured of each.
    """

    folder: Path
    files: list[Path]
    examples: int
    networks: list[tuple[Network, Any]]


class Batches:
    """Images with their labels, read anew each time.

    Attributes:
      subject: whose they are.
      indices: of the images in their split.
    """

    def __init__(self, subject: Subject, limit: int) -> None:
        """Chooses images at equal distances from all.

        Args:
          subject: whose images.
          limit: how many, at most.

        Raises:
          InputError: the limit is below 1.
        """
        if limit < 1:
            raise InputError(f"limit is {limit}; expected at least 1 image")
        total = len(subject.source)
        self.subject: Subject = subject
        self.indices: Int[np.ndarray, " n"] = np.linspace(0, total - 1, min(limit, total)).round().astype(np.int64)

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[tuple[Float[np.ndarray, "n h w c"], Int[np.ndarray, " n"]]]:
        for start in range(0, len(self.indices), BATCH):
            images, labels = self.subject.source.read(self.indices[start : start + BATCH])
            yield images.astype(np.float32) / 255, labels

    def whole(self) -> tuple[Float[np.ndarray, "n h w c"], Int[np.ndarray, " n"]]:
        """All at once."""
        images, labels = zip(*self, strict=True)
        return np.concatenate(images), np.concatenate(labels)


def write(
    folder: Path,
    batches: Batches,
    found: list[tuple[Network, Any]],
    arrays: Callable[[Any], Mapping[str, np.ndarray]],
    about: Mapping[str, Any],
    figures: Mapping[str, Any],
) -> Measured:
    """Writes what was measured, the arrays of network number N of those beside each other as NAME_N.

    Args:
      folder: from `results.new_folder`.
      batches: what the networks were asked about.
      found: the networks, the subject's first, with what was measured of each.
      arrays: of what was measured of one.
      about: JSON values, to which the networks and the images are added; "command" names the file of arrays.
      figures: by the names of their files.

    Raises:
      InputError: the folder has appeared meanwhile.
      RunError: it cannot be written.
    """
    kept: dict[str, np.ndarray] = {"indices": batches.indices}
    for number, (_, result) in enumerate(found):
        kept |= {f"{name}_{number}": value for name, value in arrays(result).items()}
    others = [network.about() for network, _ in found[1:]]
    files = results.write(
        folder, about["command"], kept, {**about, "beside": others, **batches.subject.about()}, figures
    )
    return Measured(folder, files, len(batches), found)


def require_images(subject: Subject, networks: Sequence[Network], *, labelled: bool) -> None:
    """Refuses images of a size that a network does not take, or without the labels that are needed.

    Args:
      subject: the images.
      networks: the networks.
      labelled: whether the labels must be known, of as many classes as each network has.

    Raises:
      InputError: a network takes another size or has other classes, or the labels are unknown.
    """
    if labelled and not subject.labelled:
        raise InputError("the photographs have no labels; expected file or folder names that begin with a synset")
    shape, classes = subject.source.image_shape, len(subject.source.class_names)
    images = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    for name, network in zip(names(networks), networks, strict=True):
        count = network.model.num_classes
        if labelled and count != classes:
            raise InputError(f"{name} has {count} classes; expected {classes}, as the images have")
        apply = partial(network.model.apply, train=False)
        try:
            jax.eval_shape(apply, network.state.variables, images)
        except ScopeParamShapeError as error:
            raise InputError(
                f"{name} takes images of {_size(network.spec.input_shape)}; expected {_size(shape)}, as the images have"
            ) from error


def _size(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))


def names(networks: Sequence[Network]) -> list[str]:
    """What the networks are called side by side: as many of the last parts of their names as tell them apart."""
    parts = [Path(network.name).resolve().parts for network in networks]
    for count in range(1, max(map(len, parts)) + 1):
        ends = ["/".join(path[-count:]) for path in parts]
        if len(set(ends)) == len(set(parts)):
            return ends
    return [network.title for network in networks]


def by_architecture(found: Sequence[tuple[Network, _T]]) -> dict[str, list[_T]]:
    """What was found of networks of one architecture together, each a seed.

    Returns:
      By the networks' name; of those that differ in options alone with these options, and where all have one name,
      without it.
    """
    groups: dict[_Architecture, list[_T]] = {}
    for network, result in found:
        options = models.options(network.spec.name) | dict(network.spec.options)  # older runs lack newer options
        groups.setdefault((network.spec.title, tuple(sorted(options.items()))), []).append(result)
    return {_title(one, list(groups)): group for one, group in groups.items()}


def _title(one: _Architecture, all_of_them: Sequence[_Architecture]) -> str:
    name, options = one
    alike = [dict(others) for other, others in all_of_them if other == name]
    differ = [f"{key} {value}" for key, value in options if any(others.get(key) != value for others in alike)]
    if not differ:
        return name
    return ", ".join(differ) if len(alike) == len(all_of_them) else f"{name} ({', '.join(differ)})"
