"""Augmentation on the device: what is done to each image, how it is distributed, and that it is jittable."""

from __future__ import annotations

import functools
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnet.functional as F
from fnet.data.transforms import adjust

N = 512
IMAGES = np.random.default_rng(0).random((N, 6, 7, 3)).astype(np.float32)
KEY = jax.random.key(3)


def run(function, *args, **options):
    return np.asarray(jax.jit(functools.partial(function, **options))(KEY, *args))


def near(count, p, n=N):
    """Whether a count of n trials is within 5 deviations of its mean."""
    return abs(count - n * p) < 5 * np.sqrt(n * p * (1 - p))


@pytest.mark.parametrize("vertical", [False, True])
def test_flip(vertical):
    out = run(F.random_flip, IMAGES, p=0.3, vertical=vertical)
    mirrored = IMAGES[:, ::-1] if vertical else IMAGES[:, :, ::-1]
    flipped = (out == mirrored).all((1, 2, 3))
    assert ((out == IMAGES).all((1, 2, 3)) | flipped).all() and near(flipped.sum(), 0.3)


@pytest.mark.parametrize("mode", ["constant", "reflect"])
def test_crop_takes_each_position_alike(mode):
    ramp = np.broadcast_to(np.arange(1, 26, dtype=np.uint8).reshape(1, 5, 5, 1), (N, 5, 5, 1))
    options = {"constant_values": 9} if mode == "constant" else {}
    padded = np.pad(ramp[0], ((1, 1), (1, 1), (0, 0)), mode, **options)
    out = run(F.random_crop, ramp, size=(5, 4), padding=1, padding_mode=mode, **({"fill": 9} if options else {}))
    assert out.dtype == np.uint8
    parts = {padded[y : y + 5, x : x + 4].tobytes(): (y, x) for y in range(3) for x in range(4)}
    counts = np.array(list(Counter(parts[image.tobytes()] for image in out).values()))
    assert len(counts) == 12 and ((counts - N / 12) ** 2 / (N / 12)).sum() < 11 + 5 * np.sqrt(22)


def test_cutout_is_a_square_with_its_centre_in_the_image():
    out = run(F.cutout, np.ones((N, 6, 7, 2), np.float32), size=3, value=0.25)
    assert set(np.unique(out)) == {0.25, 1} and (out[..., 0] == out[..., 1]).all()
    rows, columns = (out[..., 0] != 1).any(2), (out[..., 0] != 1).any(1)
    assert (rows.sum(1)[:, None] * columns.sum(1)[:, None] == (out[..., 0] != 1).sum((1, 2))[:, None]).all()
    # Of 6 centres the outermost two cut a row off; of 7 likewise.
    assert near((rows.sum(1) == 2).sum(), 2 / 6) and near((columns.sum(1) == 2).sum(), 2 / 7)
    assert rows.sum(1).max() == columns.sum(1).max() == 3


def test_erasing_has_the_area_and_shape_that_were_asked_for():
    out = run(F.random_erasing, np.ones((N, 40, 30, 1), np.float32), p=0.6, scale=(0.1, 0.2), ratio=(0.5, 2.0))
    gone = out[..., 0] == 0
    area, height, width = gone.mean((1, 2)), gone.any(2).sum(1), gone.any(1).sum(1)
    changed = area > 0
    assert near(changed.sum(), 0.6) and (height * width == gone.sum((1, 2))).all()
    assert area[changed].min() > 0.09 and area[changed].max() < 0.21
    ratio = height[changed] / width[changed]
    assert 0.45 < ratio.min() < 0.6 and 1.7 < ratio.max() < 2.2
    assert abs(np.log(ratio).mean()) < 5 * 0.4 / np.sqrt(changed.sum())
    assert (out[~changed] == 1).all()


JITTERS = [("brightness", adjust.adjust_brightness), ("contrast", adjust.adjust_contrast),
           ("saturation", adjust.adjust_saturation), ("hue", adjust.adjust_hue)]  # fmt: skip


@pytest.mark.parametrize(("name", "adjusted"), JITTERS, ids=lambda v: str(v)[:10])
def test_jitter_is_the_adjustment_by_a_uniform_factor(name, adjusted):
    """Against the numpy functions, which another test compares with torchvision's formulas and with Pillow."""
    strength = 0.4
    out = run(F.color_jitter, IMAGES[:16], **{name: strength})
    low, high = (-strength, strength) if name == "hue" else (1 - strength, 1 + strength)
    grid = np.linspace(low, high, 401)
    for image, changed in zip(IMAGES[:16], out, strict=True):
        errors = [np.abs(adjusted(image, np.float32(f)) - changed).max() for f in grid]
        assert min(errors) < 0.01  # half a step of the grid
    assert np.abs(out - IMAGES[:16]).max((1, 2, 3)).min() > 1e-4  # each image has a factor of its own
    assert len({round(float((a - b).mean()), 5) for a, b in zip(out, IMAGES[:16], strict=True)}) > 8


