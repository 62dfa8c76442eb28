"""Networks of blocks, whose insides the backward pass may compute again instead of keeping them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
from jax import Array

from jaxcnn.layers.image_model import ImageModel


class BlockModel(ImageModel):
    """Base of the networks made of blocks.

    Attributes:
      remat: keep the inputs of every block alone for the backward pass, which computes the block's inside again: the
        same network with the same random choices, in less memory and for about a third more arithmetic. On a CPU, XLA
        merges the two computations, so that there it changes nothing but for blocks that are scanned.

    Reference: Chen, Xu, Zhang & Guestrin, "Training deep nets with sublinear memory cost", 2016.
    """

    remat: bool = False


def run_block(
    block: nn.Module,
    *inputs: Array | None,
    remat: bool,
    call: Callable[..., Array] | None = None,
    **fields: Any,
) -> Array:
    """block(*inputs, **fields), whose inside the backward pass computes again if `remat` is set.

    Args:
      block: a part of the module that is running, or that module itself where `call` is given.
      *inputs: arrays, which are kept for the backward pass, or None.
      remat: see `BlockModel`.
      call: a function of the module, the inputs and the fields, for blocks that are not modules; None calls the module.
      **fields: what the program is compiled for, as `train`.

    Returns:
      What the block returns.
    """

    def run(block: nn.Module, *inputs: Array | None) -> Array:
        return call(block, *inputs, **fields) if call else block(*inputs, **fields)

    return (nn.remat(run) if remat else run)(block, *inputs)
