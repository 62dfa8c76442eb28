"""Compositional pattern-producing networks: images as functions of the place, encoded by small graphs that evolve.

A genome is a fixed number of nodes, of which as many are in use as evolution has added, so that genomes are arrays of
one shape and whole populations are changed and drawn by one program. Node after node stands: the inputs, the outputs,
and those in between. A connection runs from a lower to a higher place, inputs being at 0 and outputs at 1, so a graph
never has a cycle.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from jaxcnn.analysis.direct import polynomial_mutation

INPUTS = ("x", "y", "distance to the centre", "bias")
"""What the input nodes hold, in their order."""
FUNCTIONS = ("sine", "sigmoid", "gaussian", "linear")
"""What a node may compute, by its number."""

LIMIT = 3.0
"""Largest weight and its negative, the least."""
ADD_NODE, ADD_CONNECTION, CHANGE_FUNCTION, CHANGE_WEIGHT = 0.1, 0.15, 0.05, 0.3
"""Probabilities that a child has one more node, one more connection, another function in one node; and for each
weight, to be changed. The paper does not print them."""


_BLOCK = 2**16
"""Values of one node that are computed at once, of all graphs and points: those of all nodes then stay in a cache."""


class Genome(NamedTuple):
    """A graph of at most M nodes.

    Attributes:
      places: order of the nodes: 0 of inputs, 1 of outputs, infinite of a node that is not in use.
      functions: of the nodes, numbers of `FUNCTIONS`.
      connected: from each node (row) to each (column).
      weights: of the connections, in [-LIMIT, LIMIT]; anything where there is none.
    """

    places: Float[Array, "*n m"]
    functions: Int[Array, "*n m"]
    connected: Bool[Array, "*n m m"]
    weights: Float[Array, "*n m m"]


@dataclass(frozen=True)
class Cppn:
    """Images drawn by evolving graphs: grey of one channel, or hue, saturation and brightness of three.

    Attributes:
      image_shape: height and width in pixels, and channels, 1 or 3.
      hidden: nodes that evolution may add at most.

    Reference: Stanley, "Compositional pattern producing networks", 2007; as Nguyen, Yosinski & Clune 2015 use them.
    """

    image_shape: tuple[int, int, int]
    hidden: int = 16

    @property
    def nodes(self) -> int:
        """M: inputs, outputs and those in between."""
        return len(INPUTS) + self.image_shape[2] + self.hidden

    def create(self, key: Key[Array, ""]) -> Genome:
        """A random genome: every input connected with every output, and nothing in between."""
        functions_key, weights_key = jax.random.split(key)
        number = jnp.arange(self.nodes)
        last = len(INPUTS) + self.image_shape[2]
        inputs, outputs = number < len(INPUTS), (number >= len(INPUTS)) & (number < last)
        return Genome(
            jnp.where(inputs, 0.0, jnp.where(outputs, 1.0, jnp.inf)),
            jax.random.randint(functions_key, (self.nodes,), 0, len(FUNCTIONS)),
            inputs[:, None] & outputs[None],
            jax.random.uniform(weights_key, (self.nodes, self.nodes), minval=-LIMIT, maxval=LIMIT),
        )

    def mutate(self, key: Key[Array, ""], genome: Genome, generation: Int[Array, ""]) -> Genome:
        """A genome with other weights, and sometimes with a new node, a new connection or another function."""
        keys = jax.random.split(key, 8)
        chances = jax.random.uniform(keys[0], (3,))
        genome = _where(chances[0] < ADD_NODE, add_node(keys[1], genome), genome)
        genome = _where(chances[1] < ADD_CONNECTION, add_connection(keys[2], genome), genome)
        node = _choose(keys[3], jnp.isfinite(genome.places) & (genome.places > 0))
        function = jax.random.randint(keys[4], (), 0, len(FUNCTIONS))
        functions = genome.functions.at[node].set(function)
        functions = jnp.where(chances[2] < CHANGE_FUNCTION, functions, genome.functions)
        weights = polynomial_mutation(keys[5], genome.weights, CHANGE_WEIGHT, low=-LIMIT, high=LIMIT)
        return genome._replace(functions=functions, weights=weights)

    def render(self, genomes: Genome) -> Float[Array, "n h w c"]:
        """The images: what the outputs are at each pixel, from [-1, 1] to [0, 1]; of three as HSB colours.

        Args:
          genomes: of n images.
        """
        height, width, channels = self.image_shape
        outputs = evaluate(genomes, coordinates(height, width), channels)
        values = jnp.clip((outputs + 1) / 2, 0, 1).transpose(0, 2, 1).reshape(-1, *self.image_shape)
        return hsb_to_rgb(values) if channels == 3 else values


def coordinates(height: int, width: int) -> Float[Array, "4 hw"]:
    """The inputs at each pixel: x and y from -1 to 1, the distance to the centre, and 1."""
    y, x = jnp.meshgrid(jnp.linspace(-1, 1, height), jnp.linspace(-1, 1, width), indexing="ij")
    return jnp.stack([x, y, jnp.sqrt(x * x + y * y), jnp.ones_like(x)]).reshape(4, -1)


def evaluate(genomes: Genome, inputs: Float[Array, "i p"], outputs: int) -> Float[Array, "n o p"]:
    """What graphs make of their inputs.

    v_b = f_b(sum_a w_ab v_a), f one of sin t, 2/(1 + exp(-t)) - 1, 2 exp(-t^2) - 1 and t

    Args:
      genomes: of n graphs.
      inputs: values of their first nodes, at P points.
      outputs: how many nodes after them are wanted.
    """
    count, nodes, points = len(inputs), genomes.places.shape[1], inputs.shape[1]
    # From here on nodes are counted by their places, so that all graphs visit the same numbers one after another; the
    # sort is stable, so the inputs stay first.
    order = jnp.argsort(genomes.places)
    weights = jnp.where(genomes.connected, genomes.weights, 0)
    weights = jax.vmap(lambda weights, order: weights[order][:, order])(weights, order).transpose(2, 1, 0)
    functions = jnp.take_along_axis(genomes.functions, order, 1).T
    wanted = jnp.argsort(order)[:, count : count + outputs].T
    last = jnp.isfinite(genomes.places).sum(1).max()

    def at(inputs: Array) -> Array:
        """The outputs [o, n, p] at some of the points."""

        def visit(node: Array, values: Array) -> Array:
            total = (weights[node][:, :, None] * values).sum(0)
            return values.at[node].set(_activate(functions[node], total))

        values = jnp.zeros((nodes, len(order), inputs.shape[1])).at[:count].set(inputs[:, None])
        return jnp.take_along_axis(jax.lax.fori_loop(count, last, visit, values), wanted[:, :, None], 0)

    blocks = -(-points * len(order) // _BLOCK)
    size = -(-points // blocks)
    padded = jnp.pad(inputs, ((0, 0), (0, blocks * size - points)))
    found = jax.lax.map(at, padded.reshape(count, blocks, size).swapaxes(0, 1))
    return found.transpose(2, 1, 0, 3).reshape(len(order), outputs, -1)[..., :points]


def _activate(functions: Int[Array, " n"], t: Float[Array, "n p"]) -> Float[Array, "n p"]:
    """For each row one of `FUNCTIONS`, all with values from -1 to 1 but the linear one."""
    kinds = (jnp.sin(t), jnp.tanh(t / 2), 2 * jnp.exp(-t * t) - 1, t)
    return jax.lax.select_n(jnp.broadcast_to(functions[:, None], t.shape), *kinds)


def hsb_to_rgb(colors: Float[Array, "*n 3"]) -> Float[Array, "*n 3"]:
    """Red, green and blue of hue, saturation and brightness, all in [0, 1].

    channel = b (1 - s clip(min(k, 4 - k), 0, 1)), k = (offset + 6 h) mod 6, offsets 5, 3 and 1

    Reference: Smith, "Color gamut transform pairs", 1978.
    """
    hue, saturation, brightness = (colors[..., i, None] for i in range(3))
    offsets = jnp.asarray([5.0, 3.0, 1.0]).reshape((1,) * (colors.ndim - 1) + (3,))
    k = jnp.mod(offsets + 6 * hue, 6)
    return brightness * (1 - saturation * jnp.clip(jnp.minimum(k, 4 - k), 0, 1))


def add_node(key: Key[Array, ""], genome: Genome) -> Genome:
    """The graph with a node in the middle of a random connection, if there is one and room for the node.

    The first half of the connection gets the weight 1 and the second the old one, and a random function stands between.
    """
    connection_key, function_key = jax.random.split(key)
    nodes = len(genome.places)
    start, end = jnp.divmod(_choose(connection_key, genome.connected.reshape(-1)), nodes)
    node = jnp.argmax(genome.places)  # the first that is not in use
    place = (genome.places[start] + genome.places[end]) / 2
    # Between places that are neighbours among the floating-point numbers there is no third.
    room = jnp.isinf(genome.places[node]) & genome.connected.any()
    room &= (genome.places[start] < place) & (place < genome.places[end])
    function = jax.random.randint(function_key, (), 0, len(FUNCTIONS))
    connected = genome.connected.at[start, end].set(False).at[start, node].set(True).at[node, end].set(True)
    weights = genome.weights.at[start, node].set(1).at[node, end].set(genome.weights[start, end])
    grown = Genome(genome.places.at[node].set(place), genome.functions.at[node].set(function), connected, weights)
    return _where(room, grown, genome)


def add_connection(key: Key[Array, ""], genome: Genome) -> Genome:
    """The graph with a random connection between two nodes that have none, from the lower place to the higher."""
    pair_key, weight_key = jax.random.split(key)
    free = (genome.places[:, None] < genome.places[None]) & jnp.isfinite(genome.places)[None] & ~genome.connected
    start, end = jnp.divmod(_choose(pair_key, free.reshape(-1)), len(genome.places))
    weight = jax.random.uniform(weight_key, (), minval=-LIMIT, maxval=LIMIT)
    connected, weights = genome.connected.at[start, end].set(True), genome.weights.at[start, end].set(weight)
    return _where(free.any(), genome._replace(connected=connected, weights=weights), genome)


def _choose(key: Key[Array, ""], allowed: Bool[Array, " n"]) -> Int[Array, ""]:
    """One of the numbers that are allowed, all alike; 0 if none is."""
    return jnp.argmax(jnp.where(allowed, jax.random.uniform(key, allowed.shape), -1.0))


def _where(condition: Bool[Array, ""], one: Genome, other: Genome) -> Genome:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), one, other)
