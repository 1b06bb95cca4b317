"""Colours, sharpness and blur: pure functions of an image (height, width, channels).

On bytes they give what Pillow's operations give, which are torchvision's on PIL images; on floats of 0 to 1 they are
torchvision's formulas for float tensors.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .pillow import from_pil, pil, to_pil


def to_grey(image: np.ndarray) -> np.ndarray:
    """Luma of RGB images (..., 3) as (..., 1); bytes as Pillow rounds them."""
    if image.shape[-1] == 1:
        return image
    if image.shape[-1] != 3:
        raise ValueError(f"grey values are made of 1 or 3 channels, the image has {image.shape[-1]}")
    if image.dtype == np.uint8:
        r, g, b = np.moveaxis(image.astype(np.uint32), -1, 0)
        return ((r * 19595 + g * 38470 + b * 7471 + 0x8000) >> 16).astype(np.uint8)[..., None]
    return (image @ np.array([0.2989, 0.587, 0.114], image.dtype))[..., None]


def adjust_brightness(image: np.ndarray, factor: float, who: Any = "adjust_brightness") -> np.ndarray:
    """factor * image: 0 is black, 1 leaves the image."""
    if image.dtype == np.uint8:
        return _enhance(image, "Brightness", factor, who)
    return np.clip(image * image.dtype.type(factor), 0, 1)


def adjust_contrast(image: np.ndarray, factor: float, who: Any = "adjust_contrast") -> np.ndarray:
    """Blend with the mean grey value: 0 is that grey everywhere, 1 leaves the image."""
    if image.dtype == np.uint8:
        return _enhance(image, "Contrast", factor, who)
    return _blend(image, to_grey(image).mean(), factor)


def adjust_saturation(image: np.ndarray, factor: float, who: Any = "adjust_saturation") -> np.ndarray:
    """Blend with the grey image: 0 is grey, 1 leaves the image. Grey images stay."""
    if image.shape[-1] == 1:
        return image
    if image.dtype == np.uint8:
        return _enhance(image, "Color", factor, who)
    return _blend(image, to_grey(image), factor)


def adjust_hue(image: np.ndarray, factor: float, who: Any = "adjust_hue") -> np.ndarray:
    """Turn the hue by a part of the circle, -0.5 to 0.5. Grey images stay."""
    if image.shape[-1] == 1:
        return image
    if image.dtype == np.uint8:
        hsv = from_pil(to_pil(_rgb(image), who).convert("HSV"))
        hsv[..., 0] += np.int32(factor * 255).astype(np.uint8)  # bytes wrap around, as the circle does
        return from_pil(pil(who).fromarray(hsv, "HSV").convert("RGB"))
    return _turn_hue(_rgb(image), factor)


def adjust_sharpness(image: np.ndarray, factor: float, who: Any = "adjust_sharpness") -> np.ndarray:
    """Blend with a smoothed image: 0 is smooth, 1 leaves the image, 2 is sharper."""
    if image.dtype == np.uint8:
        return _enhance(image, "Sharpness", factor, who)
    if min(image.shape[:2]) <= 2:
        return image
    smooth = image.copy()
    height, width = image.shape[:2]
    taps = [image[y : height - 2 + y, x : width - 2 + x] for y in range(3) for x in range(3)]
    smooth[1:-1, 1:-1] = (sum(taps) + 4 * taps[4]) / image.dtype.type(13)
    return _blend(image, smooth, factor)


def invert(image: np.ndarray) -> np.ndarray:
    """255 - image for bytes, 1 - image for floats."""
    return 255 - image if image.dtype == np.uint8 else 1 - image


def posterize(image: np.ndarray, bits: int) -> np.ndarray:
    """Keep the upper bits of each byte; a float keeps that many steps."""
    if image.dtype == np.uint8:
        return image & np.uint8(256 - (1 << (8 - bits)))
    levels = 1 << bits
    return np.clip(np.floor(image * levels), 0, levels - 1) / image.dtype.type(levels)


def solarize(image: np.ndarray, threshold: float) -> np.ndarray:
    """Invert what is at least as bright as the threshold."""
    return np.where(image >= threshold, invert(image), image)


def autocontrast(image: np.ndarray, who: Any = "autocontrast") -> np.ndarray:
    """Stretch each channel to the full range."""
    if image.dtype == np.uint8:
        return _image_ops(image, "autocontrast", who)
    low, high = image.min((0, 1)), image.max((0, 1))
    flat = high == low
    scale = 1 / np.where(flat, 1, high - low)
    return np.clip((image - np.where(flat, 0, low)) * scale, 0, 1).astype(image.dtype)


def equalize(image: np.ndarray, who: Any = "equalize") -> np.ndarray:
    """Spread the grey values of each channel evenly; floats are taken as bytes, and return as floats."""
    if image.dtype == np.uint8:
        return _image_ops(image, "equalize", who)
    as_bytes = np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)
    return (equalize(as_bytes, who) / 255).astype(image.dtype)


def blur(image: np.ndarray, size: tuple[int, int], sigma: tuple[float, float]) -> np.ndarray:
    """Gaussian blur with a kernel of size (height, width) pixels, reflecting at the edges."""
    out = image if image.dtype.kind == "f" else image.astype(np.float32)
    for axis, (taps, deviation) in enumerate(zip(size, sigma, strict=True)):
        half = taps // 2
        kernel = np.exp(-0.5 * (np.arange(-half, half + 1) / deviation) ** 2)
        kernel = (kernel / kernel.sum()).astype(out.dtype)
        widths = [(half, half) if k == axis else (0, 0) for k in range(out.ndim)]
        padded = np.moveaxis(np.pad(out, widths, "reflect"), axis, 0)
        n = out.shape[axis]
        out = np.moveaxis(sum(kernel[k] * padded[k : k + n] for k in range(taps)), 0, axis)
    return np.clip(np.rint(out), 0, 255).astype(np.uint8) if image.dtype == np.uint8 else out.astype(image.dtype)


def _rgb(image: np.ndarray) -> np.ndarray:
    if image.shape[-1] != 3:
        raise ValueError(f"colours are of 3 channels (RGB), the image has {image.shape[-1]}")
    return image


def _blend(image: np.ndarray, other: Any, factor: float) -> np.ndarray:
    return np.clip(factor * image + (1.0 - factor) * other, 0, 1).astype(image.dtype)


def _enhance(image: np.ndarray, what: str, factor: float, who: Any) -> np.ndarray:
    picture = to_pil(image if image.shape[-1] == 1 else _rgb(image), who)
    from PIL import ImageEnhance

    return from_pil(getattr(ImageEnhance, what)(picture).enhance(factor))


def _image_ops(image: np.ndarray, what: str, who: Any) -> np.ndarray:
    picture = to_pil(image if image.shape[-1] == 1 else _rgb(image), who)
    from PIL import ImageOps

    return from_pil(getattr(ImageOps, what)(picture))


def _turn_hue(rgb: np.ndarray, turn: float) -> np.ndarray:
    """Convert to hue, saturation and value, turn, and convert back (A. R. Smith, 1978)."""
    value, low = rgb.max(-1), rgb.min(-1)
    spread = value - low
    safe = np.where(spread == 0, 1, spread)
    r, g, b = np.moveaxis((value[..., None] - rgb) / safe[..., None], -1, 0)
    hue = np.where(value == rgb[..., 0], b - g, np.where(value == rgb[..., 1], 2 + r - b, 4 + g - r)) / 6
    sector = ((hue + turn) % 1.0) * 6
    # A channel is `value` within one sixth of its own hue, `low` beyond two sixths, and linear between.
    channels = [np.clip(np.abs((sector - own + 3) % 6 - 3) - 1, 0, 1) for own in (0, 2, 4)]
    return (value[..., None] - np.stack(channels, -1) * spread[..., None]).astype(rgb.dtype)
