"""Commands about networks and their weights: tables, conversion, probes."""

from __future__ import annotations

import dataclasses
import os
import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import tyro

from jaxcnn.cli.terminal import NOWHERE_ELSE, Json, Location, parse_arguments, print_json
from jaxcnn.config import DataConfig, ModelSpec, OptimizerConfig, OptimizerName, Option, split_name
from jaxcnn.errors import InputError


@dataclasses.dataclass(frozen=True)
class _Network:
    options: Mapping[str, Option]
    """Architecture options."""
    num_classes: int
    """Number of logits."""
    precision: Literal["float32", "bfloat16"]
    """Arithmetic of the layers."""


def summary(arguments: Sequence[str]) -> None:
    """Tabulate a network: shapes, memory, parameters, multiply-adds and receptive fields, layer by layer."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(
            "usage: jaxcnn summary MODEL [--input H W C] [--format text|csv|markdown]\n"
            "                      [--json] [--figure FILE] [--optimizer NAME]\n"
            "                      [--batch-size N] [--model.options.NAME VALUE ...]\n\n"
            f"{textwrap.fill(summary.__doc__ or '', 80)}\n\n"
            "MODEL is a registered name, FILE.py:NAME of a file of your own, or a run\n"
            "directory. `jaxcnn models` lists the names, `jaxcnn summary MODEL --help` the\n"
            "options of one."
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
          figure: Draw the table, too, into this new file, .pdf or .png; both are written.
          optimizer: Whose state is counted.
          batch_size: Images in the batch whose memory is counted.
          model: What to build.
        """
        return input, format, json, figure, optimizer, batch_size, model

    shape, form, as_json, figure, rule, batch_size, chosen = parse_arguments(
        parse, f"summary {name}", rest, (summary.__doc__ or "")
    )
    if min(*shape, batch_size) < 1:
        raise InputError(f"--input is {shape} and --batch-size {batch_size}; expected numbers of at least 1")
    stem = None if figure is None else _new_figure(figure)
    from jaxcnn.analysis import summary as summaries
    from jaxcnn.analysis import summary_formats
    from jaxcnn.train import optimizers

    fields = {name: getattr(chosen, name) for name in ("options", "num_classes", "precision")}
    spec = dataclasses.replace(default, input_shape=shape, **fields)
    optimizer = optimizers.create(OptimizerConfig(name=rule), total_steps=1, steps_per_epoch=1)
    table = summaries.table(models.from_spec(spec), shape, name=spec.title, batch_size=batch_size, optimizer=optimizer)
    if as_json:
        print_json(summary_formats.json(table))
    else:
        print(getattr(summary_formats, form)(table))
    if stem is not None:
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
        for path in style.save(drawn, stem):
            print(path, file=sys.stderr)


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
          source: Run directory, .npz, or file of PyTorch's (.pth, .pt, .th, .safetensors).
          target: New file; .pth, .pt, .th and .safetensors get PyTorch's names and layout, .npz our own.
          model: Name of the network in a file that does not say it: one that jaxcnn did not write.
          num_classes: Classes of that network, if not the published number.
          json: Print the result as one JSON object on standard output.
        """
        return source, target, model, num_classes, json

    source, target, model, num_classes, as_json = parse_arguments(parse, "convert", arguments)
    from jaxcnn import loading

    fields = {} if num_classes is None else {"num_classes": num_classes}
    written = loading.convert(source, target, model=model, **fields)
    if as_json:
        print_json(dataclasses.asdict(written))
    else:
        print(
            f"{written.file}: {written.model}, {written.tensors} tensors, {written.parameters:,} parameters, "
            f"{written.bytes:,} bytes"
        )


def probe(arguments: Sequence[str]) -> None:
    """Fit a linear classifier to a trained network's features of another dataset."""

    def parse(
        model: tyro.conf.Positional[str],
        weights: str,
        dataset: str,
        data: Location = NOWHERE_ELSE,
        image_size: int | None = None,
        limit: int | None = None,
        penalty: float = 1e-3,
        seed: int = 0,
        json: Json = False,
    ) -> Any:
        """Fit a linear classifier to a trained network's features of another dataset.

        Args:
          model: Name of the network.
          weights: File of PyTorch's (.pth, .th, .safetensors) or .npz.
          dataset: Name of the dataset.
          data: Where it lies.
          image_size: Height and width in pixels that the network is given; by default the dataset's own.
          limit: Most images used of either split, drawn at random.
          penalty: Weight of the squared norm of the classifier's kernel.
          seed: Seed of the draw.
          json: Print the result as one JSON object on standard output.
        """
        config = DataConfig(dataset, data.directory, image_size)
        return model, weights, config, limit, penalty, seed, json

    model, weights, config, limit, penalty, seed, as_json = parse_arguments(parse, "probe", arguments)
    from jaxcnn.report.probe import probe as fit

    result = fit(model, weights, config, limit=limit, penalty=penalty, seed=seed)
    if as_json:
        print_json(dataclasses.asdict(result))
    else:
        print(
            f"{result.examples} test images: top-1 {result.top1:.4f}, of {result.features} features fitted to "
            f"{result.training_examples} images (top-1 {result.training_top1:.4f})"
        )


def _new_figure(file: str) -> str:
    """The path without its ending of a figure that is not there yet."""
    stem, ending = os.path.splitext(file)
    if ending not in (".pdf", ".png"):
        raise InputError(f"--figure is {file!r}; expected a file name that ends in .pdf or .png")
    for path in (f"{stem}.pdf", f"{stem}.png"):
        if os.path.lexists(path):
            raise InputError(f"{path} exists already; expected a new file for --figure")
    from jaxcnn.report.results import check_writable

    check_writable(Path(file))
    return stem


def _spec(name: str) -> ModelSpec:
    """The network of a registered name, in its published form, or of a run directory."""
    from jaxcnn import models, run

    registered = name in models.names() or split_name(name)[0] is not None
    if not registered and (os.sep in name or os.path.isdir(name)):
        return run.read(name)[1]
    facts, options = models.facts(name), models.options(name)
    return ModelSpec(name, options, facts.num_classes, facts.input_shape, mean=(0.0,), std=(1.0,), class_names=())
