"""Coordinates in which an image is sought: pixels, frequencies, or the principal components of other images.

A parametrisation is a linear map from parameters z to an image, x = clip(mean + A z). Where A A^T is the covariance of
natural images, a gradient step in z is one in x that is smoothed as they are: it favours what they hold over the
high frequencies that a network sees and nobody else does.

Images are clipped rather than passed through a sigmoid: mean and covariance are those of pixels, the black of a digit
is reached exactly, and a given image has parameters. Where a pixel is clipped, the gradient passes if it points back.
"""

from __future__ import annotations

import abc
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import register_dataclass
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Key

from jaxcnn.analysis.checks import checked_images
from jaxcnn.errors import InputError

CONTRAST = 0.25
"""Standard deviation of a channel over natural images in [0, 1], about, where no images say it."""


class Parametrization(abc.ABC):
    """How parameters z [n, ...] make images [n, H, W, C].

    Attributes:
      shape: height and width in pixels, and channels.
      mean: the image of zeros, an array [1, 1, C] or [H, W, C].
    """

    shape: tuple[int, int, int]
    mean: Any  # JAX rebuilds pytrees around placeholders

    @property
    @abc.abstractmethod
    def parameter_shape(self) -> tuple[int, ...]:
        """The shape of one image's parameters."""

    @abc.abstractmethod
    def spread(self, parameters: Float[Array, "n ..."]) -> Float[Array, "n h w c"]:
        """A z."""

    @abc.abstractmethod
    def gather(self, deviations: Float[Array, "n h w c"]) -> Float[Array, "n ..."]:
        """The z, the smallest if there are several, whose A z is nearest to deviations from the mean."""

    def __call__(self, parameters: Float[Array, "n ..."]) -> Float[Array, "n h w c"]:
        """The images, in [0, 1]."""
        return clipped(jnp.asarray(self.mean)[None] + self.spread(parameters))

    def of(self, images: ArrayLike) -> Float[Array, "n ..."]:
        """The parameters of images, or of those nearest to them.

        Args:
          images: floats [N, H, W, C] in [0, 1], of its shape.

        Raises:
          InputError: they are of another shape or range.
        """
        pixels = checked_images(images)
        if pixels.shape[1:] != self.shape:
            raise InputError(f"images have shape {pixels.shape}; expected [N, {', '.join(map(str, self.shape))}]")
        return self.gather(pixels - jnp.asarray(self.mean)[None])

    def drawn(self, key: Key[Array, ""], count: int, deviation: float) -> Float[Array, "n ..."]:
        """Random parameters; those of the first images do not depend on how many there are.

        Args:
          key: decides them.
          count: n.
          deviation: standard deviation.
        """
        keys = jax.vmap(partial(jax.random.fold_in, key))(jnp.arange(count))
        return deviation * jax.vmap(lambda one: jax.random.normal(one, self.parameter_shape))(keys)


