"""FractalNet: paths of different lengths joined by means, and paths dropped at random (Larsson et al. 2017)."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Int

from jaxcnn.errors import InputError
from jaxcnn.layers import activations
from jaxcnn.layers.activations import Activation
from jaxcnn.layers.batch_norm import BatchNorm
from jaxcnn.layers.blocks import BlockModel, run_block
from jaxcnn.layers.convolution import Conv
from jaxcnn.layers.initializers import glorot_uniform
from jaxcnn.layers.pooling import GlobalAveragePool, MaxPool
from jaxcnn.layers.stochastic_depth import BATCH_RNG
from jaxcnn.models.registration import Facts, Registration

_FACTORS = (1, 2, 4, 8, 8)  # of the width, block by block


class Unit(nn.Module):
    """3x3 convolution, dropout, batch norm, activation."""

    features: int
    dropout: float
    activation: Activation
    dtype: Any
    axis_name: str | None

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        """Maps [N, H, W, C] to [N, H, W, features]."""
        x = Conv(self.features, 3, 1, 1, use_bias=False, kernel_init=glorot_uniform, dtype=self.dtype, name="conv")(x)
        x = nn.Dropout(self.dropout, deterministic=not train, name="dropout")(x)
        x = BatchNorm(axis_name=self.axis_name, dtype=self.dtype, name="norm")(x, train=train)
        return activations.get(self.activation)(x)


def local_paths(key: Array, decisions: int, inputs: int, probability: float) -> Bool[Array, "n inputs"]:
    """Which inputs of a join are kept: each is dropped with the probability, and one at least stays.

    Args:
      key: a typed key.
      decisions: N, the examples, or 1 for all of them together.
      inputs: of the join.
      probability: with which an input is dropped, in [0, 1].

    Returns:
      [N, inputs].
    """
    dropping, saving = jax.random.split(key)
    keep = jax.random.bernoulli(dropping, 1 - probability, (decisions, inputs))
    saved = jax.random.randint(saving, (decisions, 1), 0, inputs) == jnp.arange(inputs).reshape(1, -1)
    return keep | (saved & ~keep.any(axis=1, keepdims=True))


def join(inputs: list[Array], keep: Bool[Array, "n inputs"] | None) -> Array:
    """Elementwise mean of the inputs [N, H, W, C] that each example, or the whole batch, keeps; None keeps all."""
    if keep is None:
        return sum(inputs[1:], inputs[0]) / len(inputs)
    share = (keep / keep.sum(axis=1, keepdims=True)).astype(inputs[0].dtype)
    weighted = [x * share[:, i].reshape(-1, 1, 1, 1) for i, x in enumerate(inputs)]
    return sum(weighted[1:], weighted[0])


class Block(nn.Module):
    """The fractal f_C of units, and 2x2 max pooling.

    f_1(x) = unit(x);  f_{c+1}(x) = join(f_c(f_c(x)), unit(x))

    Written by rows: column c of C, the deepest, has 2^(c-1) units, one every 2^(C-c) rows, and the columns that end in
    the same row are joined. The last join is of the pooled columns.

    Attributes:
      columns: C.
      column: run this column alone, counted from 1, the shortest; 0 runs all and joins them.
      features: output channels.
      dropout: probability with which a convolution's value is dropped in training.
      drop_path: probability with which an input of a join is dropped in training, where paths are dropped locally.
      per_sample: decide for every example.
      activation: after each batch norm.
      dtype: arithmetic.
      axis_name: mapped axis over which batch statistics are synchronised, or None.
    """

    columns: int
    column: int
    features: int
    dropout: float
    drop_path: float
    per_sample: bool
    activation: Activation
    dtype: Any
    axis_name: str | None

    @nn.compact
    def __call__(self, x: Array, chosen: Int[Array, " n"] | None, *, train: bool) -> Array:
        """Maps [N, H, W, C] to [N, H / 2, W / 2, features].

        Args:
          x: the input.
          chosen: the column that each example, or the whole batch, keeps alone, or 0 where paths are dropped locally;
            None keeps all.
          train: whether units drop values and batch norm uses the batch's statistics.

        Returns:
          The joined columns.
        """
        rows = 2 ** (self.columns - 1)
        running = [self.column] if self.column else range(1, self.columns + 1)
        ends = dict.fromkeys(running, x)
        unit = (self.features, self.dropout, self.activation, self.dtype, self.axis_name)
        for row in range(1, rows + 1):
            ending = [c for c in running if row % (rows >> (c - 1)) == 0]
            if not ending:
                continue
            outputs = []
            for c in ending:
                name = f"column{c}_unit{row * 2 ** (c - 1) // rows}"
                outputs.append(Unit(*unit, name=name)(ends[c], train=train))
                if row == rows:
                    outputs[-1] = MaxPool(2, name=f"column{c}_pool")(outputs[-1])
            joined = join(outputs, self._keep(ending, chosen)) if len(ending) > 1 else outputs[0]
            ends |= dict.fromkeys(ending, joined)
        return ends[running[-1]]

    def _keep(self, columns: list[int], chosen: Array | None) -> Array | None:
        if chosen is None:
            return None
        key = self.make_rng("dropout" if self.per_sample else BATCH_RNG)
        local = local_paths(key, len(chosen), len(columns), self.drop_path)
        alone = chosen.reshape(-1, 1) == jnp.array(columns).reshape(1, -1)
        # A join without the chosen column lies on none of that column's path: nothing it passes on is kept.
        return jnp.where((chosen > 0).reshape(-1, 1) & alone.any(axis=1, keepdims=True), alone, local)


class FractalNet(BlockModel):
    """Five fractal blocks with 1, 2, 4, 8 and 8 times `width` channels, each closed by 2x2 max pooling, and linear.

    Attributes:
      columns: C; the deepest path has 5 * 2^(C-1) convolutions.
      width: channels of the first block.
      column: in inference, take this column of every block alone, counted from 1, the shortest; 0 takes all. The
        deepest one alone is the paper's plain network.
      dropout: probability with which a value is dropped in the last block in training; from none in the first block it
        grows by equal steps.
      drop_path: probability with which an input of a join is dropped in training; one at least always stays.
      global_share: share of the training steps, in [0, 1], in which one column of the network is kept alone instead.
      per_sample: draw the paths for every example instead of once for the batch, which is the published form. What
        other examples send through a path then enters its batch statistics.
      activation: after each batch norm.
    """

    columns: int = 3
    width: int = 64
    column: int = 0
    dropout: float = 0.4
    drop_path: float = 0.15
    global_share: float = 0.5
    per_sample: bool = False
    activation: Activation = "relu"

    def __post_init__(self) -> None:
        """Checks the column and the probabilities."""
        if not 0 <= self.column <= self.columns:
            raise InputError(f"column is {self.column}; expected 1 to {self.columns}, or 0 for all")
        for name, value in (("drop_path", self.drop_path), ("global_share", self.global_share)):
            if not 0 <= value <= 1:
                raise InputError(f"{name} is {value}; expected a probability in [0, 1]")
        super().__post_init__()

    @nn.compact
    def __call__(self, images: ArrayLike, *, train: bool) -> Array:
        """Maps images [N, H, W, C], at least 32 pixels a side and in [0, 1], to logits [N, num_classes]."""
        x = self.standardize(images)
        chosen = None
        if train and not self.is_initializing():
            sharing, choosing = jax.random.split(self.make_rng("dropout" if self.per_sample else BATCH_RNG))
            decisions = (len(x) if self.per_sample else 1,)
            chosen = jax.random.randint(choosing, decisions, 1, self.columns + 1)
            chosen = jnp.where(jax.random.bernoulli(sharing, self.global_share, decisions), chosen, 0)
        column = 0 if train or self.is_initializing() else self.column
        for i, factor in enumerate(_FACTORS):
            dropout = self.dropout * i / (len(_FACTORS) - 1)
            fields = (dropout, self.drop_path, self.per_sample, self.activation, self.dtype, self.axis_name)
            block = Block(self.columns, column, factor * self.width, *fields, name=f"block{i + 1}")
            x = run_block(block, x, chosen, remat=self.remat, train=train)
        x = GlobalAveragePool(name="average")(x)
        return nn.Dense(self.num_classes, kernel_init=glorot_uniform, name="head")(x.astype(jnp.float32))


def _register(columns: int, width: int, counts: tuple[int, int], printed: str, accuracy: str, differs: str) -> Any:
    return Registration(
        FractalNet,
        Facts(
            paper="Larsson, Maire & Shakhnarovich, FractalNet: ultra-deep neural networks without residuals",
            year=2017,
            input_shape=(32, 32, 3),
            num_classes=10,
            parameters=counts[0],
            multiply_adds=counts[1],
            accuracy=accuracy,
            published_parameters=printed,
            smallest=32,
            differs=differs,
        ),
        {"columns": columns, "width": width},
    )


_JOIN = "As in the paper's experiments, the last join of a block comes after the max pooling. "

MODELS = {
    "fractalnet20": _register(
        3,
        64,
        (33_724_618, 845_222_912),
        "38.6 million",
        "CIFAR-10 test error 4.60 %, CIFAR-100 23.73 %, all columns; 400 epochs, translation and mirroring (table 1)",
        f"{_JOIN}These five blocks of 64, 128, 256, 512 and 512 channels, as the paper lists them, have 33.7 million "
        "parameters and not the 38.6 million that it prints, as other implementations have found too; it would be "
        "38.6 million if 1x1 convolutions changed the channels before the blocks. Its counts for the networks of "
        "width 16 with 1 to 6 columns agree with this form.",
    ),
    "fractalnet40": _register(
        4,
        32,
        (19_040_714, 510_790_144),
        "22.9 million",
        "none for this network: the paper's table 1 has a 40-layer net of 22.9 million parameters",
        f"{_JOIN}Four columns; the paper reduces the channels, by how much is not certain: half of those of 20 layers "
        "here, 19.1 million parameters where 22.9 million are printed.",
    ),
}
