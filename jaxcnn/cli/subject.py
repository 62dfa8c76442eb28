"""The flags of the commands that explain a network: which network, and which images."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import tyro

from jaxcnn.cli.terminal import NOWHERE_ELSE, Location, print_json

if TYPE_CHECKING:
    from jaxcnn.report.beside import Measured
    from jaxcnn.report.subject import Network, Subject


@dataclasses.dataclass(frozen=True)
class Trained:
    """A trained network."""

    network: tyro.conf.Positional[str]
    """Run directory; with weights, the name of the network."""
    weights: str | None = None
    """File of PyTorch's (.pth, .th, .safetensors) or .npz."""
    checkpoint: Literal["latest", "best"] | int | None = None
    """Of a run, the newest checkpoint (the default), the best, or the one of a step."""

    def open(self) -> Network:
        """The network."""
        from jaxcnn.report.subject import open_network

        return open_network(self.network, weights=self.weights, checkpoint=self.checkpoint)


@dataclasses.dataclass(frozen=True)
class Asked(Trained):
    """A trained network and images for it."""

    images: str | None = None
    """Folder of photographs, in place of a dataset; scaled and cut to the network's input."""
    dataset: str | None = None
    """Name of a dataset; by default a run's own."""
    split: Literal["test", "train", "validation"] | None = None
    """Of a run or dataset, which images; by default test."""
    image_size: int | None = None
    """Height and width in pixels of photographs, or of another dataset's images."""
    data: Location = NOWHERE_ELSE
    """Where the dataset lies now."""

    def open_subject(self) -> Subject:
        """The network and the images."""
        from jaxcnn.report.subject import open_subject

        return open_subject(
            self.open(),
            images=self.images,
            dataset=self.dataset,
            split=self.split,
            image_size=self.image_size,
            data_directory=self.data.directory,
        )


def print_networks(
    measured: Measured,
    values: Callable[[Any], dict[str, Any]],
    in_words: Callable[[Any], list[str]],
    *,
    as_json: bool,
) -> None:
    """Prints what was measured of networks, by `values` as JSON or `in_words`, and what was written."""
    from jaxcnn.report.beside import names

    if as_json:
        networks = [{"network": network.name, **values(result)} for network, result in measured.networks]
        files = [path.name for path in measured.files]
        print_json(
            {"output": str(measured.folder), "files": files, "examples": measured.examples, "networks": networks}
        )
        return
    called = names([network for network, _ in measured.networks])
    for name, (_, result) in zip(called, measured.networks, strict=True):
        for line in in_words(result):
            print(f"{name}: {line}")
    for path in measured.files:
        print(f"  {path}")
