"""What a network loses with its blocks: deleted one by one or at random, moved, or passed by the gradient."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

import jax
import numpy as np

from jaxcnn.analysis import gradients, lesion
from jaxcnn.analysis.blocks import Block, blocks
from jaxcnn.config import check_seed
from jaxcnn.errors import InputError
from jaxcnn.figures import lesion as figures
from jaxcnn.report import results
from jaxcnn.report.beside import Batches, Measured, by_architecture, require_images, write
from jaxcnn.report.subject import Network, Subject
from jaxcnn.train.study_results import interval

Kind: TypeAlias = Literal["delete", "random", "shuffle", "paths"]
Result: TypeAlias = lesion.Single | lesion.Several | lesion.Shuffled | gradients.Paths

EXAMPLES = 1000
"""Images that are classified after each lesion, where no limit is given."""
EXAMPLES_OF_PATHS = 64
"""Images by which the loss is differentiated along each path."""
MOST = 10
"""Blocks deleted or swaps made at most, where no numbers are given."""


def draw_lesion(
    subject: Subject,
    *,
    kind: Kind = "delete",
    counts: Sequence[int] = (),
    repeats: int = 20,
    beside: Sequence[Network] = (),
    limit: int | None = None,
    seed: int = 0,
    output: str | Path | None = None,
) -> Measured:
    """Measures lesions of a network, and draws them beside those of others on the same images.

    Args:
      subject: the network and labelled images.
      kind: delete each block, delete random blocks, swap random blocks, or follow the gradient along random paths.
      counts: of random lesions: blocks deleted, swaps, or branches on a path, each of them once and in order; none are
        the numbers up to `MOST`, or for paths all.
      repeats: of each number.
      beside: other networks; those of one architecture are drawn as one, each a seed.
      limit: most images, taken at equal distances from all.
      seed: of the key of all that is drawn at random.
      output: the new folder; None calls it after the network and the kind.

    Raises:
      InputError: an argument is out of range, the images have no labels or other classes than a network, a network has
        no such blocks or takes other images, or the folder exists.
    """
    check_seed(seed)
    folder = results.new_folder(f"lesion-{subject.network.title}-{kind}" if output is None else output)
    if counts and kind == "delete":
        raise InputError(f"counts are {tuple(counts)}; expected none where each block is deleted by itself")
    networks = [subject.network, *beside]
    require_images(subject, networks, labelled=True)
    most = EXAMPLES_OF_PATHS if kind == "paths" else EXAMPLES
    batches = Batches(subject, most if limit is None else limit)
    counts = sorted(set(counts))
    measure = _measure(kind, tuple(counts), repeats, jax.random.key(seed))
    found = [(network, measure(network, batches)) for network in networks]
    said = f"{len(batches):,} {subject.origin}"
    about = {
        "command": "lesion",
        "kind": kind,
        "counts": counts,
        "repeats": repeats,
        "limit": limit,
        "seed": seed,
    }
    drawn = {kind: _figure(kind, by_architecture(found), said, 1 - 1 / len(subject.source.class_names))}
    return write(folder, batches, found, _arrays, about, drawn)


def _arrays(result: Result) -> dict[str, np.ndarray]:
    arrays = {name: np.asarray(value) for name, value in result._asdict().items() if name != "blocks"}
    return arrays | {"blocks": np.array([block.name for block in result.blocks])}


def values(result: Result) -> dict[str, Any]:
    """What was measured, as JSON values; which blocks were drawn is in the arrays."""
    blocks = [
        {"name": block.name, "stage": block.stage, "downsamples": block.downsamples, "deletable": block.deletable}
        for block in result.blocks
    ]
    drawn = {"blocks", "deleted", "orders", "kept"}
    measured = {name: np.asarray(value).tolist() for name, value in result._asdict().items() if name not in drawn}
    if isinstance(result, gradients.Paths):
        measured |= {"shares": result.shares.tolist(), "contributions": result.contributions.tolist()}
    return {"blocks": blocks, **measured}


def in_words(result: Result) -> list[str]:
    """What was measured, a line for each block or number of them."""
    if isinstance(result, gradients.Paths):
        mean = float((result.lengths * result.contributions).sum())
        rows = zip(result.lengths.tolist(), result.shares, result.norms.mean(1), result.contributions, strict=True)
        of_all = np.isclose(result.shares.sum(), 1)  # paths of every length were asked for
        what = "all" if of_all else "what these bring"
        lines = [
            f"{_number(length, 'block')}: {share:.1%} of the paths, gradient {norm:.3g}, {brought:.1%} of {what}"
            for length, share, norm, brought in rows
        ]
        summary = f"mean length {mean:.1f} of {len(result.blocks)} blocks, by what the paths bring"
        return [*lines, summary] if of_all else lines
    whole = f"error {result.intact:.1%}"
    if isinstance(result, lesion.Single):
        rows = zip(result.blocks, result.errors, strict=True)
        return [whole, *(f"without {b.name} {e:.1%}{_note(b)}" for b, e in rows if b.deletable)]
    if isinstance(result, lesion.Several):
        lesions = [f"{count} deleted" for count in result.counts]
    else:
        lesions = [_number(count, "swap") for count in result.swaps.tolist()]
    low, middle, high = np.quantile(result.errors, (0.025, 0.5, 0.975), axis=1)
    rows = zip(lesions, low, middle, high, strict=True)
    return [whole, *(f"{done}: error {b:.1%}, {a:.1%} to {c:.1%} in 95% of draws" for done, a, b, c in rows)]


def _number(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _note(block: Block) -> str:
    return ", which halves the map" if block.downsamples else ""


def _measure(kind: Kind, counts: tuple[int, ...], repeats: int, key: jax.Array) -> Callable[[Network, Batches], Result]:
    def measure(network: Network, batches: Batches) -> Result:
        asked = network.model, network.state
        if kind == "delete":
            return lesion.single(*asked, batches)
        if kind == "shuffle":
            return lesion.shuffle(*asked, batches, counts or range(MOST + 1), repeats, key)
        images, labels = batches.whole() if kind == "paths" else next(iter(batches))
        if kind == "paths":
            return gradients.paths(*asked, images, labels, repeats, key, lengths=counts or None)
        height, width, channels = images.shape[1:]
        deletable = sum(block.deletable for block in blocks(*asked, (height, width, channels)))
        return lesion.several(*asked, batches, counts or range(1, min(MOST, deletable) + 1), repeats, key)

    return measure


def _figure(kind: Kind, groups: dict[str, list[Any]], images: str, chance: float) -> Any:
    def joined(name: str, group: list[Any]) -> np.ndarray:
        """[K, R] of all networks together."""
        return np.concatenate([getattr(result, name) for result in group], axis=1)

    if kind == "delete":
        deletions = {title: _deletions(group) for title, group in groups.items()}
        return figures.single(deletions, chance=chance, images=images)
    if kind == "random":
        return figures.several({title: _draws(group) for title, group in groups.items()}, images=images)
    if kind == "shuffle":
        orders = {
            title: figures.Orders(joined("tau", group).ravel(), joined("errors", group).ravel())
            for title, group in groups.items()
        }
        return figures.shuffled(orders, images=images)
    paths = {
        title: figures.PathGradients(
            group[0].lengths,
            joined("norms", group),
            group[0].shares,
            np.mean([result.contributions for result in group], axis=0),
        )
        for title, group in groups.items()
    }
    return figures.paths(paths)


def _deletions(group: list[lesion.Single]) -> figures.Deletions:
    blocks, errors = group[0].blocks, np.stack([result.errors for result in group])
    _, low, high = interval(errors)
    halving = [block.downsamples for block in blocks]
    intact = [result.intact for result in group]
    return figures.Deletions([block.name for block in blocks], halving, errors, intact, low, high)


def _draws(group: list[lesion.Several]) -> figures.Draws:
    """The errors of all networks together, from nothing deleted on."""
    counts, errors = group[0].counts, np.concatenate([result.errors for result in group], axis=1)
    if 0 in counts:
        return figures.Draws(counts, errors)
    intact = np.repeat([result.intact for result in group], group[0].errors.shape[1])
    return figures.Draws([0, *counts], np.concatenate([intact[None], errors]))
