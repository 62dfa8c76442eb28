"""The jaxcnn command: parses, calls, prints. Exit status 0; 1 where a run failed; 2 for bad usage or input."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal

import tyro

from jaxcnn.allocator import keep_freed_memory
from jaxcnn.config import Experiment, ModelSpec, OptimizerConfig, OptimizerName, Option
from jaxcnn.errors import InputError, JaxcnnError, unknown_name

Json = Annotated[bool, tyro.conf.arg(name="json", help="Print the result as one JSON object on standard output.")]


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs one command and exits.

    Args:
      arguments: what follows `jaxcnn` on the command line; None takes it from there.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        if not arguments or arguments[0] in ("-h", "--help"):
            print(_overview())
            sys.exit(0 if arguments else 2)
        if arguments[0] == "--version":
            from importlib.metadata import version

            print(f"jaxcnn {version('jaxcnn')}")
            return
        name, *rest = arguments
        if name not in COMMANDS:
            raise unknown_name("command", name, COMMANDS)
        keep_freed_memory()
        COMMANDS[name](rest)
        sys.stdout.flush()
    except JaxcnnError as error:
        print(f"jaxcnn: {error}", file=sys.stderr)
        sys.exit(error.exit_status)
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            # Whoever read the output has seen enough; Python would complain about it again at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return
        print(f"jaxcnn: {error.filename or 'a file'}: {error.strerror or error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("jaxcnn: interrupted", file=sys.stderr)
        sys.exit(130)


def demo(arguments: Sequence[str]) -> None:
    """Train LeNet-5 on the bundled digits, evaluate it, and save pictures of what it learned."""

    def parse(run: str = "runs/demo") -> str:
        """Train LeNet-5 on the bundled digits, evaluate it, and save pictures of what it learned.

        Args:
          run: Run directory.
        """
        return run

    directory = _parse(parse, "demo", arguments)
    from jaxcnn import catalog
    from jaxcnn.report import gallery
    from jaxcnn.train.evaluate import evaluate_run
    from jaxcnn.train.loop import train as train_run

    experiment, description = catalog.load("lenet5_digits")
    print(description)
    result = train_run(experiment, directory, console=_console())
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
    if not arguments or arguments[0] in ("-h", "--help"):
        print(
            "usage: jaxcnn train EXPERIMENT [--run DIR] [--json] [--SETTING VALUE ...]\n\n"
            "Train an experiment; a run directory that exists is continued.\n"
            "`jaxcnn experiments` lists the experiments, `jaxcnn train EXPERIMENT --help` the settings of one."
        )
        sys.exit(0 if arguments else 2)
    name, *rest = arguments
    if name.startswith("-"):
        raise InputError(f"the experiment comes first: jaxcnn train EXPERIMENT {name} ...")
    from jaxcnn import catalog, models

    default, description = catalog.load(name)
    chosen = _peek(rest, "--model.name") or default.model.name
    # Every option of the chosen network becomes a flag of its own, typed and with its default.
    kept = default.model.options if chosen == default.model.name else {}
    model = dataclasses.replace(default.model, name=chosen, options=models.options(chosen) | dict(kept))
    default = dataclasses.replace(default, model=model)

    def parse(
        experiment: Annotated[Experiment, tyro.conf.arg(name="")] = default,
        run: str = f"runs/{default.name}",
        json: Json = False,
    ) -> tuple[Experiment, str, bool]:
        """Arguments.

        Args:
          experiment: What to train.
          run: Run directory, created or continued.
          json: Print the result as one JSON object on standard output.
        """
        return experiment, run, json

    experiment, directory, as_json = _parse(parse, f"train {name}", rest, description)
    from jaxcnn.train.loop import train as train_run

    result = train_run(experiment, directory, console=_console())
    if as_json:
        names = ("run", "steps", "top1", "seconds", "images_per_second")
        _print_json({name: getattr(result, name) for name in names})
    elif result.finished:
        accuracy = "" if result.top1 is None else f", accuracy {result.top1:.4f}"
        print(f"{result.run}: {result.steps} steps{accuracy}, {result.seconds:.0f} s")
    else:
        print(f"{result.run}: stopped after {result.steps} steps; the same command continues")


def evaluate(arguments: Sequence[str]) -> None:
    """Evaluate a run on its test images, or a network with weights from a file."""

    def parse(
        run: tyro.conf.Positional[str],
        weights: str | None = None,
        images: str | None = None,
        dataset: str | None = None,
        checkpoint: Literal["latest", "best"] | int = "latest",
        split: Literal["test", "train", "validation"] = "test",
        image_size: int | None = None,
        batch_size: int = 128,
        data: _Location = _Location(),
        json: Json = False,
    ) -> Any:
        """Evaluate a run on its test images, or a network with weights from a file.

        Args:
          run: Run directory; with weights, the name of the network.
          weights: File of PyTorch's (.pth, .th, .safetensors) or .npz.
          images: With weights, folder of photographs that folder or file names label with ImageNet synsets.
          dataset: With weights, name of a dataset.
          checkpoint: Of a run, the newest checkpoint, the best, or the one of a step.
          split: Of a run or dataset, which images.
          image_size: With weights, height and width in pixels that the network is given.
          batch_size: With weights, images at once.
          data: Where the images lie now.
          json: Print the result as one JSON object on standard output.
        """
        return run, weights, images, dataset, checkpoint, split, image_size, batch_size, data.directory, json

    run, weights, images, dataset, checkpoint, split, size, batch_size, location, as_json = _parse(
        parse, "evaluate", arguments
    )
    if weights is None and (images or dataset or size):
        raise InputError("--images, --dataset and --image-size go with --weights FILE; a run knows its own images")
    from jaxcnn.config import DataConfig
    from jaxcnn.train import evaluate

    if weights is None:
        scores = evaluate.evaluate_run(run, checkpoint=checkpoint, split=split, data_directory=location)
    elif bool(images) == bool(dataset):
        raise InputError("--weights needs --images FOLDER or --dataset NAME, and not both")
    else:
        config = DataConfig(dataset or "folder", directory=location, image_size=size, batch_size=batch_size)
        if images:
            scores = evaluate.evaluate_photographs(run, weights, images, config)
        else:
            scores = evaluate.evaluate_dataset(run, weights, config, split)
    if as_json:
        _print_json(dataclasses.asdict(scores))
        return
    for seen in scores.predictions if isinstance(scores, evaluate.PhotographEvaluation) else ():
        print(seen.file)
        for name, probability in zip(seen.names, seen.probabilities, strict=True):
            print(f"  {probability:6.1%}  {name}{'  <- its class' if name == seen.label else ''}")
    if scores.top1 is None:
        print(f"{scores.examples} images; their names begin with no synset, so they are not scored")
    else:
        print(f"{scores.examples} images: top-1 {scores.top1:.4f}, top-5 {scores.top5:.4f}, loss {scores.loss:.4f}")


def convert(arguments: Sequence[str]) -> None:
    """Convert weights between a run, PyTorch's files and .npz."""

    def parse(
        source: tyro.conf.Positional[str],
        target: tyro.conf.Positional[str],
        model: str | None = None,
        num_classes: int | None = None,
        json: Json = False,
    ) -> tuple[str, str, str | None, int | None, bool]:
        """Convert weights between a run, PyTorch's files and .npz.

        Args:
          source: Run directory, .npz, or file of PyTorch's (.pth, .th, .safetensors).
          target: New file; .pth, .pt and .safetensors get PyTorch's names and layout, .npz our own.
          model: Name of the network in a file of PyTorch's, which does not say it.
          num_classes: Classes of that network, if not the published number.
          json: Print the result as one JSON object on standard output.
        """
        return source, target, model, num_classes, json

    source, target, model, num_classes, as_json = _parse(parse, "convert", arguments)
    from jaxcnn import loading

    fields = {} if num_classes is None else {"num_classes": num_classes}
    written = loading.convert(source, target, model=model, **fields)
    if as_json:
        _print_json(dataclasses.asdict(written))
    else:
        print(
            f"{written.file}: {written.model}, {written.tensors} tensors, {written.parameters:,} parameters, "
            f"{written.bytes:,} bytes"
        )


