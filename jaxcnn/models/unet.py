"""U-Net: a class for every pixel, from a contracting and an expanding path (2015)."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jaxcnn.errors import InputError, unknown_name
from jaxcnn.layers import activations
from jaxcnn.layers.activations import Activation
from jaxcnn.layers.blocks import BlockModel, run_block
from jaxcnn.layers.convolution import Conv
from jaxcnn.layers.initializers import he_normal
from jaxcnn.layers.pooling import MaxPool
from jaxcnn.layers.up_convolution import UpConv
from jaxcnn.models.registration import Facts, Registration, TorchNames

# Of each kind of padding: zeros around an image, the remainder of a side on division by 16, and the least side.
_PADDING = {"valid": (0, 12, 188), "same": (1, 0, 16)}


def _crop(x: Array, size: tuple[int, ...]) -> Array:
    """The centre of [N, H, W, C]."""
    top, left = ((n - m) // 2 for n, m in zip(x.shape[1:3], size, strict=True))
    return x[:, top : top + size[0], left : left + size[1]]


class UNet(BlockModel):
    """Four times two 3x3 convolutions and pooling, two more, and four times up-convolution, a copy and two more.

    Each up-convolution's output is concatenated with the cropped map of the same scale from the contracting path. The
    logits are of pixels: with "valid" padding of the centre, 184 pixels less than the image has on a side, and with
    "same" of all.

    Attributes:
      features: filters at full scale; they double with every pooling.
      padding: "valid", as published, for sides of 16 n + 12 pixels from 188 on; "same" for multiples of 16.
      dropout: probability with which a value at the two smallest scales of the contracting path is dropped in training.
      activation: after every 3x3 convolution.
    """

    features: int = 64
    padding: str = "valid"
    dropout: float = 0.5
    activation: Activation = "relu"

    @nn.compact
    def __call__(self, images: ArrayLike, *, train: bool) -> Array:
        """Maps images [N, H, W, C] in [0, 1] to logits [N, H', W', num_classes].

        Raises:
          InputError: a side that cannot be halved four times, or an unknown padding.
        """
        if self.padding not in _PADDING:
            raise unknown_name("padding", self.padding, _PADDING)
        zeros, remainder, least = _PADDING[self.padding]
        x = self.standardize(images)
        if any(n < least or n % 16 != remainder for n in x.shape[1:3]):
            raise InputError(
                f"unet with {self.padding} padding got images of {x.shape[1]}x{x.shape[2]}; expected sides of "
                f"{'16 n + 12' if remainder else '16 n'} pixels, at least {least}, so that every pooled map has even "
                "ones"
            )

        def convolve(model: UNet, x: Array, *, level: int, name: str) -> Array:
            for i in (1, 2):
                fields = {"kernel_init": he_normal, "dtype": model.dtype, "name": f"{name}{level}_conv{i}"}
                x = Conv(model.features * 2 ** (level - 1), 3, padding=zeros, **fields)(x)
                x = activations.get(model.activation)(x)
            return x

        copies = []
        for level in (1, 2, 3, 4, 5):
            x = run_block(self, x, remat=self.remat, call=convolve, level=level, name="down")
            if level > 3:
                x = nn.Dropout(self.dropout, deterministic=not train)(x)
            if level < 5:
                copies.append(x)
                x = MaxPool(2, name=f"pool{level}")(x)
        for level in (4, 3, 2, 1):
            x = UpConv(self.features * 2 ** (level - 1), dtype=self.dtype, name=f"up{level}")(x)
            x = activations.get(self.activation)(x)
            x = jnp.concatenate([x, _crop(copies[level - 1], x.shape[1:3])], axis=-1)
            x = run_block(self, x, remat=self.remat, call=convolve, level=level, name="up")
        return Conv(self.num_classes, 1, kernel_init=he_normal, name="head")(x.astype(jnp.float32))


MODELS = {
    "unet": Registration(
        UNet,
        Facts(
            paper="Ronneberger, Fischer & Brox, U-Net: Convolutional networks for biomedical image segmentation",
            year=2015,
            input_shape=(572, 572, 1),
            num_classes=2,
            parameters=31_030_658,
            multiply_adds=150_428_424_448,
            accuracy="Intersection over union 0.9203 on PhC-U373 and 0.7756 on DIC-HeLa, ISBI cell tracking challenge "
            "2015 (table 2)",
            smallest=188,
            differs="Many later versions pad with zeros, so that all pixels get a class (here with padding set to "
            "same), or add batch normalisation, which is neither published nor here. The paper does not say where its "
            "dropout stands, that ReLUs follow the up-convolutions, or in which order maps are concatenated: the two "
            "smallest scales of the contracting path, and the upsampled map first, are the authors' Caffe definition.",
        ),
        torch_names=TorchNames(transposed=("up1", "up2", "up3", "up4")),
    ),
}