@jax.custom_vjp
def clipped(values: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """min(max(x, 0), 1), of which a derivative to be ascended passes outside [0, 1] where it points back inside.

    Args:
      values: x.
    """
    return jnp.clip(values, 0, 1)


clipped.defvjp(
    lambda x: (jnp.clip(x, 0, 1), x),
    lambda x, g: (jnp.where(((x < 0) & (g < 0)) | ((x > 1) & (g > 0)), 0, g),),
)


@partial(register_dataclass, data_fields=["mean", "deviation"], meta_fields=["shape"])
@dataclass(frozen=True)
class Pixels(Parametrization):
    """x = mean + deviation z, pixel by pixel.

    Attributes:
      shape: height and width in pixels, and channels.
      mean: [1, 1, C].
      deviation: a number.
    """

    shape: tuple[int, int, int]
    mean: Any
    deviation: Any

    @property
    def parameter_shape(self) -> tuple[int, ...]:
        """[H, W, C]."""
        return self.shape

    def spread(self, parameters: Float[Array, "n ..."]) -> Float[Array, "n h w c"]:
        """Deviation z."""
        return self.deviation * parameters

    def gather(self, deviations: Float[Array, "n h w c"]) -> Float[Array, "n ..."]:
        """The deviations over the deviation."""
        return deviations / self.deviation


@partial(register_dataclass, data_fields=["mean", "amplitudes", "colors"], meta_fields=["shape"])
@dataclass(frozen=True)
class Fourier(Parametrization):
    """Waves of decorrelated colours.

    x_ij = mean + colors F^-1(amplitudes z)_ij, F the orthonormal Fourier transform

    Attributes:
      shape: height and width in pixels, and channels.
      mean: [1, 1, C].
      amplitudes: [H, W // 2 + 1, C], positive, for each wave and decorrelated colour: what standard normal real and
        imaginary parts are multiplied by, so that the coefficients of the whole plane spread as they are to.
      colors: [C, C], a decorrelated colour in each column.
    """

    shape: tuple[int, int, int]
    mean: Any
    amplitudes: Any
    colors: Any

    @property
    def parameter_shape(self) -> tuple[int, ...]:
        """Real and imaginary parts of the half plane's coefficients, [2, H, W // 2 + 1, C]."""
        height, width, channels = self.shape
        return 2, height, width // 2 + 1, channels

    def spread(self, parameters: Float[Array, "n ..."]) -> Float[Array, "n h w c"]:
        """The waves' sum, in colour."""
        scaled = self.amplitudes[None] * parameters[:, 0], self.amplitudes[None] * parameters[:, 1]
        planes = jnp.fft.irfft2(jax.lax.complex(*scaled), s=self.shape[:2], axes=(1, 2), norm="ortho")
        return jnp.einsum("nhwk,ck->nhwc", planes, self.colors, precision="highest")

    def gather(self, deviations: Float[Array, "n h w c"]) -> Float[Array, "n ..."]:
        """The coefficients."""
        planes = jnp.einsum("nhwc,kc->nhwk", deviations, jnp.linalg.inv(self.colors), precision="highest")
        waves = jnp.fft.rfft2(planes, axes=(1, 2), norm="ortho") / self.amplitudes[None]
        return jnp.stack([waves.real, waves.imag], 1)


@partial(register_dataclass, data_fields=["mean", "components"], meta_fields=["shape"])
@dataclass(frozen=True)
class Principal(Parametrization):
    """x = mean + sum_k z_k components_k, orthogonal images as long as other images spread along them.

    Attributes:
      shape: height and width in pixels, and channels.
      mean: [H, W, C].
      components: [K, H, W, C].
    """

    shape: tuple[int, int, int]
    mean: Any
    components: Any

    @property
    def parameter_shape(self) -> tuple[int, ...]:
        """[K]."""
        return (len(self.components),)

    def spread(self, parameters: Float[Array, "n ..."]) -> Float[Array, "n h w c"]:
        """The components' sum."""
        return jnp.einsum("nk,khwc->nhwc", parameters, self.components, precision="highest")

    def gather(self, deviations: Float[Array, "n h w c"]) -> Float[Array, "n ..."]:
        """The projections on the components, relative to their lengths."""
        lengths = jnp.square(self.components).sum((1, 2, 3))
        return jnp.einsum("nhwc,khwc->nk", deviations, self.components, precision="highest") / lengths[None]


def pixels(shape: tuple[int, int, int], *, mean: ArrayLike = 0.5) -> Pixels:
    """Pixels by themselves, with nothing to say which images are natural.

    Args:
      shape: height and width in pixels, and channels.
      mean: grey level or colour [C] to begin with, in [0, 1].

    Raises:
      InputError: the shape is not positive, or the mean does not fit it.
    """
    return Pixels(_checked(shape), _color(mean, shape), np.float32(CONTRAST))


def fourier(
    shape: tuple[int, int, int], *, decay: float = 1.0, covariance: ArrayLike | None = None, mean: ArrayLike = 0.5
) -> Fourier:
    """Waves whose amplitudes fall with their frequency, as those of photographs do.

    amplitude = 1 / max(f, 1 / max(H, W))^decay, f in cycles for each pixel, scaled so that the pixels of a standard
    normal z have the covariance

    Args:
      shape: height and width in pixels, and channels.
      decay: 1 for photographs; 0 is white noise.
      covariance: [C, C] of colours, see `color_covariance`; None are independent channels of deviation `CONTRAST`.
      mean: grey level or colour [C] to begin with, in [0, 1].

    Raises:
      InputError: the shape is not positive, or mean or covariance do not fit it.

    Reference: Olah, Mordvintsev & Schubert, "Feature visualization", 2017, section "Preconditioning and
    parameterization".
    """
    height, width, channels = _checked(shape)
    spread = np.diag([CONTRAST**2] * channels) if covariance is None else np.asarray(covariance, np.float64)
    if spread.shape != (channels, channels) or not np.isfinite(spread).all() or not np.allclose(spread, spread.T):
        raise InputError(f"covariance is {spread.tolist()}; expected a symmetric matrix of {channels} channels")
    amplitudes = np.maximum(_frequencies(height, width), 1 / max(height, width)) ** -decay
    amplitudes *= np.sqrt(height * width / (amplitudes**2 * _multiplicity(height, width)).sum())
    whole = np.repeat(_parts(amplitudes[..., None], _multiplicity(height, width)), channels, -1)
    return Fourier(shape, _color(mean, shape), _single(whole), _single(_root(spread)))


def vivid(space: Fourier, factor: float) -> Fourier:
    """The same waves in stronger colours, which the objects that classes are named after have, and photographs seldom.

    colors <- E diag(1, factor, ...) E^T colors, where the first column of E is how colours differ most: in lightness

    Args:
      space: the waves.
      factor: what the deviations of all other colours are multiplied by, positive.

    Raises:
      InputError: the factor is not positive and finite.
    """
    if not 0 < factor < float("inf"):
        raise InputError(f"factor is {factor}; expected a positive finite number")
    colors = np.asarray(space.colors, np.float64)
    spreads = colors * np.sqrt(np.square(np.asarray(space.amplitudes, np.float64)).mean((0, 1)))
    squares, vectors = np.linalg.eigh(spreads @ spreads.T)
    stretch = np.where(np.arange(len(squares)) == len(squares) - 1, 1.0, factor)
    return replace(space, colors=_single(vectors * stretch @ vectors.T @ colors))


def spectrum(images: ArrayLike) -> Fourier:
    """Waves and colours as images have them: their mean colour, principal colours, and each one's power spectrum.

    Args:
      images: floats [N, H, W, C] in [0, 1]; a few photographs are enough, as powers of one frequency are averaged over
        all directions.

    Raises:
      InputError: they are of another shape or range, or all alike.

    Reference: Field, "Relations between the statistics of natural images and the response properties of cortical
    cells", 1987.
    """
    sample = _sample(images)
    _, height, width, channels = sample.shape
    mean = sample.mean((0, 1, 2))
    _, colors = np.linalg.eigh(color_covariance(sample))
    power = np.zeros((height, width // 2 + 1, channels))
    for image in sample:
        power += np.abs(np.fft.rfft2((image - mean) @ colors, axes=(0, 1), norm="ortho")) ** 2
    power /= len(sample)
    ring = np.rint(_frequencies(height, width) * max(height, width)).astype(int)
    counts = np.bincount(ring.ravel(), _multiplicity(height, width).ravel())
    for k in range(channels):
        weighted = power[..., k] * _multiplicity(height, width)
        power[..., k] = (np.bincount(ring.ravel(), weighted.ravel()) / np.maximum(counts, 1))[ring]
    # What images never hold gets a thousandth of the largest amplitude, so that any image has parameters.
    amplitudes = _parts(np.sqrt(np.maximum(power, 1e-6 * power.max())), _multiplicity(height, width))
    return Fourier((height, width, channels), _color(mean, sample.shape[1:]), _single(amplitudes), _single(colors))


def principal(images: ArrayLike, components: int | None = None) -> Principal:
    """Principal components of images, so that a standard normal z has the images' own mean and covariance.

    x = mean + C^(1/2) z, C = E diag(s^2) E^T, components s_k e_k

    Args:
      images: floats [N, H, W, C] in [0, 1], more than one; as many as there are pixels, or more.
      components: how many, the largest first; None is all in which the images differ.

    Raises:
      InputError: they are of another shape or range, or all alike, or there are not as many components.
    """
    sample = _sample(images)
    shape = sample.shape[1:]
    flat = sample.reshape(len(sample), -1)
    mean = flat.mean(0)
    flat -= mean
    # The smaller of the two matrices of products.
    wide = len(flat) < flat.shape[1]
    products = (flat @ flat.T if wide else flat.T @ flat) / (len(flat) - 1)
    squares, vectors = (values[..., ::-1] for values in np.linalg.eigh(products))
    rank = int((squares > 1e-7 * squares[0]).sum())
    if components is not None and not 1 <= components <= rank:
        raise InputError(f"components is {components}; expected 1 to {rank}, in which the images differ")
    kept = rank if components is None else components
    if wide:
        basis = (flat.T @ vectors[:, :kept] / np.sqrt(len(flat) - 1)).T
    else:
        basis = (vectors[:, :kept] * np.sqrt(squares[:kept])).T
    return Principal(shape, _single(mean.reshape(shape)), _single(basis.reshape(kept, *shape)))


def color_covariance(images: ArrayLike) -> Float[np.ndarray, "c c"]:
    """The covariance of the channels over all pixels of images.

    Args:
      images: floats [N, H, W, C] in [0, 1].

    Raises:
      InputError: they are of another shape or range.
    """
    colors = np.asarray(checked_images(images), np.float64).reshape(-1, np.shape(images)[-1])
    return np.atleast_2d(np.cov(colors, rowvar=False, bias=True))


def _sample(images: ArrayLike) -> Float[np.ndarray, "n h w c"]:
    sample = np.asarray(checked_images(np.asarray(images, np.float32)), np.float64)
    if not np.ptp(sample, axis=0).any():
        raise InputError(f"the {len(sample)} images are all alike; expected images that differ")
    return sample


def _checked(shape: tuple[int, int, int]) -> tuple[int, int, int]:
    if len(shape) != 3 or min(shape) < 1:
        raise InputError(f"shape is {shape}; expected height, width and channels, each at least 1")
    return shape


def _color(mean: ArrayLike, shape: tuple[int, ...]) -> Float[np.ndarray, "1 1 c"]:
    values = np.asarray(mean, np.float32)
    if values.shape not in ((), (1,), shape[-1:]) or not (values.min() >= 0 and values.max() <= 1):
        raise InputError(f"mean is {values.tolist()}; expected a grey level or {shape[-1]} values, in [0, 1]")
    return np.broadcast_to(values, shape[-1:]).reshape(1, 1, -1)


def _frequencies(height: int, width: int) -> Float[np.ndarray, "h half"]:
    """Of the half plane's waves, in cycles for each pixel."""
    return np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])


def _multiplicity(height: int, width: int) -> Float[np.ndarray, "h half"]:
    """How many waves of the whole plane each one of the half plane stands for."""
    counts = np.full((height, width // 2 + 1), 2.0)
    counts[:, 0] = 1
    if width % 2 == 0:
        counts[:, -1] = 1
    return counts


def _parts(
    amplitudes: Float[np.ndarray, "h half c"], multiplicity: Float[np.ndarray, "h half"]
) -> Float[np.ndarray, "h half c"]:
    """What spreads real and imaginary parts so that the coefficients of the whole plane have the amplitudes.

    A wave that stands for its mirror image too has the square of its amplitude in two parts. Where both are in the half
    plane, what counts is the mean of one and the other mirrored, which has half of the square.
    """
    return amplitudes / np.sqrt(multiplicity)[..., None]


def _root(covariance: np.ndarray) -> np.ndarray:
    """The symmetric square root."""
    squares, vectors = np.linalg.eigh(covariance)
    return vectors * np.sqrt(np.maximum(squares, 1e-6 * squares[-1])) @ vectors.T


def _single(values: np.ndarray) -> Float[np.ndarray, ...]:
    return np.asarray(values, np.float32)
