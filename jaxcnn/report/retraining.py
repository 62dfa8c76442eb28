"""Networks trained to recognise the images that fooled those before them, and fooled again."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from rich.console import Console

from jaxcnn import config
from jaxcnn.analysis.evolution import EncodingName
from jaxcnn.config import Experiment, ModelSpec
from jaxcnn.data.spec import open_split
from jaxcnn.errors import CheckpointError, InputError
from jaxcnn.figures import fooling as pictures
from jaxcnn.figures import retraining as figures
from jaxcnn.figures import style
from jaxcnn.report import unfinished
from jaxcnn.report.evolving import evolve
from jaxcnn.report.fooling import confidences_of
from jaxcnn.report.subject import Network, open_network
from jaxcnn.run import make_directory, write_file
from jaxcnn.train import loop

PUBLISHED = 0.9999
"""Confidence in images evolved for each of the fifteen networks on MNIST that Nguyen, Yosinski & Clune 2015 report."""

_ARRAYS = ("first", "last", "confidences", "history")
_NAMES = {"runs": "evolutions"}
"""What files of earlier versions call otherwise."""


@dataclass(frozen=True)
class Plan:
    """How networks are fooled, and what the next one learns from it.

    Attributes:
      methods: encodings of the images, each evolved several times for each network.
      evolutions: of each method.
      generations: see `evolution.map_elites`.
      population: children of a generation.
      first: images of the additional class after the first network.
      further: images that join it after each other network.
      seed: of the evolutions and of the choice of images; that of training is the experiment's.
    """

    methods: tuple[EncodingName, ...] = ("cppn", "direct")
    evolutions: int = 5
    generations: int = 200
    population: int = 200
    first: int = 6000
    further: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        config.check_seed(self.seed)
        for name in ("evolutions", "generations", "population", "first", "further"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; expected at least 1")
        if not self.methods or len(set(self.methods)) < len(self.methods):
            raise InputError(f"methods are {self.methods}; expected cppn, direct or both, each once")


class Evolved(NamedTuple):
    """Images evolved for one network.

    Attributes:
      first: [R, K, H, W, C], the best after the first generation of each run, 0 to 255.
      last: [R, K, H, W, C], after the last.
      confidences: [R, K], at the end.
      history: [R, G, K].
    """

    first: np.ndarray
    last: np.ndarray
    confidences: np.ndarray
    history: np.ndarray


@dataclass(frozen=True)
class Row:
    """How one network was fooled.

    Attributes:
      network: its number, from 1.
      top1: its accuracy on the test images; None if it was not measured.
      share: of its training images, those that fooled others.
      method: encoding.
      median: of the confidences over runs and classes, as are the next three.
      lower: quartile.
      upper: quartile.
      least: of all.
      recognised: median confidence in the classes of the images that fooled the network before; None of the first.
    """

    network: int
    top1: float | None
    share: float
    method: str
    median: float
    lower: float
    upper: float
    least: float
    recognised: float | None


@dataclass(frozen=True)
class Retrained:
    """What was found.

    Attributes:
      rows: a network after another, of each its methods.
      files: table, arrays and figures.
    """

    rows: list[Row]
    files: list[Path]


def retrain(
    experiment: Experiment,
    directory: str | Path,
    *,
    networks: int,
    plan: Plan,
    console: Console | None = None,
) -> Retrained | None:
    """Trains a network, evolves images that fool it, trains the next one with them as one more class, and so on.

    Half of the images that join the class are of the first generations and half of the last ones, of all runs alike,
    each as often as the others; there are fewer of them than of the class's images, which repeat them. Every network
    is trained alone, from the same seed, and standardises its inputs as the first one does.

    The same call goes on after an interruption, from the newest checkpoint of the training or from where the evolution
    was saved; with more networks it goes on after those that there are.

    Args:
      experiment: how the networks are trained; its classes are what they are fooled about.
      directory: NETWORK-k of each run, with fooled-k beside it; created, or continued if it holds this plan.
      networks: how many.
      plan: how they are fooled.
      console: where progress is shown; None is silent.

    Returns:
      What was found; None after SIGTERM or Ctrl-C while a network was trained.

    Raises:
      InputError: the settings cannot be trained, or the images cannot be evolved.
      CheckpointError: the directory holds something else.
      RunError: a file cannot be written.
    """
    directory, console = Path(directory), console or Console(quiet=True)
    if networks < 1:
        raise InputError(f"networks is {networks}; expected at least 1")
    experiment = loop.located(experiment)
    if experiment.data.extra_class is not None:
        raise InputError(f"data.extra_class is {experiment.data.extra_class}; expected None, as fooling images take it")
    if experiment.data.validation:
        raise InputError(f"data.validation is {experiment.data.validation}; expected 0, as test images are classified")
    examples = len(open_split(experiment.data, "train", experiment.training.seed))
    about = {"plan": json.loads(json.dumps(vars(plan))), "experiment": config.to_json(experiment)}
    _claim(directory, about)
    if (directory / f"network-{networks + 1}").exists():
        raise InputError(f"networks is {networks}, and {directory} holds more; expected at least as many")

    def say(text: str) -> None:
        console.print(text, highlight=False, markup=False, soft_wrap=True)

    rows: list[Row] = []
    found: dict[str, list[Evolved]] = {method: [] for method in plan.methods}
    joined: np.ndarray | None = None
    spec: ModelSpec | None = None
    for number in range(1, networks + 1):
        asked = experiment
        if spec is not None:
            data = replace(experiment.data, extra_class=str(_fooling(directory, number - 1).absolute()))
            fixed = replace(experiment.model, mean=spec.mean, std=spec.std)
            asked = replace(experiment, data=data, model=fixed)
        say(f"network {number} of {networks}")
        result = loop.train(replace(asked, name=f"network-{number}"), directory / f"network-{number}", console=console)
        if not result.finished:
            return None
        network = open_network(str(directory / f"network-{number}"))
        spec = network.spec if spec is None else spec
        classes = spec.num_classes
        extra = 0 if joined is None else len(joined)
        for method in plan.methods:
            evolved = _fool(network, classes, method, directory / f"fooled-{number}", number, plan, say)
            before = found[method][-1] if found[method] else None
            found[method].append(evolved)
            median, lower, upper, least = np.quantile(evolved.confidences, (0.5, 0.25, 0.75, 0)).tolist()
            again = None if before is None else float(np.median(_seen(network, before.last)))
            rows.append(
                Row(number, result.top1, extra / (extra + examples), method, median, lower, upper, least, again)
            )
            say(f"network {number}, {method}: median confidence {pictures.sure(median)}")
        joined = _join(directory, number, joined, [found[method][-1] for method in plan.methods], plan)
    assert spec is not None  # there is at least one network
    return Retrained(rows, _write(directory, about, rows, found, spec.class_names))


def _claim(directory: Path, about: dict[str, Any]) -> None:
    """Refuses a directory that holds anything else; says what it will hold if it is new."""
    file = directory / "retraining.json"
    try:
        held = json.loads(file.read_bytes())
    except NotADirectoryError:
        raise CheckpointError(f"{directory} is a file; expected a directory as --run, new or of this command") from None
    except FileNotFoundError:
        if directory.exists() and any(directory.iterdir()):
            raise CheckpointError(
                f"{directory} holds no retraining; expected a new or empty directory as --run, or one of this command"
            ) from None
        make_directory(directory)
        write_file(file, (json.dumps(about, indent=2) + "\n").encode())
        return
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file} is damaged: {error}") from error
    try:
        before = config.from_json(Experiment, held["experiment"])
        changed = config.difference(before, config.from_json(Experiment, about["experiment"]))
        planned = {_NAMES.get(name, name): value for name, value in held["plan"].items()}
        changes = [f"{name} was {planned[name]} and is now {value}" for name, value in about["plan"].items()
                   if planned[name] != value]  # fmt: skip
    except (AttributeError, KeyError, TypeError) as error:
        raise CheckpointError(f"{file} is damaged: {error!r}") from error
    if changed or changes:
        raise CheckpointError(f"{directory} holds another retraining: {changed or changes[0]}; choose another --run")


def _fool(
    network: Network,
    classes: int,
    method: EncodingName,
    folder: Path,
    number: int,
    plan: Plan,
    say: Callable[[str], None],
) -> Evolved:
    """All evolutions of one method for a network, those that have ended before from their files."""
    runs = []
    for run in range(plan.evolutions):
        file = folder / f"{method}-{run}.npz"
        about = {"network": number, "method": method, "run": run, **vars(plan), "methods": list(plan.methods)}
        about["runs"] = about.pop("evolutions")  # as the files of earlier versions have it, with which it goes on
        held = unfinished.read(file, about, _ARRAYS, what="an evolution")
        if held is None:
            key = jax.random.key(plan.seed)
            for part in (number, ("cppn", "direct").index(method), run):
                key = jax.random.fold_in(key, part)
            evolved = evolve(
                network,
                method,
                key=key,
                generations=plan.generations,
                population=plan.population,
                shown=np.arange(classes),
                about=about,
                file=folder / f"{method}-{run}.evolution.npz",
                progress=lambda *_: None,
            )
            history = evolved.history[:, :classes]
            held = {"first": evolved.frames[0], "last": evolved.frames[-1]}
            held |= {"confidences": history[-1], "history": history}
            unfinished.write(file, about, held)
            (folder / f"{method}-{run}.evolution.npz").unlink(missing_ok=True)
            middle = pictures.sure(float(np.median(history[-1])))
            say(f"  {method}, evolution {run + 1} of {plan.evolutions}: median confidence {middle}")
        runs.append(held)
    return Evolved(*(np.stack([held[name] for held in runs]) for name in _ARRAYS))


def _seen(network: Network, images: np.ndarray) -> np.ndarray:
    """How sure a network is of the classes [R, K] that images [R, K, H, W, C] were evolved for."""
    runs, classes = images.shape[:2]
    targets = np.tile(np.arange(classes), runs)
    return confidences_of(network, images.reshape(-1, *images.shape[2:]), targets).reshape(runs, classes)


def _fooling(directory: Path, number: int) -> Path:
    return directory / f"fooled-{number}" / "fooling.npz"


def _join(directory: Path, number: int, before: np.ndarray | None, found: Sequence[Evolved], plan: Plan) -> np.ndarray:
    """The images of the additional class of the next network, in a file for it."""
    pool = np.concatenate([part.reshape(-1, *part.shape[2:]) for one in found for part in (one.first, one.last)])
    wanted = plan.first if before is None else plan.further
    order = np.argsort(np.random.Philox(key=np.array([plan.seed, number], np.uint64)).random_raw(len(pool)))
    chosen = pool[np.resize(order, wanted)]
    images = chosen if before is None else np.concatenate([before, chosen])
    file, about = _fooling(directory, number), {"images": len(images)}
    if not file.exists():
        unfinished.write(file, about, {"images": images})
    return images


def _write(
    directory: Path, about: dict[str, Any], rows: list[Row], found: dict[str, list[Evolved]], names: Sequence[str]
) -> list[Path]:
    """Table, arrays and figures."""
    table = io.StringIO()
    writer = csv.DictWriter(table, list(Row.__annotations__))
    writer.writeheader()
    writer.writerows(vars(row) for row in rows)
    files = [directory / "retraining.csv", directory / "retraining.npz"]
    write_file(files[0], table.getvalue().encode())
    arrays = {
        f"{method}_{name}": np.stack([getattr(one, name) for one in networks])
        for method, networks in found.items()
        for name in ("last", "confidences", "history")
    }
    unfinished.write(files[1], about, arrays)
    lines, top1 = {}, []
    for method in found:
        some = [row for row in rows if row.method == method]
        values = [[getattr(row, name) for row in some] for name in figures.Line._fields]
        lines[method] = figures.Line(*np.asarray(values, float))
        top1 = [row.top1 for row in some]
    published = PUBLISHED if about["experiment"]["data"]["dataset"] == "mnist" and "cppn" in found else None
    drawn = {"retraining": figures.retraining(lines, np.asarray(top1, float), published=published)}
    for method, networks in found.items():
        images = np.stack([one.last[0] for one in networks], axis=1)
        sure = np.stack([one.confidences[0] for one in networks], axis=1)
        titles = [f"network {number}" for number in range(1, len(networks) + 1)]
        drawn[f"images-{method}"] = pictures.film(images, names, titles, sure, unit="class")
    return files + [path for stem, figure in drawn.items() for path in style.save(figure, directory / stem)]
