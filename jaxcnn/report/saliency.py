"""Why a network says what it says of some images: maps of many methods, and what hiding a part changes."""

from __future__ import annotations

import inspect
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Int

from jaxcnn.analysis import attribution
from jaxcnn.analysis import occlusion as occlusions
from jaxcnn.analysis.attribution import Method
from jaxcnn.config import check_seed
from jaxcnn.errors import InputError, unknown_name
from jaxcnn.figures import attribution as attribution_figure
from jaxcnn.figures import occlusion as occlusion_figure
from jaxcnn.figures.saliency import saliency as saliency_figure
from jaxcnn.figures.style import PAGE
from jaxcnn.report import results
from jaxcnn.report.subject import Subject

ALL = "all"
"""In the place of methods' names: every one that applies to the network."""

Say = Callable[[str], None]
"""What is called with a sentence for the user."""

OVERLAID = 8
"""Images whose maps are drawn, where no limit is given, and those of one figure."""
OCCLUDED = 4
"""Images that are hidden part by part, where no limit is given, and those of one figure."""


@dataclass(frozen=True)
class Chosen:
    """Some of a subject's images, and the classes explained.

    Attributes:
      subject: the network and the images.
      indices: of the images.
      images: in [0, 1].
      targets: the classes.
      probabilities: of the classes.
      truths: names of the true classes; None where nothing says them.
    """

    subject: Subject
    indices: Int[np.ndarray, " n"]
    images: Float[np.ndarray, "n h w c"]
    targets: Int[np.ndarray, " n"]
    probabilities: Float[np.ndarray, " n"]
    truths: list[str] | None = None

    @property
    def files(self) -> list[str] | None:
        """The photographs; None of a dataset."""
        files = self.subject.files
        return None if files is None else [files[i] for i in self.indices]

    @property
    def names(self) -> list[str]:
        """What the images are called: by their files, or by their numbers in the dataset."""
        return self.files or [f"image {index}" for index in self.indices]

    @property
    def classes(self) -> list[str]:
        """Names of the targets."""
        return [self.subject.class_names[k] for k in self.targets]

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """What is kept to find the images again."""
        files = {} if self.files is None else {"files": np.array(self.files)}
        return {"indices": self.indices, "targets": self.targets, "probabilities": self.probabilities, **files}

    def about(self) -> dict[str, Any]:
        """What says which network, images and classes these are, as JSON values."""
        return {"classes": self.classes, **self.subject.about()}


@dataclass(frozen=True)
class Explained:
    """The maps of some methods, drawn.

    Attributes:
      folder: what was written.
      chosen: the images.
      files: of each method; and, under "sheets", of all beside each other.
      left_out: methods that do not apply to the network, and why.
    """

    folder: Path
    chosen: Chosen
    files: dict[str, list[Path]]
    left_out: dict[str, str]


@dataclass(frozen=True)
class Occluded:
    """What hiding parts of images changes, drawn.

    Attributes:
      folder: what was written.
      files: in it.
      chosen: the images.
      grid: see `occlusion.occlusion_grid`.
    """

    folder: Path
    files: list[Path]
    chosen: Chosen
    grid: occlusions.OcclusionGrid


def choose(subject: Subject, targets: Sequence[str] = (), *, limit: int) -> Chosen:
    """Images at equal distances, and the classes explained.

    Args:
      subject: the network and the images.
      targets: names or numbers of classes, one for all images or one for each; none are the predicted ones.
      limit: most images.

    Raises:
      InputError: there is no such class, targets and images are not as many, an image is broken, or the network takes
        other images.
    """
    if limit < 1:
        raise InputError(f"limit is {limit}; expected at least 1 image")
    count = len(subject.source)
    indices = np.linspace(0, count - 1, min(limit, count)).round().astype(np.int64)
    classes = None
    if targets:
        numbers = [class_number(target, subject.class_names) for target in targets]
        if len(numbers) not in (1, len(indices)):
            raise InputError(
                f"{len(numbers)} targets were given for {len(indices)} images; expected one, or one for each"
            )
        classes = np.resize(np.array(numbers, np.int32), len(indices))
    images, truths = subject.read_named(indices)
    network = subject.network
    question = attribution.ask(network.model, network.state, images, classes, output="probability").resolved()
    probabilities = question.scores(question.images)
    shares = np.clip(np.asarray(probabilities), 0, 1)
    return Chosen(subject, indices, images, np.asarray(question.classes), shares, truths)


