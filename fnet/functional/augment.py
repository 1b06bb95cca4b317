"""Augmentation on the device: jittable functions (key, images) -> images, each image with random numbers of its own.

Images are (batch, height, width, channels), uint8 of 0 to 255 or floats of 0 to 1; the dtype is kept. The loader's
transforms do the same on the CPU, in numpy. For pure input pipelines, fold the step into the key:
`key = jax.random.fold_in(key, step)`.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from fnet.functional.embedding import one_hot


def random_flip(key: jax.Array, images: ArrayLike, p: float = 0.5, *, vertical: bool = False) -> jax.Array:
    """Mirror each image with probability p: left and right, or top and bottom with vertical=True.

    >>> images = jnp.arange(4.0).reshape(1, 1, 4, 1)
    >>> random_flip(jax.random.key(0), images, 1.0).ravel()
    Array([3., 2., 1., 0.], dtype=float32)
    """
    images = _check(images, "random_flip")
    _check_probability(p, "random_flip")
    flip = jax.random.bernoulli(key, p, (len(images), 1, 1, 1))
    return jnp.where(flip, jnp.flip(images, 1 if vertical else 2), images)


def random_crop(
    key: jax.Array,
    images: ArrayLike,
    size: int | tuple[int, int] | None = None,
    padding: int = 0,
    *,
    padding_mode: str = "constant",
    fill: float = 0.0,
) -> jax.Array:
    """Cut a random part out of each image, after adding a border.

    Args:
        key: a key of its own for each call.
        images: (batch, height, width, channels).
        size: of the result, one integer for a square, or (height, width); None for the size of the images.
        padding: width of the border on all sides.
        padding_mode: "constant", "edge", "reflect" or "symmetric", as in jnp.pad.
        fill: of "constant", in the images' unit.

    Raises ValueError where the padded image is smaller than size.

    >>> random_crop(jax.random.key(0), jnp.ones((2, 32, 32, 3)), padding=4).shape
    (2, 32, 32, 3)
    """
    images = _check(images, "random_crop")
    n, height, width, channels = images.shape
    h, w = (height, width) if size is None else (size, size) if isinstance(size, int) else size
    rows, columns = height + 2 * padding - h, width + 2 * padding - w
    if rows < 0 or columns < 0:
        raise ValueError(
            f"random_crop: images of {height} x {width} with padding {padding} are smaller than the crop of {h} x {w}"
        )
    widths = [(0, 0), (padding, padding), (padding, padding), (0, 0)]
    options = {"constant_values": fill} if padding_mode == "constant" else {}
    padded = jnp.pad(images, widths, padding_mode, **options)
    row_key, column_key = jax.random.split(key)
    top = jax.random.randint(row_key, (n,), 0, rows + 1)
    left = jax.random.randint(column_key, (n,), 0, columns + 1)
    return jax.vmap(lambda x, y0, x0: jax.lax.dynamic_slice(x, (y0, x0, 0), (h, w, channels)))(padded, top, left)


def cutout(key: jax.Array, images: ArrayLike, size: int, value: float = 0.0) -> jax.Array:
    """Write `value` into a square of each image, whose centre is anywhere in it (DeVries and Taylor 2017,
    arXiv:1708.04552); the square is cut off at the edges.

    >>> int((cutout(jax.random.key(0), jnp.ones((1, 8, 8, 1)), 2) == 0).sum())
    4
    """
    images = _check(images, "cutout")
    if size < 1:
        raise ValueError(f"cutout: size must be at least 1, got {size}")
    n, height, width, _ = images.shape
    row_key, column_key = jax.random.split(key)
    top = jax.random.randint(row_key, (n,), 0, height) - size // 2
    left = jax.random.randint(column_key, (n,), 0, width) - size // 2
    inside = _inside(height, width, top, left, top + size, left + size)
    return jnp.where(inside, jnp.asarray(value, images.dtype), images)


def random_erasing(
    key: jax.Array,
    images: ArrayLike,
    p: float = 0.5,
    scale: tuple[float, float] = (0.02, 0.33),
    ratio: tuple[float, float] = (0.3, 3.3),
    value: float = 0.0,
) -> jax.Array:
    """Erase a rectangle of random area and shape in each image, with probability p (Zhong et al. 2017,
    arXiv:1708.04896). `scale` is a range of areas as fractions of the image's, `ratio` one of height over width, which
    is drawn evenly on a log scale. A side that would be longer than the image's is cut to it.

    >>> erased = random_erasing(jax.random.key(0), jnp.ones((1, 32, 32, 3)), p=1.0)
    >>> bool(0.02 < 1 - erased.mean() < 0.35)
    True
    """
    images = _check(images, "random_erasing")
    _check_probability(p, "random_erasing")
    n, height, width, _ = images.shape
    keys = jax.random.split(key, 5)
    area = height * width * jax.random.uniform(keys[0], (n,), minval=scale[0], maxval=scale[1])
    aspect = jnp.exp(jax.random.uniform(keys[1], (n,), minval=jnp.log(ratio[0]), maxval=jnp.log(ratio[1])))
    h = jnp.minimum(jnp.round(jnp.sqrt(area * aspect)), height).astype(jnp.int32)
    w = jnp.minimum(jnp.round(jnp.sqrt(area / aspect)), width).astype(jnp.int32)
    top = jax.random.randint(keys[2], (n,), 0, height - h + 1)
    left = jax.random.randint(keys[3], (n,), 0, width - w + 1)
    chosen = jax.random.bernoulli(keys[4], p, (n, 1, 1, 1))
    inside = _inside(height, width, top, left, top + h, left + w)
    return jnp.where(chosen & inside, jnp.asarray(value, images.dtype), images)


def color_jitter(
    key: jax.Array,
    images: ArrayLike,
    brightness: float = 0.0,
    contrast: float = 0.0,
    saturation: float = 0.0,
    hue: float = 0.0,
) -> jax.Array:
    """Change brightness, contrast, saturation and hue of each image, as torchvision's ColorJitter does.

    A strength v draws a factor of max(0, 1 - v) to 1 + v; hue turns by -hue to hue of the circle, hue at most 0.5. The
    order is fixed (brightness, contrast, saturation, hue): torchvision's is random, which in one compiled program
    would cost every order. Results are clipped to 0 to 1 (0 to 255). Images need 1 or 3 channels, and those of 1 have
    no saturation and hue to change.

    >>> grey = jnp.full((2, 4, 4, 3), 0.5)
    >>> bool(jnp.allclose(color_jitter(jax.random.key(0), grey, hue=0.5), grey))
    True
    """
    images = _check(images, "color_jitter")
    if min(brightness, contrast, saturation, hue) < 0 or hue > 0.5:
        raise ValueError(
            f"color_jitter: strengths must not be negative and hue at most 0.5, got brightness={brightness}, "
            f"contrast={contrast}, saturation={saturation}, hue={hue}"
        )
    if images.shape[-1] not in (1, 3):
        raise ValueError(f"color_jitter: takes images of 1 or 3 channels, got shape {images.shape}")
    keys = jax.random.split(key, 4)
    x = _to_unit(images)

    def factor(number: int, strength: float) -> jax.Array:
        low = max(0.0, 1.0 - strength)
        return jax.random.uniform(keys[number], (len(x), 1, 1, 1), x.dtype, low, 1.0 + strength)

    if brightness:
        x = jnp.clip(x * factor(0, brightness), 0, 1)
    if contrast:
        x = _blend(x, _grey(x).mean((1, 2, 3), keepdims=True), factor(1, contrast))
    if saturation and x.shape[-1] == 3:
        x = _blend(x, _grey(x), factor(2, saturation))
    if hue and x.shape[-1] == 3:
        x = _turn_hue(x, jax.random.uniform(keys[3], (len(x), 1, 1), x.dtype, -hue, hue))
    return _from_unit(x, images.dtype)


def mixup(
    key: jax.Array, images: ArrayLike, labels: ArrayLike, alpha: float = 1.0, num_classes: int | None = None
) -> tuple[jax.Array, jax.Array]:
    """Blend each image with the one before it in the batch, and the labels alike (Zhang et al. 2017, arXiv:1710.09412).

    Args:
        key: a key of its own for each call.
        images: (batch, height, width, channels).
        labels: integers (batch,), which need num_classes, or soft labels (batch, num_classes).
        alpha: each image keeps a part from Beta(alpha, alpha); small values leave most images almost whole.
        num_classes: of integer labels.

    Returns:
        images of the same dtype, and soft labels (batch, num_classes) for cross_entropy.

    >>> images = jnp.stack([jnp.zeros((2, 2, 1)), jnp.ones((2, 2, 1))])
    >>> mixed, labels = mixup(jax.random.key(0), images, jnp.array([0, 1]), num_classes=2)
    >>> bool(jnp.allclose(mixed[:, 0, 0, 0], labels[:, 1]))
    True
    """
    images = _check(images, "mixup")
    soft = _soft(labels, len(images), num_classes, alpha, "mixup")
    kept = jax.random.beta(key, alpha, alpha, (len(images),), soft.dtype)
    x = _to_unit(images)
    share = kept.astype(x.dtype)[:, None, None, None]
    mixed = share * x + (1 - share) * jnp.roll(x, 1, 0)
    return _from_unit(mixed, images.dtype), _mix_labels(soft, kept)


def cutmix(
    key: jax.Array, images: ArrayLike, labels: ArrayLike, alpha: float = 1.0, num_classes: int | None = None
) -> tuple[jax.Array, jax.Array]:
    """Paste a rectangle of the image before it into each image of a batch (Yun et al. 2019, arXiv:1905.04899).

    The rectangle has the image's proportions, and its centre anywhere; it is cut off at the edges, and the labels
    follow the area that was really pasted. Arguments and results are those of `mixup`.

    >>> images = jnp.stack([jnp.zeros((8, 8, 1)), jnp.ones((8, 8, 1))])
    >>> mixed, labels = cutmix(jax.random.key(0), images, jnp.array([0, 1]), num_classes=2)
    >>> bool(jnp.allclose(mixed.mean((1, 2, 3)), labels[:, 1]))
    True
    """
    images = _check(images, "cutmix")
    n, height, width, _ = images.shape
    soft = _soft(labels, n, num_classes, alpha, "cutmix")
    beta_key, row_key, column_key = jax.random.split(key, 3)
    half = 0.5 * jnp.sqrt(1 - jax.random.beta(beta_key, alpha, alpha, (n,), soft.dtype))
    y, x = jax.random.randint(row_key, (n,), 0, height), jax.random.randint(column_key, (n,), 0, width)
    dy, dx = (half * height).astype(jnp.int32), (half * width).astype(jnp.int32)
    top, bottom = jnp.clip(y - dy, 0, height), jnp.clip(y + dy, 0, height)
    left, right = jnp.clip(x - dx, 0, width), jnp.clip(x + dx, 0, width)
    inside = _inside(height, width, top, left, bottom, right)
    kept = 1 - ((bottom - top) * (right - left)).astype(soft.dtype) / (height * width)
    return jnp.where(inside, jnp.roll(images, 1, 0), images), _mix_labels(soft, kept)


def _check(images: ArrayLike, where: str) -> jax.Array:
    images = jnp.asarray(images)
    if images.ndim != 4:
        raise ValueError(f"{where}: takes images (batch, height, width, channels), got shape {images.shape}")
    if images.dtype != jnp.uint8 and not jnp.issubdtype(images.dtype, jnp.floating):
        raise TypeError(f"{where}: takes uint8 images of 0 to 255 or floats, got {images.dtype}")
    return images


def _check_probability(p: float, where: str) -> None:
    if not isinstance(p, jax.core.Tracer) and not 0 <= p <= 1:
        raise ValueError(f"{where}: p={p} is not a probability; it is the fraction of images to change, from 0 to 1")


def _to_unit(images: jax.Array) -> jax.Array:
    return images.astype(jnp.float32) / 255 if images.dtype == jnp.uint8 else images


def _from_unit(x: jax.Array, dtype: jnp.dtype) -> jax.Array:
    return jnp.round(x * 255).astype(jnp.uint8) if dtype == jnp.uint8 else x.astype(dtype)


def _inside(
    height: int, width: int, top: jax.Array, left: jax.Array, bottom: jax.Array, right: jax.Array
) -> jax.Array:
    """Which pixels are in the rectangle of each image: bool (batch, height, width, 1)."""
    rows, columns = jnp.arange(height), jnp.arange(width)
    down = (rows >= top[:, None]) & (rows < bottom[:, None])
    across = (columns >= left[:, None]) & (columns < right[:, None])
    return (down[:, :, None] & across[:, None, :])[..., None]


def _grey(x: jax.Array) -> jax.Array:
    return x if x.shape[-1] == 1 else (x * jnp.array([0.2989, 0.587, 0.114], x.dtype)).sum(-1, keepdims=True)


def _blend(x: jax.Array, other: jax.Array, factor: jax.Array) -> jax.Array:
    return jnp.clip(factor * x + (1 - factor) * other, 0, 1)


def _turn_hue(rgb: jax.Array, turn: jax.Array) -> jax.Array:
    """Convert to hue, saturation and value, turn, and convert back (A. R. Smith, 1978)."""
    value, low = rgb.max(-1), rgb.min(-1)
    spread = value - low
    safe = jnp.where(spread == 0, 1, spread)
    r, g, b = jnp.moveaxis((value[..., None] - rgb) / safe[..., None], -1, 0)
    hue = jnp.where(value == rgb[..., 0], b - g, jnp.where(value == rgb[..., 1], 2 + r - b, 4 + g - r)) / 6
    sector = ((hue + turn) % 1.0) * 6
    # A channel is `value` within one sixth of its own hue, `low` beyond two sixths, and linear between.
    channels = [jnp.clip(jnp.abs((sector - own + 3) % 6 - 3) - 1, 0, 1) for own in (0, 2, 4)]
    return value[..., None] - jnp.stack(channels, -1) * spread[..., None]


def _soft(labels: ArrayLike, n: int, num_classes: int | None, alpha: float, where: str) -> jax.Array:
    labels = jnp.asarray(labels)
    if not isinstance(alpha, jax.core.Tracer) and not alpha > 0:
        raise ValueError(f"{where}: alpha must be positive, got {alpha}")
    if jnp.issubdtype(labels.dtype, jnp.floating) and labels.ndim == 2 and len(labels) == n:
        return labels
    if labels.shape != (n,) or not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ValueError(
            f"{where}: takes integer labels ({n},) or soft labels ({n}, classes), got {labels.dtype} {labels.shape}"
        )
    if num_classes is None:
        raise ValueError(f"{where}: integer labels become soft ones, which needs num_classes=")
    return one_hot(labels, num_classes).astype(jnp.float32)


def _mix_labels(soft: jax.Array, kept: jax.Array) -> jax.Array:
    return kept[:, None] * soft + (1 - kept)[:, None] * jnp.roll(soft, 1, 0)
