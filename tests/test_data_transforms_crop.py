"""Flips, crops, padding, erasing and mixing in numpy: what they do, how they are distributed, masks, wrong settings."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np
import pytest

from fnet.data import ArrayDataset, DataLoader, Map, MapBatch, Rng, Rngs
from fnet.data.transforms import (
    CenterCrop,
    ColorJitter,
    Compose,
    CutMix,
    Cutout,
    ElasticTransform,
    FiveCrop,
    GaussianBlur,
    GaussianNoise,
    Grayscale,
    Lambda,
    MixUp,
    Normalize,
    OneHot,
    OnSample,
    Pad,
    RandAugment,
    RandomAffine,
    RandomApply,
    RandomChoice,
    RandomCrop,
    RandomErasing,
    RandomHorizontalFlip,
    RandomOrder,
    RandomPerspective,
    RandomResizedCrop,
    RandomRotation,
    RandomVerticalFlip,
    Resize,
    TenCrop,
    ToDtype,
    ToFloat,
    ToImage,
)
from fnet.data.transforms.auto import gamma_quantile
from fnet.data.transforms.mixing import beta_quantile

N = 600
RAMP = np.arange(5 * 6 * 2, dtype=np.uint8).reshape(5, 6, 2)


def many(t, image, n=N, seed=0):
    return t.batch(np.broadcast_to(image, (n, *image.shape)), Rngs(seed, np.arange(n)))


def even(values, kinds):
    """Chi-square: whether all of so many kinds came, about as often as each other."""
    counts = np.array(list(Counter(values).values()))
    expected = sum(counts) / kinds
    bound = kinds - 1 + 5 * np.sqrt(2 * (kinds - 1))
    return len(counts) == kinds and ((counts - expected) ** 2 / expected).sum() < bound


def test_pad_is_numpy_s_with_torchvision_s_sides():
    left, top, right, bottom = 1, 2, 3, 4
    for mode in ("edge", "reflect", "symmetric"):
        expected = np.pad(RAMP, ((top, bottom), (left, right), (0, 0)), mode)
        assert np.array_equal(Pad((left, top, right, bottom), padding_mode=mode)(RAMP), expected)
    padded = Pad((1, 2), fill=(7, 9))(RAMP)  # left and right 1, top and bottom 2
    assert padded.shape == (9, 8, 2) and (padded[:2] == (7, 9)).all() and (padded[:, 0] == (7, 9)).all()
    assert np.array_equal(padded[2:-2, 1:-1], RAMP)


def test_crops_come_from_every_place_alike():
    parts = {RAMP[y : y + 3, x : x + 4].tobytes(): (y, x) for y in range(3) for x in range(3)}
    assert even([parts[image.tobytes()] for image in many(RandomCrop((3, 4)), RAMP)], 9)
    padded = np.pad(RAMP, ((1, 1), (1, 1), (0, 0)), constant_values=9)
    parts = {padded[y : y + 5, x : x + 6].tobytes(): (y, x) for y in range(3) for x in range(3)}
    assert even([parts[image.tobytes()] for image in many(RandomCrop((5, 6), padding=1, fill=9), RAMP)], 9)
    assert RandomCrop(8, pad_if_needed=True)(RAMP, Rng(0)).shape == (8, 8, 2)
    flips = [image.tobytes() == RAMP[:, ::-1].tobytes() for image in many(RandomHorizontalFlip(0.25), RAMP)]
    assert abs(sum(flips) - N / 4) < 5 * np.sqrt(N * 3 / 16)


def test_center_five_and_ten_crops():
    image = np.arange(49, dtype=np.uint8).reshape(7, 7, 1)
    assert np.array_equal(CenterCrop(3)(image), image[2:5, 2:5])
    assert np.array_equal(CenterCrop(4)(image), image[2:6, 2:6])  # round(1.5) is 2, as in torchvision
    bigger = CenterCrop((9, 3))(image)
    assert bigger.shape == (9, 3, 1) and (bigger[[0, -1]] == 0).all() and np.array_equal(bigger[1:-1], image[:, 2:5])
    five = FiveCrop(2)(image)[..., 0]
    assert [crop[0, 0] for crop in five] == [0, 5, 35, 40, 16]
    ten = TenCrop(2)(image)
    assert np.array_equal(ten[:5], FiveCrop(2)(image)) and np.array_equal(ten[5:], FiveCrop(2)(image[:, ::-1]))


def test_erasing_has_the_area_and_shape_that_were_asked_for():
    image = np.ones((40, 30, 1), np.float32)
    gone = many(RandomErasing(0.6, (0.1, 0.2), (0.5, 2.0)), image)[..., 0] == 0
    area, height, width = gone.mean((1, 2)), gone.any(2).sum(1), gone.any(1).sum(1)
    changed = area > 0
    assert abs(changed.sum() - 0.6 * N) < 5 * np.sqrt(N * 0.24) and (height * width == gone.sum((1, 2))).all()
    ratio = height[changed] / width[changed]
    assert 0.09 < area[changed].min() < 0.11 and 0.19 < area[changed].max() < 0.21
    assert 0.45 < ratio.min() < 0.55 and 1.8 < ratio.max() < 2.2 and abs(np.log(ratio).mean()) < 0.1
    tall = np.ones((4, 100, 1), np.float32)  # nothing of this shape fits, so nothing is erased
    assert (RandomErasing(1.0, (0.9, 1.0), (3.0, 3.3))(tall, Rng(0)) == 1).all()
    noisy = RandomErasing(1.0, value="random")(np.full((64, 64, 3), 100, np.uint8), Rng(0))
    assert len(np.unique(noisy)) > 100


def test_cutout_is_a_square_with_its_centre_in_the_image():
    gone = many(Cutout(3, value=7), RAMP)[..., 0] != RAMP[..., 0]
    corners = [(g.any(1).sum(), g.any(0).sum()) for g in gone]
    assert {height for height, _ in corners} == {2, 3} and {width for _, width in corners} == {2, 3}
    assert abs(sum(height == 2 for height, _ in corners) - N * 2 / 5) < 5 * np.sqrt(N * 0.24)


def test_resized_crops_have_the_area_and_shape_that_were_asked_for():
    t = RandomResizedCrop(8, scale=(0.2, 0.6), ratio=(0.5, 1.5))
    drawn = np.array([t.draw((100, 120, 3), Rng(0, i)) for i in range(N)])
    y, x, h, w = drawn.T
    assert (y >= 0).all() and (x >= 0).all() and (y + h <= 100).all() and (x + w <= 120).all()
    area, ratio = h * w / 12000, w / h
    assert 0.19 < area.min() < 0.22 and 0.55 < area.max() < 0.61
    assert 0.48 < ratio.min() < 0.55 and 1.4 < ratio.max() < 1.55
    assert RandomResizedCrop(8, (0.9, 1.0)).draw((100, 10, 3), Rng(0)) == (43, 0, 13, 10)  # the middle, of ratio 3/4
    assert RandomResizedCrop(8, (0.9, 1.0)).draw((10, 100, 3), Rng(0)) == (0, 43, 10, 13)


# --- values -----------------------------------------------------------------------------------------------------------


def test_dtypes_scales_and_labels():
    image = np.arange(256, dtype=np.uint8).reshape(16, 16, 1)
    floats = ToDtype("float32", scale=True)(image)
    assert np.array_equal(floats, ToFloat()(image)) and np.array_equal(ToDtype("uint8", scale=True)(floats), image)
    assert ToDtype("float64")(image).max() == 255
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)
    x = np.random.default_rng(0).random((4, 5, 3)).astype(np.float32)
    np.testing.assert_allclose(Normalize(mean, std)(x), (x - np.float32(mean)) / np.float32(std), rtol=1e-6)
    assert Normalize(mean, std)(x.astype(np.float16)).dtype == np.float16
    assert np.array_equal(OneHot(3)(np.array([[2], [0]])), [[[0, 0, 1]], [[1, 0, 0]]])
    noise = GaussianNoise(0.1, 0.2, clip=False)(np.zeros((100, 100, 3), np.float32), Rng(0))
    assert abs(noise.mean() - 0.1) < 5 * 0.2 / np.sqrt(noise.size) and abs(noise.std() - 0.2) < 0.004
    assert abs((noise > 0.3).mean() - 0.1587) < 0.01  # one deviation above the mean
    import jax.numpy as jnp

    np.testing.assert_allclose(Normalize(mean, std)(jnp.asarray(x)), Normalize(mean, std)(x), rtol=1e-6)


# --- masks and samples ------------------------------------------------------------------------------------------------

GEOMETRY = [RandomHorizontalFlip(), RandomVerticalFlip(), Pad((1, 2)), CenterCrop(9), RandomCrop(12, padding=3),
            Resize(8, "nearest"), RandomResizedCrop(7, interpolation="nearest"), RandomRotation(40, expand=True),
            RandomAffine(20, (0.1, 0.1), (0.7, 1.3), 10), RandomPerspective(p=1.0, interpolation="nearest"),
            RandomChoice([RandomHorizontalFlip(), RandomCrop(16, padding=2)]), RandomOrder([RandomCrop(14), Pad(2)]),
            RandomApply([RandomCrop(9)]), FiveCrop(6)]  # fmt: skip


@pytest.mark.parametrize("t", GEOMETRY, ids=lambda t: repr(t)[:50])
def test_masks_go_where_their_pixels_go(t):
    image = np.random.default_rng(1).integers(1, 256, (16, 18, 1)).astype(np.uint8)
    mask = image[..., 0].astype(np.int64) + 10**6  # any dtype; 2-d as masks are
    for i in range(4):
        moved, (mask_moved,) = t.along(image, (mask,), Rng(i))
        assert mask_moved.dtype == np.int64 and mask_moved.shape == moved.shape[:-1]
        assert np.array_equal(np.where(moved[..., 0] == 0, 0, moved[..., 0].astype(int) + 10**6), mask_moved)


def test_masks_ignore_colours_and_follow_a_warp():
    rng = np.random.default_rng(0)
    image, mask = rng.random((32, 32, 3)).astype(np.float32), rng.integers(0, 5, (32, 32, 2)).astype(np.int8)
    for t in (ColorJitter(0.5), GaussianNoise(), GaussianBlur(3), RandomErasing(1.0), ToFloat(), Normalize(0.5, 0.5)):
        assert t.along(image, (mask,), Rng(0))[1][0] is mask
    where = ElasticTransform(60.0, 3.0).draw((32, 32), Rng(0))
    moved = ElasticTransform(60.0, 3.0).apply_mask(mask, where)
    y, x = np.rint(where).astype(int)
    inside = (y >= 0) & (y < 32) & (x >= 0) & (x < 32)
    assert np.array_equal(moved[inside], mask[y[inside], x[inside]]) and (moved[~inside] == 0).all()
    assert np.abs(where - np.mgrid[:32, :32]).max() > 0.5
    with pytest.raises(TypeError, match="not defined for masks"):
        RandAugment().along(np.zeros((8, 8, 3), np.uint8), (mask[:8, :8],), Rng(0))
    with pytest.raises(ValueError, match=r"the mask is int8\[32, 32, 2\], the image uint8\[8, 8, 3\]"):
        Pad(1).along(np.zeros((8, 8, 3), np.uint8), (mask,))


def test_samples_of_each_kind():
    flip, image = RandomHorizontalFlip(1.0), RAMP[..., :1]
    t = OnSample(Compose([flip, ToFloat()]), lambda label: label + 1)
    for sample in ((image, 1, "rest"), [image, 1, "rest"]):
        out = t(sample, Rng(0))
        assert type(out) is type(sample) and out[1:] == type(sample)((2, "rest")) and sample[1] == 1
        assert np.array_equal(out[0], image[:, ::-1] / np.float32(255))
    out = OnSample(flip, masks=["mask"])({"image": image, "mask": image[..., 0], "label": 3}, Rng(0))
    assert np.array_equal(out["mask"], image[:, ::-1, 0]) and out["label"] == 3
    noisy = OnSample(None, lambda label, rng: label + rng.random())
    assert noisy((image, 1), Rng(4))[1] == 1 + Rng(4).random()
    with pytest.raises(TypeError, match="tuples, lists or dicts, got ndarray"):
        t(image)
    with pytest.raises(KeyError, match="no entry 'image'; it has .*picture"):
        t({"picture": image})
    with pytest.raises(IndexError, match="has 1 entries"):
        t((image,), Rng(0))
    with pytest.raises(TypeError, match=r"masks go sample by sample; use Map"):
        OnSample(flip, masks=[1]).batch((image[None], image[None]))


def test_a_dataset_is_changed_one_by_one_or_in_batches_alike():
    train = ArrayDataset(np.random.default_rng(0).integers(0, 256, (20, 8, 8, 3)).astype(np.uint8), np.arange(20) % 3)
    t = OnSample(Compose([RandomCrop(8, padding=2), RandomHorizontalFlip(), ToFloat()]), OneHot(3))
    for step in (0, 2):
        one_by_one = DataLoader(Map(train, t), batch_size=8, shuffle=True, seed=3).batch(step)
        together = DataLoader(MapBatch(train, t.batch), batch_size=8, shuffle=True, seed=3).batch(step)
        for a, b in zip(one_by_one, together, strict=True):
            assert a.dtype == b.dtype and a.tobytes() == b.tobytes()
    as_dict = t.batch({"image": train.arrays[0], "label": train.arrays[1], "more": 1}, Rngs(0, np.arange(20)))
    assert as_dict["label"].shape == (20, 3) and as_dict["more"] == 1


# --- mixing -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "uint8"])
@pytest.mark.parametrize("mix", [MixUp, CutMix])
def test_labels_follow_what_was_mixed(mix, dtype):
    high = 1 if dtype == "float32" else 200
    labels = (np.arange(400) % 2).astype(np.int32)
    images = np.broadcast_to((labels * high).astype(dtype)[:, None, None, None], (400, 10, 12, 1))
    mixed, soft = mix(0.7, 2)((images, labels), Rng(0, 5))
    assert mixed.dtype == dtype and soft.dtype == np.float32
    np.testing.assert_allclose(soft.sum(1), 1, atol=1e-6)
    np.testing.assert_allclose(mixed.mean((1, 2, 3)) / high, soft[:, 1], atol=0.003)
    assert len(set(np.round(soft[:, 0], 4))) > 20  # each image has its own proportion
    again, _ = mix(0.7)([images[1:3], OneHot(2)(labels[1:3])], Rng(0))  # soft labels need no num_classes
    assert again.shape == (2, 10, 12, 1)
    if mix is CutMix:
        assert set(np.unique(mixed)) == {0, high}


def test_mixing_says_what_it_takes():
    batch = (np.zeros((2, 4, 4, 3), np.uint8), np.array([0, 1]))
    for call, message in (
        (lambda: MixUp(1.0, 2)(batch[0]), r"mixes batches \(images, labels\).* got ndarray"),
        (lambda: MixUp(1.0, 2)(batch), r"needs random numbers: pass rng=fnet.data.Rng\(seed, step\)"),
        (lambda: CutMix()(batch, Rng(0)), "needs num_classes="),
        (lambda: CutMix(num_classes=1)(batch, Rng(0)), "label 1 is out of range, expected 0 to 0"),
        (lambda: CutMix(num_classes=2)((batch[0], np.eye(3)[:2]), Rng(0)), "soft labels have 3 classes, expected 2"),
        (lambda: MixUp(1.0, 2)((batch[0], np.zeros(3, int)), Rng(0)), r"got uint8\[2, 4, 4, 3\] and int64\[3\]"),
        (lambda: Compose([MixUp(1.0, 2)])(batch[0][0], Rng(0)), "cannot be part of a transform of single images"),
        (lambda: MixUp(0.0), "alpha must be positive"),
    ):
        with pytest.raises((ValueError, TypeError), match=message):
            call()


def test_proportions_have_their_distributions():
    stats = pytest.importorskip("scipy.stats", reason="parity tests need the oracle extra: pip install fnet[oracle]")
    u = np.concatenate([np.linspace(0.001, 0.999, 99), [1e-6, 0.5, 1 - 1e-6]])
    for alpha in (0.1, 0.2, 0.5, 1.0, 2.0, 8.0):
        np.testing.assert_allclose(beta_quantile(u, alpha), stats.beta.ppf(u, alpha, alpha), atol=5e-6)
    for alpha in (0.3, 1.0, 4.0):
        ours = [gamma_quantile(float(v), alpha) for v in u]
        np.testing.assert_allclose(ours, stats.gamma.ppf(u, alpha), rtol=1e-6, atol=1e-12)


# --- wrong settings and images ----------------------------------------------------------------------------------------

IMAGE = np.zeros((4, 5, 3), np.uint8)
WRONG = [
    (lambda: Pad(1)(IMAGE[0]), "takes one image (height, width, channels), got uint8[5, 3]; a grey image needs"),
    (lambda: Pad(1)(IMAGE[None]), "got uint8[1, 4, 5, 3]; a batch goes through .batch(images, rngs)"),
    (lambda: Pad(1)(IMAGE.astype(int)), "takes uint8 images of 0 to 255 or floats, got int64[4, 5, 3]"),
    (lambda: Pad(1).batch(IMAGE), "Pad(padding=(1, 1, 1, 1), fill=0, padding_mode='constant').batch takes images"),
    (lambda: Pad(-1), "Pad: padding is one width of 0 or more"),
    (lambda: Pad((1, 2, 3)), "got (1, 2, 3)"),
    (lambda: Pad(1, fill=(1, 2))(IMAGE), "fill has 2 values, the image 3 channels"),
    (lambda: Pad(1, fill=300)(IMAGE), "fill=300 is not a byte"),
    (lambda: Pad(1, padding_mode="wrap"), "padding_mode is one of constant, edge, reflect, symmetric, got 'wrap'"),
    (lambda: RandomCrop(8)(IMAGE, Rng(0)), "the image of 4 x 5 is smaller than the crop; use pad_if_needed=True"),
    (lambda: RandomCrop((1, 2, 3)), "RandomCrop: size is one positive integer or (height, width), got (1, 2, 3)"),
    (lambda: FiveCrop(9)(IMAGE), "smaller than the crops"),
    (lambda: RandomHorizontalFlip(2), "RandomHorizontalFlip: p=2 is not a probability"),
    (lambda: RandomErasing(scale=(0.5, 0.1)), "RandomErasing: scale needs 0 <= low <= high, got (0.5, 0.1)"),
    (lambda: RandomErasing(scale=(0.5, 2)), "scale is a fraction of the area, at most 1"),
    (lambda: RandomErasing(value="noise"), 'value is a number, one a channel, or "random", got \'noise\''),
    (lambda: RandomErasing(ratio=3), "ratio is a pair (low, high), got 3"),
    (lambda: Cutout(0), "Cutout: size is one positive integer"),
    (lambda: Normalize((1, 2), (1, 2, 3)), "mean has 2 channels and std 3"),
    (lambda: Normalize(0, 0), "std must be positive, got (0.0,)"),
    (lambda: Normalize((1, 2), 1)(IMAGE / 255), "2 channels, but the image is float64[4, 5, 3]"),
    (lambda: Normalize(0, 1)(IMAGE), "Normalize takes floats, got uint8: put ToFloat() before it"),
    (lambda: ToDtype("int32", scale=True), "scale=True goes between uint8 and floats, got dtype=int32"),
    (lambda: GaussianNoise(sigma=-1), "sigma must not be negative, got -1"),
    (lambda: OneHot(0), "num_classes must be at least 1"),
    (lambda: OneHot(3)(3), "label 3 is out of range, expected 0 to 2"),
    (lambda: OneHot(3)(1.0), "takes integer labels, got float64"),
    (lambda: Compose(Pad(1)), "Compose takes a list of transforms, got Pad: Compose([a, b])"),
    (lambda: Compose([3]), "a transform is a function of an image, got int 3"),
    (lambda: RandomChoice([]), "needs at least one"),
    (lambda: RandomChoice([Pad(1)], p=[1, 2]), "p needs one weight of 0 or more for each transform, got (1, 2)"),
    (lambda: RandomApply([Pad(1)], p=0.5).batch(np.zeros((9, 4, 4, 1), np.uint8), Rng(0)), "cannot be stacked"),
    (lambda: ToImage()(np.zeros(3, np.uint8)), "ToImage(): takes one image"),
    (lambda: Grayscale(2), "num_output_channels is 1 or 3, got 2"),
]


@pytest.mark.parametrize(("call", "message"), WRONG, ids=range(len(WRONG)))
def test_wrong_settings_and_images_are_named(call, message):
    with pytest.raises((ValueError, TypeError), match=re.escape(message)):
        call()


def test_plain_functions_join_in():
    t = Compose([np.flipud, lambda image: image + 1, RandomCrop(2)])
    assert t(RAMP, Rng(0)).shape == (2, 2, 2) and repr(Lambda(np.flipud)) == "Lambda(flipud)"
    assert np.array_equal(Compose([np.flipud])(RAMP), RAMP[::-1])
    noisy = Lambda(lambda image, rng: image + rng.random())
    assert noisy(np.zeros((1, 1, 1)), Rng(2)).item() == Rng(2).random()
    assert Compose([np.flipud]) == Compose((np.flipud,)) and Compose([np.flipud]) != Compose([np.fliplr])