def figures(arguments: Sequence[str]) -> None:
    """Draw the figures of a run: curves, filters, predictions, confusion matrix, saliency."""

    def parse(run: tyro.conf.Positional[str], data: _Location = _Location()) -> tuple[str, str | None]:
        """Draw the figures of a run: curves, filters, predictions, confusion matrix, saliency.

        Args:
          run: Run directory.
          data: Where the images lie now.
        """
        return run, data.directory

    run, location = _parse(parse, "figures", arguments)
    from jaxcnn.report import gallery

    for path in gallery.draw(run, data_directory=location):
        print(path)


def summary(arguments: Sequence[str]) -> None:
    """Tabulate a network: shapes, memory, parameters, multiply-adds and receptive fields, layer by layer."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(
            "usage: jaxcnn summary MODEL [--input H W C] [--format text|csv|markdown] [--json] [--figure FILE]\n"
            "                      [--optimizer NAME] [--batch-size N] [--model.options.NAME VALUE ...]\n\n"
            f"{summary.__doc__}\n"
            "MODEL is a registered name or a run directory. `jaxcnn models` lists the names,\n"
            "`jaxcnn summary MODEL --help` the options of one."
        )
        sys.exit(0 if arguments else 2)
    name, *rest = arguments
    if name.startswith("-"):
        raise InputError(f"the model comes first: jaxcnn summary MODEL {name} ...")
    from jaxcnn import models

    default = _spec(name)

    def parse(
        input: tuple[int, int, int] = default.input_shape,
        format: Literal["text", "csv", "markdown"] = "text",
        json: Json = False,
        figure: str | None = None,
        optimizer: OptimizerName = "momentum",
        batch_size: int = 1,
        model: _Network = _Network(default.options, default.num_classes, default.precision),
    ) -> tuple[tuple[int, int, int], str, bool, str | None, OptimizerName, int, _Network]:
        """Arguments.

        Args:
          input: Height and width in pixels, and channels of the image.
          format: How the table is printed.
          json: Print the result as one JSON object on standard output.
          figure: Draw the table, too; written as PDF and as PNG.
          optimizer: Whose state is counted.
          batch_size: Images in the batch whose memory is counted.
          model: What to build.
        """
        return input, format, json, figure, optimizer, batch_size, model

    shape, form, as_json, figure, rule, batch_size, chosen = _parse(
        parse, f"summary {name}", rest, (summary.__doc__ or "")
    )
    if min(*shape, batch_size) < 1:
        raise InputError(f"--input is {shape} and --batch-size {batch_size}; expected numbers of at least 1")
    from jaxcnn.analysis import summary as summaries
    from jaxcnn.analysis import summary_formats
    from jaxcnn.train import optimizers

    fields = {name: getattr(chosen, name) for name in ("options", "num_classes", "precision")}
    spec = dataclasses.replace(default, input_shape=shape, **fields)
    optimizer = optimizers.create(OptimizerConfig(name=rule), total_steps=1, steps_per_epoch=1)
    table = summaries.table(models.from_spec(spec), shape, name=spec.name, batch_size=batch_size, optimizer=optimizer)
    if as_json:
        _print_json(summary_formats.json(table))
    else:
        print(getattr(summary_formats, form)(table))
    if figure is not None:
        from jaxcnn.figures import style
        from jaxcnn.figures.summary import layers

        rows = summaries.groups(table, 45)
        drawn = layers(
            [row.name for row in rows],
            {
                "parameters": [row.parameters for row in rows],
                "multiply-adds": [row.multiply_adds for row in rows],
                "activation bytes": [row.activation_bytes for row in rows],
            },
            title=f"{table.model}, {'x'.join(map(str, shape))}",
        )
        for path in style.save(drawn, figure.removesuffix(".pdf").removesuffix(".png")):
            print(path, file=sys.stderr)


def models(arguments: Sequence[str]) -> None:
    """List the networks."""
    as_json = _listing("models", "List the networks.", arguments)
    from jaxcnn import models

    facts = {name: models.facts(name) for name in models.names()}
    if as_json:
        _print_json({name: dataclasses.asdict(fact) for name, fact in facts.items()})
    else:
        _table({name: f"{fact.parameters:>12,} parameters  {fact.paper}" for name, fact in facts.items()})


def datasets(arguments: Sequence[str]) -> None:
    """List the datasets; every image-classification dataset of TFDS works by its name, too."""
    text = "List the datasets; every image-classification dataset of TFDS works by its name, too."
    as_json = _listing("datasets", text, arguments)
    from jaxcnn import data

    (_print_json if as_json else _table)(data.names())


def experiments(arguments: Sequence[str]) -> None:
    """List the experiments."""
    as_json = _listing("experiments", "List the experiments.", arguments)
    from jaxcnn import catalog

    (_print_json if as_json else _table)(catalog.descriptions())


COMMANDS: Mapping[str, Callable[[Sequence[str]], None]] = {
    command.__name__: command
    for command in (demo, train, evaluate, convert, figures, summary, models, datasets, experiments)
}


@dataclasses.dataclass(frozen=True)
class _Location:
    directory: str | None = None
    """TFDS data directory or image folder, if not where it was in training."""


@dataclasses.dataclass(frozen=True)
class _Network:
    options: Mapping[str, Option]
    """Architecture options."""
    num_classes: int
    """Number of logits."""
    precision: Literal["float32", "bfloat16"]
    """Arithmetic of the layers."""


def _spec(name: str) -> ModelSpec:
    """The network of a registered name, in its published form, or of a run directory."""
    from jaxcnn import models, run

    if name not in models.names() and (os.sep in name or os.path.isdir(name)):
        return run.read(name)[1]
    facts, options = models.facts(name), models.options(name)
    return ModelSpec(name, options, facts.num_classes, facts.input_shape, mean=(0.0,), std=(1.0,), class_names=())


def _overview() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {(command.__doc__ or '').rstrip('.')}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "usage: jaxcnn COMMAND [--help] ...",
            "",
            "Convolutional networks in JAX: built as published, trained reproducibly, and explained.",
            "",
            *lines,
        ]
    )


def _parse(function: Callable[..., Any], command: str, arguments: Sequence[str], description: str | None = None) -> Any:
    return tyro.cli(function, prog=f"jaxcnn {command}", args=list(arguments), description=description)


def _listing(command: str, description: str, arguments: Sequence[str]) -> bool:
    def parse(json: Json = False) -> bool:
        return json

    return _parse(parse, command, arguments, description)


def _peek(arguments: Sequence[str], flag: str) -> str | None:
    """The value of one flag, before the rest can be parsed."""
    for i, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if name == flag:
            return value if equals else next(iter(arguments[i + 1 : i + 2]), None)
    return None


def _table(rows: Mapping[str, str]) -> None:
    width = max(map(len, rows), default=0)
    for name, text in rows.items():
        print(f"{name:{width}}  {text}")


def _print_json(value: Mapping[str, Any]) -> None:
    """One object on standard output; a number that is not finite is null, as in metrics.jsonl."""
    finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in value.items()}
    print(json.dumps(finite, allow_nan=False))


def _console() -> Any:
    from rich.console import Console

    return Console(stderr=True)
