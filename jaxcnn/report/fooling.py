"""Images that fool a network, class by class: climbed to, or evolved; with figures of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn.analysis import evolution
from jaxcnn.analysis.chunks import affordable, join, pieces
from jaxcnn.config import check_seed
from jaxcnn.data import imagenet
from jaxcnn.errors import InputError
from jaxcnn.figures import fooling as figures
from jaxcnn.report import results
from jaxcnn.report.climbing import climb
from jaxcnn.report.evolving import evolve, to_bytes
from jaxcnn.report.saliency import class_number
from jaxcnn.report.subject import Network

Method: TypeAlias = Literal["gradient", "direct", "cppn"]

SETTINGS: dict[str, dict[str, float | int]] = {
    "gradient": {"confidence": 0.9999, "steps": 200, "step_size": 0.02, "penalty": 0.0},
    "direct": {"generations": 200, "population": 200},
    "cppn": {"generations": 200, "population": 200},
}
"""What each method is told, and the defaults."""
PUBLISHED = {"direct": 0.2159, "cppn": 0.8811}
"""Median confidences over the 1,000 classes of ImageNet that Nguyen, Yosinski & Clune 2015 report for AlexNet."""
SHEET, FILM = 40, 10
"""Classes of which images are shown, if there are more; and of which their evolution is."""


@dataclass(frozen=True)
class Fooled:
    """Fooling images, kept and drawn.

    Attributes:
      folder: what was written.
      files: in it.
      targets: [N], the classes.
      confidences: [N], the probability of each.
      rounded: [N], of the images rounded to 8 bits, as pictures are kept.
      class_names: N names.
    """

    folder: Path
    files: list[Path]
    targets: np.ndarray
    confidences: np.ndarray
    rounded: np.ndarray
    class_names: list[str]

    def values(self) -> dict[str, Any]:
        """What was found, as JSON values."""
        return {
            "output": str(self.folder),
            "files": [path.name for path in self.files],
            "targets": self.targets.tolist(),
            "confidences": self.confidences.tolist(),
            "median_confidence": float(np.median(self.confidences)),
            "rounded_confidences": self.rounded.tolist(),
            "median_rounded_confidence": float(np.median(self.rounded)),
        }

    def in_words(self) -> str:
        """What was found, in a sentence."""
        return (
            f"{len(self.targets):,} classes: median confidence {np.median(self.confidences):.6f}, least "
            f"{self.confidences.min():.6f}; with 8 bits {np.median(self.rounded):.6f} and {self.rounded.min():.6f}"
        )


def draw_fooling(
    network: Network,
    *,
    method: Method = "gradient",
    targets: Sequence[str] = (),
    confidence: float | None = None,
    steps: int | None = None,
    step_size: float | None = None,
    penalty: float | None = None,
    generations: int | None = None,
    population: int | None = None,
    seed: int = 0,
    output: str | Path | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> Fooled:
    """Fools a network, and draws how.

    What was reached is saved every minute beside the folder, as NAME.evolution.npz or NAME.ascent.npz, from which the
    same call goes on after an interruption.

    Args:
      network: the network.
      method: gradient ascent from noise, or evolution with pixels or with CPPNs as genomes.
      targets: names or numbers of classes; none are all. Evolution evolves all classes, and these are kept.
      confidence: see `fooling.ascend`, as all up to `penalty`; of the method gradient.
      steps: at most.
      step_size: root mean square of a step.
      penalty: weight of the squared distance to the start.
      generations: see `evolution.map_elites`; of the methods direct and cppn.
      population: children of a generation.
      seed: of the key.
      output: the new folder; None calls it after the network and the method.
      progress: is told in a sentence how far it is.

    Raises:
      InputError: an argument is out of range or of another method, there is no such class, or the folder exists.
    """
    check_seed(seed)
    folder = results.new_folder(f"fool-{network.title}-{method}" if output is None else output)
    given = {
        "confidence": confidence,
        "steps": steps,
        "step_size": step_size,
        "penalty": penalty,
        "generations": generations,
        "population": population,
    }
    settings = _settings(method, given)
    classes = network.model.num_classes
    names = class_names(network)
    wanted = np.array([class_number(target, names) for target in targets] or range(classes))
    about = {"command": "fool", "method": method, **settings, "seed": seed, **network.about()}
    height, width, channels = network.spec.input_shape
    shape = height, width, channels
    arrays: dict[str, np.ndarray] = {"targets": wanted}
    drawn: dict[str, Any] = {}
    saved = folder.with_name(f"{folder.name}.{'ascent' if method == 'gradient' else 'evolution'}.npz")
    published = PUBLISHED.get(method) if classes == len(imagenet.names()) else None
    moving: tuple[Any, ...] | None = None
    if method == "gradient":

        def count(done: int, confidences: np.ndarray) -> None:
            middle = figures.sure(float(np.median(confidences)))
            progress(f"{done:,} of {len(wanted):,} classes: median confidence {middle}")

        asked = about | {"targets": wanted.tolist()}
        climbed = climb(network, wanted, settings, seed=seed, about=asked, file=saved, progress=count)
        kept, sure = climbed.images, climbed.confidences
        arrays |= {"steps": climbed.steps, "history": climbed.history}
        drawn["steps"] = figures.history(climbed.history, "step", first=0)
    else:
        shown = wanted[_spread(len(wanted), FILM)]

        def tell(done: int, confidences: np.ndarray) -> None:
            progress(f"generation {done:,}: median confidence {figures.sure(float(np.median(confidences)))}")

        evolved = evolve(
            network,
            method,
            key=jax.random.key(seed),
            generations=int(settings["generations"]),
            population=int(settings["population"]),
            shown=shown,
            about=about | {"shown": shown.tolist()},
            file=saved,
            progress=tell,
        )
        kept = to_bytes(np.asarray(evolution.images(evolved.archive, method, shape, targets=wanted)))
        sure = np.asarray(evolved.archive.confidences)[wanted]
        arrays |= {"history": evolved.history, "frames": evolved.frames, "generations": evolved.generations}
        past = evolved.history[evolved.generations - 1][:, shown]
        moving = evolved.frames, evolved.generations.tolist(), [names[k] for k in shown], past
        drawn |= {
            "generations": figures.history(evolved.history, "generation", published=published),
            "film": figures.film(*moving),
        }
    rounded = confidences_of(network, kept, wanted)
    arrays |= {"images": kept, "confidences": sure, "rounded": rounded}
    sheets = {"images": (_spread(len(wanted), SHEET), "")}
    if len(wanted) > SHEET:
        sheets["images"] = sheets["images"][0], f"{SHEET} of {len(wanted):,} classes, evenly spaced"
        sheets["surest"] = np.argsort(-sure, kind="stable")[:SHEET], f"the surest {SHEET} of {len(wanted):,} classes"
        drawn["confidences"] = figures.confidences(sure, published=published)
    for title, (some, note) in sheets.items():
        labels = [names[wanted[i]] for i in some]
        drawn[title] = figures.sheet(kept[some], labels, sure[some], columns=8 if note else 5, note=note)
    with results.appearing(folder) as partial:
        files = results.fill(partial, "fooling", arrays, about, drawn)
        if moving is not None:
            files.append(figures.animate(partial / "evolution.gif", *moving))
    files = [folder / path.name for path in files]
    saved.unlink(missing_ok=True)
    return Fooled(folder, files, wanted, sure, rounded, [names[k] for k in wanted])


def class_names(network: Network) -> list[str]:
    """What the network's logits stand for: as its description says, else as ImageNet's or a number."""
    count = network.model.num_classes
    for names in (network.spec.class_names, imagenet.names()):
        if len(names) == count:
            return list(names)
    return [str(number) for number in range(count)]


def _settings(method: str, given: dict[str, Any]) -> dict[str, Any]:
    """The method's settings, the defaults where nothing was given."""
    for name, value in given.items():
        if value is not None and name not in SETTINGS[method]:
            raise InputError(f"{name} is {value}; expected none, as the method {method} has no such setting")
    return {name: default if given[name] is None else given[name] for name, default in SETTINGS[method].items()}


def _spread(count: int, most: int) -> np.ndarray:
    """Numbers below the count, at equal distances, as many as there may be."""
    return np.linspace(0, count - 1, min(count, most)).round().astype(int)


def confidences_of(network: Network, images: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """How sure a network is that images show their targets, [N].

    Args:
      network: the network.
      images: [N, H, W, C], 0 to 255.
      targets: [N].
    """

    @jax.jit
    def said(variables: Any, images: jax.Array) -> jax.Array:
        logits: Any = network.model.apply(variables, images, train=False)
        return jax.nn.softmax(logits.astype(jnp.float32))

    size = affordable(network.model, network.state.variables, images.shape[1:])
    parts = [
        said(network.state.variables, jnp.asarray(images[some], jnp.float32) / 255)
        for some in pieces(len(images), size)
    ]
    return np.asarray(join(parts, len(images)))[np.arange(len(images)), targets]
