"""What holds of every transform: one by one or as a batch gives the same bytes, values are equal and pickle."""

from __future__ import annotations

import hashlib
import pickle

import numpy as np
import pytest

from fnet.data import ArrayDataset, Cache, DataLoader, Map, Rng, Rngs, transforms
from fnet.data.transforms import (
    AugMix,
    AutoAugment,
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
    MissingRng,
    MixUp,
    Normalize,
    OneHot,
    OnSample,
    Pad,
    RandAugment,
    RandomAdjustSharpness,
    RandomAffine,
    RandomApply,
    RandomAutocontrast,
    RandomChoice,
    RandomCrop,
    RandomEqualize,
    RandomErasing,
    RandomGrayscale,
    RandomHorizontalFlip,
    RandomInvert,
    RandomOrder,
    RandomPerspective,
    RandomPosterize,
    RandomResizedCrop,
    RandomRotation,
    RandomSolarize,
    RandomTranslate,
    RandomVerticalFlip,
    Resize,
    TenCrop,
    ToDtype,
    ToFloat,
    ToImage,
    TrivialAugmentWide,
)


def halve(image):
    return image // 2 if image.dtype == np.uint8 else image / 2


def brighten(image, rng):
    return np.clip(image * (1 + rng.random()), 0, 1)


FLIPS = [RandomHorizontalFlip(), RandomVerticalFlip(0.3)]

# Each with the first 8 hexadecimal digits of the SHA-256 of what it gives on six uint8 images: a change of numbers
# would change everybody's training runs. None where the digits of exp or of Pillow's versions may differ.
RANDOM = [
    (RandomHorizontalFlip(), "2d85d608"),
    (RandomVerticalFlip(0.3), "29759b11"),
    (RandomCrop(12), "d1b82f57"),
    (RandomCrop((9, 14), padding=(1, 2, 3, 4), fill=(1, 2, 3)), "1bb358c8"),
    (RandomCrop(20, pad_if_needed=True, padding_mode="reflect"), "7ae058d3"),
    (RandomTranslate(3, fill=9), "fd41ac73"),
    (RandomErasing(0.7), "7f435e45"),
    (RandomErasing(1.0, value=(3, 2, 1)), "a350b855"),
    (RandomErasing(value="random"), None),
    (Cutout(6), "750fd57e"),
    (GaussianNoise(sigma=0.2), None),
    (RandomGrayscale(0.5), "e90b2397"),
    (RandomInvert(), "c7d23a15"),
    (RandomPosterize(3), "32d404d5"),
    (RandomSolarize(100), "41a94150"),
    (RandomAdjustSharpness(2.0), None),
    (RandomAutocontrast(), "3f985463"),
    (RandomEqualize(), "ee3f5ebd"),
    (ColorJitter(0.5, 0.5, 0.5, 0.2), None),
    (GaussianBlur(5), None),
    (RandomResizedCrop(8), None),
    (RandomRotation(30), None),
    (RandomAffine(20, (0.1, 0.2), (0.8, 1.2), (-5, 5, -3, 3), "bilinear", (9, 8, 7)), None),
    (RandomPerspective(p=0.8), None),
    (ElasticTransform(20.0, 2.0), None),
    (AutoAugment("cifar10"), None),
    (RandAugment(), None),
    (TrivialAugmentWide(), None),
    (AugMix(alpha=0.7), None),
    (RandomApply([RandomCrop((16, 18), padding=2), RandomInvert()], 0.4), "81013045"),
    (RandomChoice([RandomHorizontalFlip(), RandomCrop((16, 18), padding=3), Cutout(4)], p=[1, 2, 1]), "23c3b9a0"),
    (RandomOrder([RandomCrop(16, padding=3), RandomHorizontalFlip(), RandomInvert()]), "13e476cf"),
    (Compose([RandomCrop(16, padding=3), *FLIPS[:1], ToFloat(), brighten, Normalize(0.5, 0.2)]), "7fc40f51"),
]
FIXED = [ToFloat(), ToDtype("float64", scale=True), ToDtype("uint8", scale=True), Pad((1, 2)), CenterCrop(7),
         CenterCrop((20, 8)), FiveCrop(5), TenCrop((5, 6), vertical_flip=True), Resize(9), Resize((4, 30), "lanczos"),
         Grayscale(), Grayscale(3), Lambda(halve), ToImage()]  # fmt: skip
