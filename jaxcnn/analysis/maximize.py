"""Activation maximisation: images sought by gradient ascent that excite a class, a unit or a layer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache, partial
from typing import Any, NamedTuple

import flax.errors
import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.core import Tracer
from jax.extend.core import JaxprEqn, Var
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Key

from jaxcnn.analysis.activations import layers, watched
from jaxcnn.analysis.checks import checked_images
from jaxcnn.analysis.compiled import compiled
from jaxcnn.analysis.guided import mark_normalisation, rectifies
from jaxcnn.analysis.max_pooling import faster
from jaxcnn.analysis.objectives import IMAGE, LOGITS, PARAMETERS, Objective, Seen, Shapes
from jaxcnn.analysis.parametrization import Parametrization, fourier
from jaxcnn.analysis.rewriting import rewrite
from jaxcnn.analysis.transforms import Transform, robust, transformed
from jaxcnn.errors import InputError, RunError, first_line
from jaxcnn.registry import discover
from jaxcnn.state import State

START = 0.01
"""Standard deviation of the parameters at the beginning."""
RATE = 0.05
"""Step size of Adam, in parameters whose natural deviation is 1."""
STEPS = 256
"""Steps after which an image hardly changes to the eye, small or large."""
SEGMENT = 32
"""Steps that one call of the compiled loop takes at most."""


class Progress(NamedTuple):
    """Where an ascent has come to; a pytree of arrays, from which it goes on as if it had never stopped.

    Attributes:
      step: steps taken.
      parameters: [N, ...], see `Parametrization`.
      optimizer: the optimiser's state.
    """

    # Not array types: JAX rebuilds pytrees around shapes and other placeholders.
    step: Any
    parameters: Any
    optimizer: Any


class Maximized(NamedTuple):
    """Images that excite what they were asked to.

    Attributes:
      images: [N, H, W, C] in [0, 1].
      trace: [steps, N], the objective before each step, under that step's transforms.
      progress: from which `run` goes on.
    """

    images: Float[Array, "n h w c"]
    trace: Float[Array, "s n"]
    progress: Progress


def run(
    model: nn.Module,
    state: State,
    objective: Objective,
    *,
    key: Key[Array, ""],
    count: int = 1,
    parametrization: Parametrization | None = None,
    transforms: Sequence[Transform] | None = None,
    optimizer: optax.GradientTransformation | None = None,
    steps: int = STEPS,
    start: ArrayLike | None = None,
    progress: Progress | None = None,
    redirect: bool = True,
) -> Maximized:
    """Images at which an objective is large, by gradient ascent on their parameters.

    z <- z + optimizer(d/dz f(network(T(x(z))))), T drawn anew at each step

    Each step's random numbers are those of the key and the step's number, so steps taken in several calls, the
    progress handed on, are those taken in one, bit for bit.

    Args:
      model: a module called as `model(images, train=...)` that returns logits [N, K].
      state: its state.
      objective: see `objectives`; minus penalties, see `penalties`.
      key: decides the beginning and the transforms.
      count: N, images sought at once; the objective's units and targets are one for all, or N.
      parametrization: see `parametrization`; None is `fourier` in the network's published input shape.
      transforms: see `transforms`; None is `robust`, () are none.
      optimizer: of optax, minimising minus the objective; None is Adam with step size `RATE`. A program is compiled
        for it, so the same one again costs nothing.
      steps: to take now.
      start: images [N, H, W, C] in [0, 1] to begin with, as a photograph to dream of; None begins with nearly the mean
        image.
      progress: of an earlier call with the same arguments, to go on from.
      redirect: let the gradient pass a ReLU that is silent for a whole image, where it would wake it.

    Returns:
      The images after the last step.

    Raises:
      InputError: the network does not take such images, it has no such layer, unit or class, the objective is for
        another number of images, or a number is out of range.
      RunError: the objective is not finite.

    Reference: Erhan, Bengio, Courville & Vincent, "Visualizing higher-layer features of a deep network", 2009; in
    these parts, Olah, Mordvintsev & Schubert, "Feature visualization", 2017.
    """
    space = fourier(published_shape(model)) if parametrization is None else parametrization
    height, width, _ = space.shape
    if steps < 0 or count < 1:
        raise InputError(f"steps is {steps} and count {count}; expected at least 0 and at least 1")
    changes = robust(height, width) if transforms is None else tuple(transforms)
    ascent = _adam(RATE) if optimizer is None else optimizer
    check(model, state, objective, space, changes, count)
    beginning, moves = jax.random.split(key)
    if start is not None and progress is not None:
        raise InputError("start and progress were both given; expected one of them to begin with")
    if progress is None:
        parameters = space.drawn(beginning, count, START) if start is None else space.of(start)
        progress = Progress(jnp.zeros((), jnp.int32), parameters, ascent.init(parameters))
    reached: Progress = progress
    if reached.parameters.shape != (count, *space.parameter_shape):
        raise InputError(
            f"{'progress' if start is None else 'start'} has parameters {reached.parameters.shape}; expected "
            f"{(count, *space.parameter_shape)}"
        )
    traces = []
    for start in range(0, steps, SEGMENT):
        number = min(SEGMENT, steps - start)
        advance = partial(_advance, model, changes, ascent, redirect)
        reached, trace = advance(state.variables, objective, space, moves, reached, jnp.int32(number))
        traces.append(trace[:number])
        _check_finite(reached, traces[-1])
    trace = jnp.concatenate(traces) if traces else jnp.zeros((0, count))
    return Maximized(_images(space, reached.parameters), trace, reached)


def evaluate(
    model: nn.Module, state: State, objective: Objective, images: Array, *, parameters: Array | None = None
) -> Float[Array, " n"]:
    """An objective's numbers for images as they are, under no transform.

    Args:
      model: see `run`.
      state: its state.
      objective: what is asked.
      images: [N, H, W, C] in [0, 1].
      parameters: [N, ...], for an objective that reads them.

    Raises:
      InputError: the images are none, the network does not take them, it has no such layer, unit or class, or the
        objective is for another number of images.
    """
    pixels = checked_images(images)
    count, shape = len(pixels), pixels.shape[1:]
    places = _places(model, state, shape) | {IMAGE: shape}
    if parameters is not None:
        if jnp.shape(parameters)[:1] != (count,):
            raise InputError(f"parameters have shape {jnp.shape(parameters)}; expected those of {count} images")
        parameters = jnp.asarray(parameters).reshape(count, -1)
        places[PARAMETERS] = parameters.shape[1:]
    elif PARAMETERS in objective.places:
        raise InputError("parameters is None; expected those of the images, as the objective reads them")
    _check_objective(objective, places, count, f"there are {count} images")
    return _evaluate(model, state.variables, objective, pixels, parameters)


def published_shape(model: nn.Module) -> tuple[int, int, int]:
    """Height and width in pixels, and channels, of the images that a registered network was published for.

    Raises:
      InputError: it is not registered.
    """
    for entry in discover("jaxcnn.models", "MODELS").values():
        if type(model) is entry.module and all(getattr(model, k) == value for k, value in entry.fixed.items()):
            return entry.facts.input_shape
    raise InputError(f"{type(model).__name__} is no registered network; expected a parametrization of its images")


def check(
    model: nn.Module,
    state: State,
    objective: Objective,
    space: Parametrization,
    changes: Sequence[Transform],
    count: int,
) -> None:
    """Refuses what the network does not have before anything is compiled.

    Args:
      model: see `run`, as all arguments.
      state: its state.
      objective: what is maximised.
      space: the parametrization.
      changes: the transforms.
      count: images sought at once.

    Raises:
      InputError: see `run`.
    """
    images = jax.ShapeDtypeStruct((1, *space.shape), jnp.float32)
    seen = jax.eval_shape(partial(transformed, changes), jax.random.key(0), images)
    own = {IMAGE: space.shape, PARAMETERS: (math.prod(space.parameter_shape),)}
    _check_objective(objective, _places(model, state, seen.shape[1:]) | own, count, f"count is {count}")


def _places(model: nn.Module, state: State, shape: Any) -> dict[str, tuple[int, ...]]:
    """Shapes of what the network computes of one image."""
    images = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    try:
        logits: Any = _logits.eval_shape(model, state.variables, images)
        known = layers(model, state, shape)
    except InputError as error:
        raise InputError(f"{type(model).__name__} does not take images of {_size(shape)}: {error}") from error
    except (flax.errors.FlaxError, ArithmeticError, LookupError, TypeError, ValueError) as error:
        # Whatever a layer says of a map or a kernel that has another shape than its parameters.
        raise InputError(
            f"{type(model).__name__} does not take images of {_size(shape)}; expected such as it was trained on "
            f"({first_line(error)[:200]})"
        ) from error
    return known | {LOGITS: logits.shape[1:]}


def _check_objective(objective: Objective, places: Shapes, count: int, said: str) -> None:
    """Refuses what is not at the places, and what does not give a number for each of so many images."""
    objective.check(places)
    seen = {name: jax.ShapeDtypeStruct((count, *places[name]), jnp.float32) for name in objective.places}
    try:
        shape = jnp.shape(jax.eval_shape(_numbers, objective, seen))
    except InputError:
        raise
    except (TypeError, ValueError) as error:
        why, shape = first_line(error), None
    else:
        why = f"it gives shape {shape}"
    if shape != (count,):
        raise InputError(
            f"{said}, and the objective is for another number ({why}); expected units, targets, vectors and weights "
            f"that are one for all images or {count}"
        )


def _numbers(objective: Objective, seen: Seen) -> Any:
    return objective(seen)


def _size(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def _check_finite(progress: Progress, trace: Array) -> None:
    if not isinstance(trace, Tracer) and not bool(jnp.isfinite(trace).all() & jnp.isfinite(progress.parameters).all()):
        raise RunError(
            f"the objective is not finite by step {int(progress.step)}; expected a network and step sizes with finite "
            "gradients"
        )


@cache
def _adam(rate: float) -> optax.GradientTransformation:
    return optax.adam(rate)


@compiled(static_argnums=(0, 1, 2, 3))
def _advance(
    model: nn.Module,
    changes: tuple[Transform, ...],
    ascent: optax.GradientTransformation,
    redirect: bool,
    variables: Any,
    objective: Objective,
    space: Parametrization,
    moves: Array,
    progress: Progress,
    number: Array,
) -> tuple[Progress, Float[Array, "s n"]]:
    """So many steps, at most `SEGMENT`; one program whatever the number, so that its rounding is one too."""
    outside = jnp.mean(jnp.asarray(space.mean), (0, 1))

    def total(parameters: Array, key: Array) -> tuple[Array, Array]:
        images = space(parameters)
        shown = transformed(changes, key, images, outside)
        seen = _look(model, variables, shown, objective, redirect)
        flat = parameters.reshape(len(parameters), -1)
        values = objective({**seen, IMAGE: images, PARAMETERS: flat})
        return values.sum(), values

    def step(i: Array, carry: tuple[Progress, Array]) -> tuple[Progress, Array]:
        (taken, parameters, memory), trace = carry
        gradient, values = jax.grad(total, has_aux=True)(parameters, jax.random.fold_in(moves, taken))
        updates, memory = ascent.update(-gradient, memory, parameters)
        moved = Progress(taken + 1, optax.apply_updates(parameters, updates), memory)
        return moved, trace.at[i].set(values)

    return lax.fori_loop(0, number, step, (progress, jnp.zeros((SEGMENT, len(progress.parameters)))))


@jax.jit
def _images(space: Parametrization, parameters: Array) -> Float[Array, "n h w c"]:
    return space(parameters)


@partial(jax.jit, static_argnums=0)
def _logits(model: nn.Module, variables: Any, images: Array) -> Any:
    return model.apply(variables, images, train=False)


@partial(jax.jit, static_argnums=0)
def _evaluate(
    model: nn.Module, variables: Any, objective: Objective, images: Array, parameters: Array | None
) -> Float[Array, " n"]:
    seen = _look(model, variables, images, objective, False)
    if parameters is not None:
        seen = {**seen, PARAMETERS: parameters}
    return objective({**seen, IMAGE: images})


def _look(model: nn.Module, variables: Any, images: Array, objective: Objective, redirect: bool) -> Seen:
    """What one forward pass computes at the places that an objective reads."""
    places = objective.places

    def look(variables: Any, images: Array) -> dict[str, Array]:
        seen: dict[str, Array] = {}

        def record(name: str, output: Array) -> Array:
            if name in places:
                seen.setdefault(name, output.astype(jnp.float32))
            return output

        with nn.intercept_methods(mark_normalisation):
            logits = watched(model, record, variables, images)
        return {**seen, LOGITS: logits.astype(jnp.float32)}

    zeros: set[Var] = set()

    def rule(equation: JaxprEqn, operands: Sequence[Any]) -> list[Array] | None:
        x = rectifies(equation, operands, zeros) if redirect else None
        return faster(equation, operands) if x is None else [_relu(x)]

    return rewrite(look, rule)(variables, images)


@jax.custom_vjp
def _relu(x: Array) -> Array:
    return jnp.maximum(x, 0)


def _woken(x: Array, g: Array) -> tuple[Array]:
    """The derivative; where none of it passes for an image, that part which would raise what is below 0."""
    passed = jnp.where(x > 0, g, 0)
    silent = ~jnp.any(passed, range(1, x.ndim), keepdims=True)
    return (jnp.where(silent & (g > 0), g, passed),)


_relu.defvjp(lambda x: (jnp.maximum(x, 0), x), _woken)
