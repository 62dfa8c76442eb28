"""How training goes in trained networks: gradients by layer, dead ReLUs, the loss around, and what pixels are used."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import numpy as np
from jaxtyping import Float

from jaxcnn import run
from jaxcnn.analysis import dead_units, gradients, loss_surface
from jaxcnn.analysis.activations import layers as layers_of
from jaxcnn.analysis.effective_receptive_field import EffectiveField, effective_receptive_field
from jaxcnn.analysis.patches import receptive_fields
from jaxcnn.config import check_seed
from jaxcnn.errors import InputError
from jaxcnn.figures import dynamics as figures
from jaxcnn.report import results
from jaxcnn.report.beside import Batches, Measured, by_architecture, names, require_images, write
from jaxcnn.report.subject import Network, Subject
from jaxcnn.train import recovery

Kind: TypeAlias = Literal["gradients", "dead", "slices", "plane", "fields"]

EXAMPLES: Mapping[Kind, int] = {"gradients": 256, "dead": 1000, "slices": 500, "plane": 250, "fields": 64}
"""Images that a network is asked about, where no limit is given."""
FIELDS = 5
"""Layers whose fields are drawn, where none are named."""


class Dead(NamedTuple):
    """The dead units of a network, and the learning rate with which it was trained.

    Attributes:
      rate: the learning rate.
      units: see `dead_units.DeadUnits`.
    """

    rate: float
    units: dead_units.DeadUnits


class Slices(NamedTuple):
    """The loss along lines through the parameters.

    Attributes:
      steps: the places on each line, [A].
      losses: at these, [D, A].
    """

    steps: Float[np.ndarray, " a"]
    losses: Float[np.ndarray, "d a"]


class Plane(NamedTuple):
    """The loss on a plane through the parameters.

    Attributes:
      steps: along both directions, [A].
      losses: at each pair of them, [A, A].
    """

    steps: Float[np.ndarray, " a"]
    losses: Float[np.ndarray, "a a"]


class Fields(NamedTuple):
    """What the centres of some layers use of the image.

    Attributes:
      layers: the field of each layer, by its name.
    """

    layers: dict[str, EffectiveField]


Result: TypeAlias = gradients.Flow | Dead | Slices | Plane | Fields


def draw_dynamics(
    subject: Subject,
    *,
    kind: Kind = "gradients",
    layers: Sequence[str] = (),
    directions: int = 5,
    span: float = 1.0,
    points: int = 21,
    beside: Sequence[Network] = (),
    limit: int | None = None,
    seed: int = 0,
    output: str | Path | None = None,
) -> Measured:
    """Measures one side of a network's dynamics, and draws it beside that of others on the same images.

    Args:
      subject: the network and images, labelled ones where a loss is asked for.
      kind: the gradient at every layer, the dead units of every ReLU, the loss along random lines or on a random plane,
        or the pixels that layers use.
      layers: of fields: names; none are some at equal distances from the first to the last.
      directions: random lines of slices.
      span: how far lines and planes reach on both sides of the parameters, in norms of the filters.
      points: on a line and on a plane's side, an odd number, so that the parameters are among them.
      beside: other networks; those of one architecture are drawn as one, each a seed.
      limit: most images, taken at equal distances from all.
      seed: of the key of all that is drawn at random.
      output: the new folder; None calls it after the network and the kind.

    Raises:
      InputError: an argument is out of range, the images have no labels or other classes than a network, a network has
        no such layers or takes other images, or the folder exists.
      RunError: a gradient is not finite.
    """
    check_seed(seed)
    folder = results.new_folder(f"dynamics-{subject.network.title}-{kind}" if output is None else output)
    if layers and kind != "fields":
        raise InputError(f"layers are {tuple(layers)}; expected none with {kind}, which are of the whole network")
    if directions < 1:
        raise InputError(f"directions is {directions}; expected at least 1")
    if not 0 < span < float("inf"):
        raise InputError(f"span is {span}; expected a positive number")
    if points < 3 or points % 2 == 0:
        raise InputError(f"points is {points}; expected an odd number of at least 3")
    networks = [subject.network, *beside]
    require_images(subject, networks, labelled=kind in ("gradients", "slices", "plane"))
    batches = Batches(subject, EXAMPLES[kind] if limit is None else limit)
    steps = np.linspace(-span, span, points)
    measure = _measures(tuple(layers), directions, steps, jax.random.key(seed))[kind]
    found = [(network, measure(network, batches)) for network in networks]
    about = {
        "command": "dynamics",
        "kind": kind,
        "layers": list(layers),
        "directions": directions,
        "span": span,
        "points": points,
        "limit": limit,
        "seed": seed,
    }
    return write(folder, batches, found, _arrays, about, _figures(kind, found))


def values(result: Result) -> dict[str, Any]:
    """What was measured, as JSON values, but for heat maps, which are in the arrays."""
    if isinstance(result, gradients.Flow):
        return {"layers": list(result.layers), "norms": np.median(result.norms, axis=1).tolist()}
    if isinstance(result, Dead):
        shares = result.units.shares.tolist()
        return {"learning_rate": result.rate, "rectifiers": list(result.units.rectifiers), "shares": shares}
    if isinstance(result, Fields):
        return {
            "layers": {
                name: {"sees": [field.box[2] - field.box[0], field.box[3] - field.box[1]], "uses": field.side}
                for name, field in result.layers.items()
            }
        }
    finite = np.where(np.isfinite(result.losses), result.losses, np.nan)
    return {"steps": result.steps.tolist(), "losses": finite.tolist()}


def in_words(result: Result) -> list[str]:
    """What was measured, in a line or in one for each layer."""
    if isinstance(result, gradients.Flow):
        first, last = np.median(result.norms[[0, -1]], axis=1)
        ratio = f", {first / last:.3g} of that" if last > 0 else ""
        names = result.layers
        return [
            f"median gradient {last:.3g} at the last layer, {names[-1]}; {first:.3g} at the first, {names[0]}{ratio}"
        ]
    if isinstance(result, Dead):
        count, dead = sum(map(len, result.units.dead)), sum(int(units.sum()) for units in result.units.dead)
        shares = zip(result.units.rectifiers, result.units.shares, strict=True)
        said = ", ".join(f"{name} {share:.0%}" for name, share in shares if share)
        where = f": {said}" if said else ""
        return [f"learning rate {result.rate:g}: {dead} of {count} units dead ({dead / count:.1%}){where}"]
    if isinstance(result, Fields):
        return [
            f"{name} sees {field.box[2] - field.box[0]}x{field.box[3] - field.box[1]} pixels, uses about "
            f"{field.side:.0f}x{field.side:.0f}"
            for name, field in result.layers.items()
        ]
    losses, steps, middle = result.losses, result.steps, len(result.steps) // 2
    if isinstance(result, Plane):
        whole, border = losses[middle, middle], np.concatenate([losses[[0, -1]].ravel(), losses[1:-1, [0, -1]].ravel()])
        return [f"loss {whole:.3g}; {border.min():.3g} to {border.max():.3g} on the border of the plane"]
    ends = losses[:, [0, -1]]
    return [
        f"loss {losses[0, middle]:.3g}; {ends.mean():.3g} on the mean at steps of {steps[0]:g} and {steps[-1]:g}, "
        f"{ends.min():.3g} to {ends.max():.3g} over {len(losses)} directions"
    ]


def _measures(
    layers: tuple[str, ...], directions: int, steps: np.ndarray, key: jax.Array
) -> dict[Kind, Callable[[Network, Batches], Result]]:
    def flow(network: Network, batches: Batches) -> Result:
        return gradients.flow(network.model, network.state, *batches.whole())

    def dead(network: Network, batches: Batches) -> Result:
        if network.weights is not None:
            raise InputError(f"{network.title} comes from a file of weights; expected a run, which has a learning rate")
        rate = recovery.learning_rate(run.read(network.name)[0], network.name)
        return Dead(rate, dead_units.dead_units(network.model, network.state, batches.whole()[0]))

    def along(network: Network, number: int) -> Any:
        return loss_surface.direction(network.state, jax.random.fold_in(key, number))

    def slices(network: Network, batches: Batches) -> Result:
        asked = network.model, network.state, batches
        return Slices(
            steps, np.stack([loss_surface.slice_1d(*asked, along(network, i), steps) for i in range(directions)])
        )

    def plane(network: Network, batches: Batches) -> Result:
        both = along(network, 0), along(network, 1)
        return Plane(steps, loss_surface.slice_2d(network.model, network.state, batches, both, steps, steps))

    def fields(network: Network, batches: Batches) -> Result:
        images = batches.whole()[0]
        height, width, channels = images.shape[1:]
        shape = (height, width, channels)
        asked = network.model, network.state, images
        chosen = layers or _some_maps(network, shape)
        return Fields({name: effective_receptive_field(*asked, name, key) for name in chosen})

    return {"gradients": flow, "dead": dead, "slices": slices, "plane": plane, "fields": fields}


def _some_maps(network: Network, shape: tuple[int, int, int]) -> list[str]:
    """Layers that have maps, at equal distances from the first to the last."""
    seen = receptive_fields(network.model, shape)
    known = layers_of(network.model, network.state, shape)
    maps = [name for name, output in known.items() if len(output) == 3 and name in seen and seen[name].axes == (1, 2)]
    if not maps:
        raise InputError(f"{network.title} has no layer with maps; expected a convolutional network")
    chosen = np.linspace(0, len(maps) - 1, min(FIELDS, len(maps))).round().astype(int)
    return [maps[number] for number in chosen]


def _arrays(result: Result) -> dict[str, np.ndarray]:
    if isinstance(result, gradients.Flow):
        return {"layers": np.array(result.layers), "norms": result.norms}
    if isinstance(result, Dead):
        dead = np.concatenate(result.units.dead)
        counts = np.array([len(units) for units in result.units.dead])
        rectifiers = np.array(result.units.rectifiers)
        return {"learning_rate": np.array(result.rate), "rectifiers": rectifiers, "units": counts, "dead": dead}
    if isinstance(result, Fields):
        arrays = {"layers": np.array(list(result.layers))}
        arrays["heat"] = np.stack([field.heat for field in result.layers.values()])
        return arrays | {"boxes": np.array([field.box for field in result.layers.values()])}
    return {"steps": result.steps, "losses": result.losses}


def _figures(kind: Kind, found: list[tuple[Network, Any]]) -> dict[str, Any]:
    """The figures by their files' names: one, or one for each network."""
    groups = by_architecture(found)
    if kind == "gradients":
        return {
            kind: figures.gradient_flow({t: np.concatenate([r.norms for r in g], axis=1) for t, g in groups.items()})
        }
    if kind == "slices":
        lines = {title: np.concatenate([r.losses for r in group]) for title, group in groups.items()}
        return {kind: figures.loss_slices(found[0][1].steps, lines)}
    if kind == "dead":
        return {kind: _dead(groups)}
    drawn = {}
    called = names([network for network, _ in found])
    for number, (title, (_, result)) in enumerate(zip(called, found, strict=True)):
        name = kind if len(found) == 1 else f"{kind}-{number}"
        if kind == "plane":
            drawn[name] = figures.loss_plane(result.steps, result.steps, result.losses, title=title)
        else:
            seen = {n: figures.SeenField(f.heat, f.box, f.side) for n, f in result.layers.items()}
            drawn[name] = figures.effective_fields(seen)
    return drawn


def _dead(groups: dict[str, list[Dead]]) -> Any:
    if len(groups) > 1:
        raise InputError(f"the networks are {', '.join(groups)}; expected one architecture at several learning rates")
    (group,) = groups.values()
    rates = sorted({one.rate for one in group})
    shares = [np.mean([one.units.shares for one in group if one.rate == rate], axis=0) for rate in rates]
    return figures.dead_units(rates, group[0].units.rectifiers, shares)