def pick(chosen: Chosen, methods: Sequence[str], say: Say) -> tuple[dict[str, Method], dict[str, str]]:
    """The methods that apply to the network, found before the first takes its time.

    Args:
      chosen: what they explain.
      methods: names, or `ALL`.
      say: is told which of all are left out.

    Returns:
      The methods, and of those left out why.

    Raises:
      InputError: there is no such method, or one that was named does not apply.
    """
    every = ALL in methods
    named = {name: attribution.method(name) for name in methods if name != ALL}
    named = attribution.methods() if every else named
    if not named:
        raise InputError(f"no method was named; expected {ALL}, or some of {', '.join(attribution.methods())}")
    left_out: dict[str, str] = {}
    for name, method in named.items():
        try:
            jax.eval_shape(partial(_maps, chosen, method, 0), chosen.images)
        except InputError as error:
            if not every:
                raise InputError(f"{name}: {error}") from error
            left_out[name] = str(error)
            say(f"{name} is left out: {error}")
    return {name: method for name, method in named.items() if name not in left_out}, left_out


def draw_saliency(
    subject: Subject,
    *,
    methods: Sequence[str] = (ALL,),
    targets: Sequence[str] = (),
    limit: int = OVERLAID,
    seed: int = 0,
    output: str | Path | None = None,
    say: Say,
) -> Explained:
    """Draws the maps of attribution methods, each in a folder of its own; the folder of all appears when they are done.

    Args:
      subject: the network and the images.
      methods: names, or `ALL`.
      targets: see `choose`.
      limit: most images.
      seed: of the key that each method is given.
      output: the new folder; None calls it after the network.
      say: is told what a method warns of, and which are left out.

    Raises:
      InputError: see `choose` and `pick`; or the seed is out of range, or the folder exists or cannot be made.
    """
    check_seed(seed)
    folder = results.new_folder(f"saliency-{subject.network.title}" if output is None else output)
    chosen = choose(subject, targets, limit=limit)
    picked, left_out = pick(chosen, methods, say)
    maps: dict[str, np.ndarray] = {}
    heats: dict[str, np.ndarray] = {}
    for name, method in picked.items():
        made = heard(partial(_maps, chosen, method, seed, chosen.images), name, chosen, say)
        maps[name], heats[method.title] = np.asarray(made), np.asarray(method.heat(made))
    files: dict[str, list[Path]] = {}
    with results.appearing(folder) as partly:
        for name, method in picked.items():
            files[name] = _write_maps(partly / name, chosen, name, maps[name], heats[method.title], seed)
        about = {"command": "saliency", "methods": list(picked), "left_out": left_out, "seed": seed, **chosen.about()}
        arrays = {"images": chosen.images, **chosen.arrays}
        files["sheets"] = results.fill(partly / "sheets", "images", arrays, about, _sheets(chosen, picked, heats))
    files = {name: [folder / name / path.name for path in paths] for name, paths in files.items()}
    return Explained(folder, chosen, files, left_out)


def _write_maps(folder: Path, chosen: Chosen, name: str, maps: np.ndarray, heat: np.ndarray, seed: int) -> list[Path]:
    """Writes the maps of one method, and draws them."""
    method = attribution.method(name)
    about = {
        "command": "saliency",
        "method": name,
        "reference": method.reference,
        "options": options(method.function),
        "seed": seed,
        **chosen.about(),
    }
    figures = {
        file: saliency_figure(
            chosen.images[some],
            heat[some],
            chosen.classes[some],
            chosen.probabilities[some],
            truths=None if chosen.truths is None else chosen.truths[some],
            quantity=method.title,
            signed=method.signed,
            width=PAGE,
        )
        for file, some in _handfuls(name, len(heat), OVERLAID)
    }
    return results.fill(folder, name, {"maps": maps, **chosen.arrays}, about, figures)