ONLY_BYTES = (AutoAugment, RandAugment, TrivialAugmentWide, AugMix)


def images(dtype, count=6):
    whole = np.random.default_rng(5).integers(0, 256, (count, 16, 18, 3)).astype(np.uint8)
    whole[:, 4:9, 3:12] = 200  # something with edges
    return whole if dtype == "uint8" else (whole / 255).astype(dtype)


@pytest.mark.parametrize("t", [t for t, _ in RANDOM] + FIXED, ids=lambda t: repr(t)[:60])
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_a_batch_gives_the_bytes_of_its_samples(t, dtype):
    if isinstance(t, ONLY_BYTES) and dtype != "uint8":
        with pytest.raises(TypeError, match=r"takes uint8 images of 1 or 3 channels, before ToFloat, got float32\[16"):
            t(images(dtype)[0], Rng(0))
        return
    batch, before = images(dtype), images(dtype)
    one_by_one = [t(image, Rng(3, 1, i)) for i, image in enumerate(batch)]
    together = t.batch(batch, Rngs(3, 1, np.arange(len(batch))))
    assert np.array_equal(batch, before)  # the argument is left alone
    assert together.dtype == one_by_one[0].dtype and together.tobytes() == np.stack(one_by_one).tobytes()
    swapped = t.batch(batch[[4, 1]], Rngs(3, 1, np.array([4, 1])))  # what a sample becomes depends on nobody else
    assert swapped.tobytes() == np.stack([one_by_one[4], one_by_one[1]]).tobytes()


@pytest.mark.parametrize(("t", "digest"), RANDOM, ids=lambda v: repr(v)[:60])
def test_numbers_never_change(t, digest):
    out = t.batch(images("uint8"), Rngs(3, 1, np.arange(6)))
    if digest is not None:
        assert hashlib.sha256(out.tobytes()).hexdigest()[:8] == digest


@pytest.mark.parametrize("t", [t for t, _ in RANDOM], ids=lambda t: repr(t)[:60])
def test_random_ones_draw_the_same_count_always_and_say_so_without_numbers(t):
    assert t.random and OnSample(t).random
    with pytest.raises(MissingRng, match=r"called without .* rng=fnet.data.Rng\(seed\).*Map\(dataset, OnSample"):
        t(images("uint8")[0])
    if isinstance(t, (RandomApply, RandomChoice, RandomOrder, Compose)):
        return
    counts = set()
    for i, image in enumerate(images("uint8")):
        rng = Rng(i)
        t(image, rng)
        counts.add(rng.count)
    assert len(counts) == 1 and counts != {0}


def test_fixed_ones_are_not_random_and_may_be_cached():
    fixed = [*FIXED, Normalize(0.5, 0.2), OneHot(4), Compose([ToFloat(), Normalize(0.5, 0.2)])]
    assert not any(t.random or OnSample(t, OneHot(4)).random for t in fixed)
    assert Lambda(brighten).random and OnSample(None, brighten).random
    small = Map(ArrayDataset(images("uint8"), np.arange(6)), OnSample(Resize(9)))
    assert DataLoader(Cache(small), 6).batch(0)[0].tobytes() == Resize(9).batch(images("uint8")).tobytes()
    with pytest.raises(ValueError, match="one draw of a random dataset"):
        Cache(Map(small, OnSample(RandomCrop(4))))


def test_every_transform_is_tested_here():
    tested = {type(t).__name__ for t, _ in RANDOM} | {type(t).__name__ for t in FIXED}
    others = {"CutMix", "MixUp", "MissingRng", "Normalize", "OnSample", "OneHot", "Transform"}
    assert tested | others == set(transforms.__all__)


