"""The figures of a run: how it learned, where it errs, what it looks at, and what went on inside it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from sklearn.metrics import confusion_matrix

from jaxcnn import run
from jaxcnn.analysis import filters, saliency
from jaxcnn.errors import InputError
from jaxcnn.figures import confusion as confusion_figure
from jaxcnn.figures import curves as curves_figure
from jaxcnn.figures import diagnostics as diagnostics_figure
from jaxcnn.figures import filters as filters_figure
from jaxcnn.figures import predictions as predictions_figure
from jaxcnn.figures import saliency as saliency_figure
from jaxcnn.figures import style
from jaxcnn.loading import load
from jaxcnn.train import diagnostics
from jaxcnn.train.evaluate import Evaluator, open_run_split

_SHOWN = 20  # pictures in the grid of predictions
_EXPLAINED = 4  # pictures with a saliency map


def draw(directory: str | Path, *, data_directory: str | None = None) -> list[Path]:
    """Draws every figure of a run into its `figures/`, as PDF and PNG.

    Gradients, magnitudes and dead ReLUs are drawn of a run with `training.diagnose_every`, time of every run that wrote
    a timing.jsonl.

    Args:
      directory: the run directory.
      data_directory: where the images lie now, if not where they were in training.

    Returns:
      The files, in the order of the report.

    Raises:
      InputError: the run or its data cannot be read.
    """
    model, state = load(directory)
    _, spec = run.read(directory)
    source, config = open_run_split(directory, "test", data_directory)
    logits, labels = Evaluator(model, source, config, jax.local_devices()).predict(state)
    probabilities = np.asarray(jax.nn.softmax(logits))
    predicted = probabilities.argmax(axis=1)

    wrong = predicted != labels
    shown = _spread_over_mistakes(wrong, _SHOWN)
    images = source.read(shown)[0].astype(np.float32) / 255
    # One picture a class, as far as they go, from the first that the network gets right.
    correct = [np.flatnonzero((labels == k) & (predicted == k))[:1] for k in range(spec.num_classes)]
    explained = (
        np.concatenate(correct)[:_EXPLAINED] if any(map(len, correct)) else np.arange(min(_EXPLAINED, len(labels)))
    )
    pictures = source.read(explained)[0].astype(np.float32) / 255

    figures = {
        "curves": _curves(run.scores(directory)),
        "filters": filters_figure.kernels(filters.first_layer(model, state, spec.input_shape).kernel),
        "predictions": predictions_figure.predictions(
            images, probabilities[shown], labels[shown], spec.class_names, note=_said(wrong, shown)
        ),
        "confusion": confusion_figure.confusion(
            confusion_matrix(labels, predicted, labels=np.arange(spec.num_classes)), spec.class_names
        ),
        "saliency": saliency_figure.saliency(
            pictures,
            saliency.gradient(model, state, pictures),
            [spec.class_names[k] for k in predicted[explained]],
            probabilities[explained].max(axis=1),
            truths=[spec.class_names[k] for k in labels[explained]],
        ),
        **_diagnostics(run.metrics(directory).read()),
        **_time(Path(directory)),
    }
    return [path for name, figure in figures.items() for path in style.save(figure, Path(directory) / "figures" / name)]


def _curves(records: Sequence[dict[str, Any]]) -> Any:
    by_split: dict[str, list[dict[str, Any]]] = {"train": []}
    for record in records:
        by_split.setdefault(record["split"], []).append(record)
    if not by_split["train"]:
        raise InputError("metrics.jsonl holds no records of training; expected at least one")
    lines = {
        split: curves_figure.Curve(*([r[name] for r in chosen] for name in ("step", "loss", "top1")))
        for split, chosen in by_split.items()
    }
    training = lines.pop("train")
    split, evaluation = next(iter(lines.items()), ("validation", None))
    return curves_figure.history(training, evaluation, split=split)


def _diagnostics(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Figures of what the run's diagnoses saw; none without diagnoses, and none of ReLUs where there are no ReLUs."""
    try:
        norm, value, gradient, dead = (
            diagnostics.series(records, quantity) for quantity in ("gradient_norm", "value", "gradient", "dead")
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"metrics.jsonl has damaged diagnostics ({type(error).__name__}: {error}); expected the records of training"
        ) from error
    figures = {}
    if norm.names:
        # Scales and offsets of normalisation have norms of another order, and between kernels make a saw of every line.
        kernels = norm.select(lambda layer: f"{layer}/kernel" in value.names)
        figures["gradient_norms"] = diagnostics_figure.gradient_norms(*(kernels if kernels.names else norm))
        figures["magnitudes"] = diagnostics_figure.magnitudes(value.steps, value.names, value.values, gradient.values)
    if dead.names:
        figures["dead_relus"] = diagnostics_figure.dead_units(*dead)
    return figures


def _time(directory: Path) -> dict[str, Any]:
    """The figure of where the time went; none where no time was written down."""
    seconds, images_per_second = diagnostics.read_timing(directory)
    if not sum(seconds.values()):
        return {}
    return {"time": diagnostics_figure.time_spent(seconds, images_per_second=images_per_second or None)}


def _spread_over_mistakes(wrong: np.ndarray, count: int) -> np.ndarray:
    """Indices of `count` examples: up to half of them mistakes, the rest correct, from the whole split in its order."""
    mistakes = _evenly(np.flatnonzero(wrong), count // 2)
    correct = _evenly(np.flatnonzero(~wrong), count - len(mistakes))
    return np.sort(np.concatenate([mistakes, correct]))


def _said(wrong: np.ndarray, shown: np.ndarray) -> str:
    """Which examples are shown, as mistakes are among them more often than among all."""
    mistakes, right = int(wrong[shown].sum()), int((~wrong[shown]).sum())
    return f"{mistakes} of {wrong.sum():,} mistakes, {right} of {(~wrong).sum():,} right answers"


def _evenly(indices: np.ndarray, count: int) -> np.ndarray:
    """At most `count` of them, evenly spaced: a folder's split goes class by class."""
    return indices[np.arange(min(count, len(indices))) * len(indices) // max(min(count, len(indices)), 1)]