def _sheets(chosen: Chosen, methods: Mapping[str, Method], heats: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The maps of all methods beside each other, in as many figures as are legible."""
    signed = [method.title for method in methods.values() if method.signed]
    height, width = chosen.images.shape[1:3]
    most = attribution_figure.fitting(list(heats), (height, width))
    return {
        file: attribution_figure.sheet(
            chosen.images[some],
            {title: heat[some] for title, heat in heats.items()},
            signed,
            chosen.classes[some],
            chosen.probabilities[some],
            truths=None if chosen.truths is None else chosen.truths[some],
        )
        for file, some in _handfuls("sheet", len(chosen.images), most)
    }


def draw_occlusion(
    subject: Subject,
    *,
    targets: Sequence[str] = (),
    limit: int = OCCLUDED,
    patch: int | None = None,
    stride: int | None = None,
    output: str | Path | None = None,
) -> Occluded:
    """Draws the probability of a class, and the most likely class, by the position of a grey patch.

    Args:
      subject: the network and the images.
      targets: see `choose`.
      limit: most images.
      patch: see `occlusion.occlusion`.
      stride: see `occlusion.occlusion`.
      output: the new folder; None calls it after the network.

    Raises:
      InputError: see `choose`; or the patch does not fit, or the folder exists.
    """
    network = subject.network
    folder = results.new_folder(f"occlusion-{network.title}" if output is None else output)
    chosen = choose(subject, targets, limit=limit)
    value = 0.5
    grid = occlusions.occlusion_grid(
        network.model, network.state, chosen.images, chosen.targets, patch=patch, stride=stride, value=value
    )
    chances = np.clip(np.asarray(grid.probabilities), 0, 1)
    classes = np.asarray(grid.classes)
    figures = {
        file: occlusion_figure.occlusion(
            chosen.images[some],
            chances[some],
            classes[some],
            grid.tops,
            grid.lefts,
            grid.patch,
            subject.class_names,
            chosen.targets[some],
            chosen.probabilities[some],
            truths=None if chosen.truths is None else chosen.truths[some],
            value=value,
        )
        for file, some in _handfuls("occlusion", len(chances), OCCLUDED)
    }
    arrays = {
        "grid_probabilities": chances,
        "grid_classes": classes,
        "tops": grid.tops,
        "lefts": grid.lefts,
        **chosen.arrays,
    }
    about = {"command": "occlusion", "patch": grid.patch, "stride": stride, "value": value, **chosen.about()}
    return Occluded(folder, results.write(folder, "occlusion", arrays, about, figures), chosen, grid)


def heard(work: Callable[[], Any], name: str, chosen: Chosen, say: Say) -> Any:
    """What `work` returns; what it warns of is said.

    Args:
      work: may warn.
      name: of it, for the sentences.
      chosen: the images that it is about, which the sentences call as everything else does.
      say: is told.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = work()
    for warning in caught:
        said = warning.message
        if isinstance(said, attribution.DeadMapWarning) and len(said.dead) == len(chosen.images):
            say(f"{name}: {said.said(chosen.names)}")
        elif issubclass(warning.category, UserWarning):
            say(f"{name}: {said}")
        else:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    return result


def options(function: Callable[..., Any]) -> dict[str, Any]:
    """A method's own options as they stand when none are given."""
    parameters: Mapping[str, inspect.Parameter] = inspect.signature(function).parameters
    own = (p for p in parameters.values() if p.kind is p.KEYWORD_ONLY and p.name not in ("key", "chunk"))
    return {parameter.name: parameter.default for parameter in own}


def _maps(chosen: Chosen, method: Method, seed: int, images: Any) -> jax.Array:
    network = chosen.subject.network
    return method.function(network.model, network.state, images, chosen.targets, key=jax.random.key(seed))


def class_number(target: str, names: Sequence[str]) -> int:
    """The number of a class that is called, or numbered, so.

    Raises:
      InputError: there is no such class, or several are called so.
    """
    spoken = target.replace("_", " ").casefold()
    found = [k for k, name in enumerate(names) if name.replace("_", " ").casefold() == spoken]
    if len(found) > 1:
        raise InputError(f"target {target!r} is the name of the classes {found}; expected the number of one")
    if found:
        return found[0]
    if not re.fullmatch(r"-?\d{1,18}", target):
        raise unknown_name("class", target, names)
    if not 0 <= int(target) < len(names):
        raise InputError(f"target is class {target}; expected classes in [0, {len(names)})")
    return int(target)


def _handfuls(name: str, count: int, most: int) -> list[tuple[str, slice]]:
    """Equally large parts of so many images at most, and what each one's figure is called."""
    number = -(-count // most)
    size = -(-count // number)
    parts = [slice(start, start + size) for start in range(0, count, size)]
    return [(name if len(parts) == 1 else f"{name}-{i + 1}", part) for i, part in enumerate(parts)]
