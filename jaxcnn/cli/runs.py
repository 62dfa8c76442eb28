"""Commands that train, evaluate and show runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from jaxcnn.cli import settings
from jaxcnn.cli.member import run_as_member
from jaxcnn.cli.terminal import NOWHERE_ELSE, Json, Location, console, parse_arguments, print_json
from jaxcnn.config import Experiment
from jaxcnn.errors import InputError

if TYPE_CHECKING:
    from jaxcnn.train.ensemble import EnsembleEvaluation


def demo(arguments: Sequence[str]) -> None:
    """Train LeNet-5 on the bundled digits, evaluate it, and save pictures of what it learned."""

    def parse(run: str = "runs/demo") -> str:
        """Train LeNet-5 on the bundled digits, evaluate it, and save pictures of what it learned.

        Args:
          run: Run directory.
        """
        return run

    directory = parse_arguments(parse, "demo", arguments)
    from jaxcnn.report import gallery
    from jaxcnn.train.evaluate import evaluate_run
    from jaxcnn.train.loop import train as train_run

    experiment, description = settings.default("lenet5_digits", ())
    print(description)
    result = train_run(experiment, directory, console=console())
    if not result.finished:
        print(f"stopped after {result.steps} steps; the same command continues {directory}")
        return
    if result.images_per_second:
        print(f"trained for {result.steps} steps in {result.seconds:.0f} s, {result.images_per_second:,.0f} images/s")
    else:
        print(f"trained before, for {result.steps} steps")
    scores = evaluate_run(directory)
    print(f"test accuracy {scores.top1:.4f} on {scores.examples} images, loss {scores.loss:.4f}")
    print("figures:")
    for path in gallery.draw(directory):
        print(f"  {path}")


def train(arguments: Sequence[str]) -> None:
    """Train an experiment; a run directory that exists is continued."""
    usage = (
        "usage: jaxcnn train EXPERIMENT [--run DIR] [--json] [--distributed]\n"
        "                    [--SETTING VALUE ...]\n\n"
        "Train an experiment; a run directory that exists is continued."
    )
    name, rest = settings.split("train", usage, arguments)
    if "--distributed" in rest and not {"-h", "--help"} & {*rest}:
        run_as_member(lambda joined: _train(name, rest, joined))
    else:
        _train(name, rest)


def _train(name: str, rest: Sequence[str], joined: Callable[[], None] = lambda: None) -> None:
    default, description = settings.default(name, rest)

    def parse(
        experiment: Annotated[Experiment, tyro.conf.arg(name="")] = default,
        run: str = f"runs/{default.name}",
        json: Json = False,
        distributed: bool = False,
    ) -> tuple[Experiment, str, bool, bool]:
        """Arguments.

        Args:
          experiment: What to train.
          run: Run directory, created or continued.
          json: Print the result as one JSON object on standard output.
          distributed: Train as one of several processes with this same command, on one machine or many.
        """
        return experiment, run, json, distributed

    experiment, directory, as_json, distributed = parse_arguments(parse, f"train {name}", rest, description)
    from jaxcnn.train import cluster
    from jaxcnn.train.loop import train as train_run

    if distributed:
        cluster.connect()
        joined()
    result = train_run(experiment, directory, console=console())
    if not cluster.first():
        return
    if as_json:
        names = ("run", "steps", "top1", "seconds", "images_per_second")
        print_json({name: getattr(result, name) for name in names})
    elif result.finished:
        accuracy = "" if result.top1 is None else f", accuracy {result.top1:.4f}"
        now = f", {result.seconds:.0f} s" if result.images_per_second else ", trained before"
        print(f"{result.run}: {result.steps} steps{accuracy}{now}")
    else:
        print(f"{result.run}: stopped after {result.steps} steps; the same command continues")


def evaluate(arguments: Sequence[str]) -> None:
    """Evaluate a run on its test images, several runs as an ensemble, or a network with weights from a file."""

    def parse(
        run: tyro.conf.Positional[str],
        others: tyro.conf.Positional[tuple[str, ...]] = (),
        weights: str | None = None,
        images: str | None = None,
        dataset: str | None = None,
        checkpoint: Literal["latest", "best"] | int | None = None,
        split: Literal["test", "train", "validation"] | None = None,
        crops: Literal[1, 10, 144, "dense"] = 1,
        scales: tuple[int, ...] | None = None,
        image_size: int | None = None,
        batch_size: int | None = None,
        data: Location = NOWHERE_ELSE,
        json: Json = False,
    ) -> Any:
        """Evaluate a run on its test images, several runs as an ensemble, or a network with weights from a file.

        Args:
          run: Run directory; with weights, the name of the network.
          others: More run directories of the same classes and images, whose probabilities are averaged with the run's.
          weights: File of PyTorch's (.pth, .th, .safetensors) or .npz.
          images: With weights, folder of photographs that folder or file names label with ImageNet synsets.
          dataset: With weights, name of a dataset.
          checkpoint: Of a run, the newest checkpoint (the default), the best, or the one of a step.
          split: Of a run or dataset, which images; by default test.
          crops: Views of each image whose probabilities are averaged; 144 of photographs only, dense of images that
            are larger than the network's input.
          scales: Of photographs in dense views, their shorter sides in pixels; by default 256 384 512.
          image_size: With weights, height and width in pixels that the network is given; of a dataset in several
            crops, those of the image that they are cut from.
          batch_size: With weights, images at once; by default 128.
          data: Where the images lie now.
          json: Print the result as one JSON object on standard output.
        """
        return (
            *(run, others, weights, images, dataset, checkpoint, split, crops, scales),
            *(image_size, batch_size, data.directory, json),
        )

    run, others, weights, images, dataset, checkpoint, split, crops, scales, size, batch_size, location, as_json = (
        parse_arguments(parse, "evaluate", arguments)
    )
    if weights is None and (images or dataset or size or batch_size is not None):
        raise InputError(
            "--images, --dataset, --image-size and --batch-size go with --weights FILE; a run knows its own images"
        )
    if weights is not None and checkpoint is not None:
        raise InputError("--checkpoint goes with a run; a file of weights has one state")
    if weights is not None and others:
        raise InputError(
            f"{others[0]} follows {run} --weights FILE; expected several runs, or one network with weights"
        )
    if images and (split or location):
        raise InputError("--split and --data.directory go with a run or --dataset; --images names the folder itself")
    if scales is not None and not (images and crops == "dense"):
        raise InputError("--scales goes with --images FOLDER --crops dense")
    from jaxcnn.config import DataConfig
    from jaxcnn.train import ensemble, evaluate

    which = "latest" if checkpoint is None else checkpoint
    chosen = {"checkpoint": which, "split": split or "test", "data_directory": location, "crops": crops}
    if others:
        _print_ensemble(ensemble.evaluate_ensemble([run, *others], **chosen), crops, as_json)
        return
    if weights is None:
        scores = evaluate.evaluate_run(run, **chosen)
    elif bool(images) == bool(dataset):
        raise InputError("--weights needs --images FOLDER or --dataset NAME, and not both")
    else:
        batch_size = 128 if batch_size is None else batch_size
        config = DataConfig(dataset or "folder", directory=location, image_size=size, batch_size=batch_size)
        if images:
            scales = evaluate.views.SCALES if scales is None else scales
            scores = evaluate.evaluate_photographs(run, weights, images, config, crops=crops, scales=scales)
        else:
            scores = evaluate.evaluate_dataset(run, weights, config, split or "test", crops)
    if as_json:
        print_json(dataclasses.asdict(scores) | {"crops": crops})
        return
    for seen in scores.predictions if isinstance(scores, evaluate.PhotographEvaluation) else ():
        print(seen.file)
        for position, (name, probability) in enumerate(zip(seen.names, seen.probabilities, strict=True)):
            print(f"  {probability:6.1%}  {name}{'  <- its class' if position == seen.position else ''}")
    if scores.top1 is None:
        print(f"{scores.examples} images; their names begin with no synset, so they are not scored")
    else:
        print(f"{scores.examples} images: top-1 {scores.top1:.4f}, top-5 {scores.top5:.4f}, loss {scores.loss:.4f}")


def _print_ensemble(result: EnsembleEvaluation, crops: int | str, as_json: bool) -> None:
    if as_json:
        members = [{"run": member.run, **dataclasses.asdict(member.scores)} for member in result.members]
        print_json({"members": members, "ensemble": dataclasses.asdict(result.ensemble), "crops": crops})
        return
    rows = [*((member.run, member.scores) for member in result.members), ("ensemble", result.ensemble)]
    width = max(len(name) for name, _ in rows)
    print(f"{result.ensemble.examples} images")
    print(f"{'run':{width}}  top-1   top-5   loss")
    for name, scores in rows:
        print(f"{name:{width}}  {scores.top1:.4f}  {scores.top5:.4f}  {scores.loss:.4f}")


def figures(arguments: Sequence[str]) -> None:
    """Draw the figures of a run: curves, filters, predictions, confusion matrix, saliency, diagnostics, time."""

    def parse(run: tyro.conf.Positional[str], data: Location = NOWHERE_ELSE) -> tuple[str, str | None]:
        """Draw the figures of a run: curves, filters, predictions, confusion matrix, saliency, diagnostics, time.

        Args:
          run: Run directory.
          data: Where the images lie now.
        """
        return run, data.directory

    run, location = parse_arguments(parse, "figures", arguments)
    from jaxcnn.report import gallery

    for path in gallery.draw(run, data_directory=location):
        print(path)