def test_jitter_of_bytes_and_of_grey_images():
    bytes_ = (IMAGES[:8] * 255).astype(np.uint8)
    strengths = {"brightness": 0.3, "contrast": 0.3, "saturation": 0.3, "hue": 0.1}
    out = run(F.color_jitter, bytes_, **strengths)
    floats = run(F.color_jitter, bytes_ / np.float32(255), **strengths)
    assert out.dtype == np.uint8 and np.abs(out - 255 * floats).max() <= 0.51
    grey = run(F.color_jitter, IMAGES[:8, ..., :1], saturation=1.0, hue=0.5)
    assert np.array_equal(grey, IMAGES[:8, ..., :1])
    assert np.array_equal(run(F.color_jitter, bytes_), bytes_)


@pytest.mark.parametrize("dtype", ["float32", "uint8"])
@pytest.mark.parametrize("mix", [F.mixup, F.cutmix])
def test_labels_follow_what_was_mixed(mix, dtype):
    """Image k is k everywhere, so that each pixel tells how much of it is left."""
    n, high = 200, 200 if dtype == "uint8" else 1
    images = np.broadcast_to(np.array([0, high], dtype)[np.arange(n) % 2, None, None, None], (n, 10, 10, 1))
    labels = (np.arange(n) % 2).astype(np.int32)
    mixed, soft = jax.jit(functools.partial(mix, alpha=0.7, num_classes=2))(KEY, images, labels)
    assert mixed.dtype == dtype and soft.shape == (n, 2)
    np.testing.assert_allclose(soft.sum(1), 1, atol=1e-6)
    np.testing.assert_allclose(np.asarray(mixed).mean((1, 2, 3)) / high, soft[:, 1], atol=0.003)
    kept = np.asarray(soft)[np.arange(n), labels]
    if mix is F.mixup:  # Beta(a, a) has mean 1/2 and variance 1 / (4 (2 a + 1))
        variance = 1 / (4 * (2 * 0.7 + 1))
        assert abs(kept.mean() - 0.5) < 5 * np.sqrt(variance / n) and abs(kept.var() - variance) < 0.25 * variance
    else:
        assert set(np.unique(mixed)) == {0, high} and kept.std() > 0.1
    if dtype == "float32":
        again = mix(KEY, images, np.eye(2, dtype=np.float32)[labels], 0.7)  # soft labels, and not jitted
        np.testing.assert_allclose(again[1], soft, atol=1e-6)
        np.testing.assert_allclose(again[0], mixed, atol=1e-6)


def test_they_work_under_vmap_grad_and_in_half_precision():
    keys = jax.random.split(KEY, 3)
    batches = jnp.asarray(IMAGES[:6].reshape(3, 2, 6, 7, 3))

    def pipeline(key, x):
        flip, crop, jitter = jax.random.split(key, 3)
        return F.color_jitter(jitter, F.random_crop(crop, F.random_flip(flip, x), padding=1), 0.2, hue=0.1)

    together = jax.jit(jax.vmap(pipeline))(keys, batches)
    (_, alone), gradient = jax.jit(
        jax.value_and_grad(lambda x: (lambda out: (out.sum(), out))(pipeline(keys[1], x)), has_aux=True)
    )(batches[1])
    np.testing.assert_allclose(together[1], alone, atol=1e-6)
    assert gradient.shape == batches[1].shape and jnp.isfinite(gradient).all() and jnp.abs(gradient).max() > 0
    half = jax.ShapeDtypeStruct(batches[0].shape, jnp.bfloat16)
    assert jax.eval_shape(pipeline, keys[0], half).dtype == jnp.bfloat16


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: F.random_flip(KEY, IMAGES[0]), r"random_flip: takes images \(batch, .* got shape \(6, 7, 3\)"),
        (lambda: F.cutout(KEY, IMAGES.astype(int), 2), "cutout: takes uint8 images .* got int32"),
        (lambda: F.random_flip(KEY, IMAGES, 1.5), r"p=1.5 is not a probability"),
        (lambda: F.random_erasing(KEY, IMAGES, -1), r"random_erasing: p=-1 is not"),
        (lambda: F.random_crop(KEY, IMAGES, 9, 1), "6 x 7 with padding 1 are smaller than the crop of 9 x 9"),
        (lambda: F.cutout(KEY, IMAGES, 0), "size must be at least 1, got 0"),
        (lambda: F.color_jitter(KEY, IMAGES, hue=0.6), "hue at most 0.5, .*hue=0.6"),
        (lambda: F.color_jitter(KEY, IMAGES[..., :2], 0.1), "1 or 3 channels, got shape"),
        (lambda: F.mixup(KEY, IMAGES, np.zeros(N, int)), "needs num_classes="),
        (lambda: F.mixup(KEY, IMAGES, np.zeros(3, int), num_classes=2), r"mixup: takes integer labels \(512,\) or"),
        (lambda: F.cutmix(KEY, IMAGES, np.zeros(N, int), 0.0, 2), "alpha must be positive, got 0.0"),
        (lambda: F.cutmix(KEY, IMAGES, np.full(N, 5), 1.0, 2), "5 at index .* is out of range, expected 0 to 1"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises((ValueError, TypeError), match=message):
        call()