@pytest.mark.parametrize("t", [t for t, _ in RANDOM] + FIXED + [MixUp(0.2, 10), CutMix(num_classes=10), OneHot(4),
                               OnSample(Compose(FLIPS), OneHot(3), masks=[2])], ids=lambda t: repr(t)[:60])  # fmt: skip
def test_transforms_are_values(t):
    copy = pickle.loads(pickle.dumps(t))
    assert copy == t and hash(copy) == hash(t) and repr(copy) == repr(t)
    assert t != Pad(77) and repr(t).startswith(type(t).__name__ + "(")
    with pytest.raises(AttributeError):
        t.p = 1


def test_a_numpy_generator_serves_in_place_of_a_stream():
    t = Compose([RandomCrop(8), RandomErasing(1.0, value="random"), ColorJitter(0.1)])
    image = images("float32")[0]
    assert np.array_equal(t(image, np.random.default_rng(0)), t(image, np.random.default_rng(0)))
    assert not np.array_equal(t(image, np.random.default_rng(0)), t(image, np.random.default_rng(1)))
    batch = t.batch(images("float32"), np.random.default_rng(0))
    assert batch.shape == (6, 8, 8, 3) and not np.array_equal(batch[0], batch[1])


# --- the streams ------------------------------------------------------------------------------------------------------


def test_streams_are_splitmix64():
    """The published test vector: SplitMix64 seeded with 1234567 (Vigna's C code; Rosetta Code lists its output)."""
    stream = Rng.from_key(1234567)
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    assert [stream.random() for _ in expected] == [(number >> 11) * 2.0**-53 for number in expected]


def test_streams_agree_however_they_are_drawn():
    rngs = Rngs(7, 2, np.arange(5))
    many, again = rngs.random((3, 11)), rngs.random(2)
    for row in range(5):
        rng = Rng(7, 2, row)
        assert np.array_equal(many[row].ravel()[:4], rng.random(4)) and rng.random() == many[row].ravel()[4]
        assert np.array_equal(rng.random((4, 7)).ravel(), many[row].ravel()[5:])
        assert np.array_equal(rng.random(2), again[row]) and rng.count == 35
    part = rngs.rows(np.array([3, 1]))
    assert part.random(1)[0, 0] == rngs[3].random()
    rngs.put(np.array([3, 1]), part)
    assert rngs.counts.tolist() == [35, 36, 35, 36, 35]
    with pytest.raises(ValueError, match="streams of 5 samples for a batch of 4"):
        Rngs.of(rngs, 4)
    assert repr(Rng(0)).endswith("0 drawn)") and repr(rngs) == "Rngs(5 samples)"


def test_streams_are_uniform_and_unrelated():
    u = Rngs(0, 0, np.arange(400)).random(500)
    counts = np.histogram(u, 64, (0, 1))[0]
    assert ((counts - u.size / 64) ** 2 / (u.size / 64)).sum() < 63 + 5 * np.sqrt(2 * 63)
    for a, b in ((u[:-1], u[1:]), (u[:, :-1], u[:, 1:])):  # neighbouring samples, neighbouring numbers
        assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 5 / np.sqrt(u.size)


def test_what_pytorch_calls_otherwise_is_said():
    with pytest.raises(AttributeError, match=r"transforms.ToTensor is ToFloat\(\)"):
        transforms.ToTensor  # noqa: B018
    with pytest.raises(AttributeError, match="no 'Nothing'"):
        transforms.Nothing  # noqa: B018
    sample = (np.zeros((2, 3, 1), np.uint8), 1)
    for t in (Pad(1), Compose([Pad(1)]), ToFloat(), Normalize(0.5, 0.5)):
        with pytest.raises(TypeError, match=r"got a tuple.*Map\(dataset, OnSample\(transform\)\)"):
            t(sample)
