"""Geometry and colours against Pillow, PyTorch and the formulas of torchvision's documentation."""

from __future__ import annotations

import builtins
import re

import numpy as np
import pytest

from fnet.data import Rng
from fnet.data.transforms import (
    AugMix,
    AutoAugment,
    ColorJitter,
    Compose,
    ElasticTransform,
    GaussianBlur,
    RandAugment,
    RandomAdjustSharpness,
    RandomAffine,
    RandomGrayscale,
    RandomPerspective,
    RandomPosterize,
    RandomResizedCrop,
    RandomRotation,
    Resize,
    ToFloat,
    ToImage,
    TrivialAugmentWide,
    adjust,
    auto,
    geometry,
)
from fnet.data.transforms.policies import POLICIES

Image = pytest.importorskip("PIL.Image", reason="needs the image extra: pip install fnet[image]")
from PIL import ImageEnhance, ImageOps  # noqa: E402

NOISE = np.random.default_rng(0).integers(0, 256, (14, 17, 3)).astype(np.uint8)
FLOATS = (NOISE / 255).astype(np.float32)
TORCH = "parity tests need the oracle extra: pip install fnet[oracle]"


class Fixed:
    """Random numbers that were chosen by hand."""

    def __init__(self, *numbers):
        self.numbers = list(numbers)

    def random(self, size):
        return np.array([self.numbers.pop(0) for _ in range(int(np.prod(size)))]).reshape(size)


def picture(array):
    return Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array)


# --- geometry ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"])
def test_resize_is_pillow_s(name):
    filter_ = Image.Resampling[name.upper()]
    assert np.array_equal(Resize((9, 20), name)(NOISE), np.asarray(picture(NOISE).resize((20, 9), filter_)))
    grey = Resize((9, 20), name)(NOISE[..., :1])
    assert np.array_equal(grey[..., 0], np.asarray(picture(NOISE[..., :1]).resize((20, 9), filter_)))
    floats = Resize((9, 20), name)(FLOATS)
    assert floats.dtype == np.float32 and np.abs(floats - np.asarray(Resize((9, 20), name)(NOISE)) / 255).max() < (
        0.3 if name in ("bicubic", "lanczos") else 0.005  # bytes are clipped where these overshoot
    )
    five = np.concatenate([NOISE, NOISE[..., :2]], -1)  # any number of channels
    assert np.array_equal(Resize((9, 20), name)(five)[..., 3:], Resize((9, 20), name)(NOISE)[..., :2])


def test_resize_of_floats_is_torch_s_antialiased_interpolation():
    torch = pytest.importorskip("torch", reason=TORCH)
    x = torch.from_numpy(FLOATS).permute(2, 0, 1)[None]
    expected = torch.nn.functional.interpolate(x, (6, 23), mode="bilinear", antialias=True, align_corners=False)
    np.testing.assert_allclose(Resize((6, 23))(FLOATS), expected[0].permute(1, 2, 0).numpy(), atol=1e-5)


def test_resize_by_the_shorter_edge():
    """Sizes as torchvision's documentation: size * long / short, cut to max_size, fractions cut off."""
    for (height, width), size, limit, expected in (
        ((14, 17), 7, None, (7, 8)),
        ((17, 14), 7, None, (8, 7)),
        ((10, 40), 8, 20, (5, 20)),
        ((40, 10), 8, 20, (20, 5)),
        ((6, 6), 9, None, (9, 9)),
    ):
        assert Resize(size, max_size=limit)(np.zeros((height, width, 1), np.uint8)).shape[:2] == expected


def test_rotation_and_resized_crop_are_pillow_s():
    turned = picture(NOISE).rotate(20.0, Image.Resampling.BILINEAR, True, fillcolor=(1, 2, 3))
    t = RandomRotation((10, 30), "bilinear", expand=True, fill=(1, 2, 3))
    assert np.array_equal(t(NOISE, Fixed(0.5)), np.asarray(turned))
    about = picture(NOISE).rotate(-30.0, Image.Resampling.NEAREST, False, (2, 3))
    assert np.array_equal(RandomRotation(30, center=(2, 3))(NOISE, Fixed(0.0)), np.asarray(about))
    t = RandomResizedCrop((5, 6), interpolation="bicubic")
    y, x, h, w = t.draw(NOISE.shape, Rng(1))
    part = picture(NOISE).crop((x, y, x + w, y + h)).resize((6, 5), Image.Resampling.BICUBIC)
    assert np.array_equal(t(NOISE, Rng(1)), np.asarray(part))


def test_the_affine_matrix_undoes_the_product_of_the_steps():
    """T C R Sy Sx scale C^-1, as torchvision's source states it."""
    rng = np.random.default_rng(0)
    for _ in range(5):
        angle, sx, sy = rng.uniform(-40, 40, 3)
        (cx, cy), (tx, ty), scale = rng.uniform(2, 9, 2), rng.uniform(-3, 3, 2), rng.uniform(0.5, 2)
        a, x, y = np.radians([angle, sx, sy])

        def move(dx, dy):
            return np.array([[1, 0, dx], [0, 1, dy], [0, 0, 1]])

        turn = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
        shears = np.array([[1, 0, 0], [-np.tan(y), 1, 0], [0, 0, 1]])
        shears = shears @ np.array([[1, -np.tan(x), 0], [0, 1, 0], [0, 0, 1]])
        forward = move(tx, ty) @ move(cx, cy) @ turn @ shears @ np.diag([scale, scale, 1]) @ move(-cx, -cy)
        ours = geometry.affine_matrix((cx, cy), angle, (tx, ty), scale, (sx, sy))
        np.testing.assert_allclose(np.reshape(ours, (2, 3)), np.linalg.inv(forward)[:2], atol=1e-9)


def test_affine_steps():
    shifted = RandomAffine(0, translate=(0.5, 0.5))(NOISE, Fixed(0.5, 1.0, 0.0, 0, 0, 0))  # right 8, up 7
    assert np.array_equal(shifted[:7, 8:], NOISE[7:, :9]) and (shifted[7:] == 0).all() and (shifted[:, :8] == 0).all()
    assert np.array_equal(RandomAffine(0)(NOISE, Rng(0)), NOISE)
    draws = [RandomAffine(0, translate=(0.2, 0)).draw((100, 100), Rng(i)) for i in range(200)]
    assert {draw[5] for draw in draws} == {0} and min(d[2] for d in draws) < -18 and max(d[2] for d in draws) > 18
    assert max(abs(d[2]) for d in draws) <= 20


def test_perspective_sends_corners_where_it_says():
    starts, ends = [(0, 0), (16, 0), (16, 13), (0, 13)], [(2, 1), (14, 3), (15, 12), (1, 10)]
    a, b, c, d, e, f, g, h = geometry.perspective_coefficients(starts, ends)
    for (u, v), (x, y) in zip(starts, ends, strict=True):  # from output to input
        scale = g * x + h * y + 1
        np.testing.assert_allclose(((a * x + b * y + c) / scale, (d * x + e * y + f) / scale), (u, v), atol=1e-9)
    t = RandomPerspective(0.5, p=1.0, fill=5)
    numbers, filter_ = t.draw(NOISE.shape, Rng(3)), Image.Resampling.BILINEAR
    expected = picture(NOISE).transform((17, 14), Image.Transform.PERSPECTIVE, numbers, filter_, fillcolor=(5, 5, 5))
    assert np.array_equal(t(NOISE, Rng(3)), np.asarray(expected))
    assert RandomPerspective(p=0.0)(NOISE, Rng(0)) is NOISE


def test_elastic_is_torch_s_grid_sample():
    torch = pytest.importorskip("torch", reason=TORCH)
    t = ElasticTransform(40.0, 2.0)
    where = t.draw(FLOATS.shape, Rng(2))
    grid = np.stack([(2 * where[1] + 1) / 17 - 1, (2 * where[0] + 1) / 14 - 1], -1)
    expected = torch.nn.functional.grid_sample(
        torch.from_numpy(FLOATS.astype(float)).permute(2, 0, 1)[None], torch.from_numpy(grid)[None], align_corners=False
    )
    np.testing.assert_allclose(t(FLOATS, Rng(2)), expected[0].permute(1, 2, 0).numpy(), atol=1e-5)


# --- colours ----------------------------------------------------------------------------------------------------------

ENHANCERS = [
    (adjust.adjust_brightness, ImageEnhance.Brightness),
    (adjust.adjust_contrast, ImageEnhance.Contrast),
    (adjust.adjust_saturation, ImageEnhance.Color),
    (adjust.adjust_sharpness, ImageEnhance.Sharpness),
]


@pytest.mark.parametrize(("ours", "theirs"), ENHANCERS, ids=lambda v: getattr(v, "__name__", ""))
@pytest.mark.parametrize("factor", [0.0, 0.4, 1.0, 1.7])
def test_bytes_are_pillow_s_and_floats_agree_with_them(ours, theirs, factor):
    smooth = np.asarray(Resize((14, 17), "bicubic")(NOISE[:5, :5]))
    for image in (NOISE, smooth):
        expected = np.asarray(theirs(picture(image)).enhance(factor))
        assert np.array_equal(ours(image, factor), expected)
        floats = ours((image / 255).astype(np.float32), factor)
        assert floats.dtype == np.float32 and np.abs(255 * floats - expected).max() < 2.5  # roundings and grey weights
    one = ours(NOISE[..., :1], factor)
    assert one.shape == (14, 17, 1)


def test_operations_of_bytes_are_pillow_s():
    im = picture(NOISE)
    assert np.array_equal(adjust.invert(NOISE), np.asarray(ImageOps.invert(im)))
    for bits in range(1, 9):
        assert np.array_equal(adjust.posterize(NOISE, bits), np.asarray(ImageOps.posterize(im, bits)))
    for threshold in (0, 100, 256):
        assert np.array_equal(adjust.solarize(NOISE, threshold), np.asarray(ImageOps.solarize(im, threshold)))
    dull = NOISE // 3 + 40
    assert np.array_equal(adjust.autocontrast(dull), np.asarray(ImageOps.autocontrast(picture(dull))))
    assert np.array_equal(adjust.equalize(dull), np.asarray(ImageOps.equalize(picture(dull))))
    assert np.array_equal(adjust.to_grey(NOISE)[..., 0], np.asarray(im.convert("L")))


def test_operations_of_floats():
    np.testing.assert_allclose(adjust.invert(FLOATS), 1 - FLOATS)
    assert set(np.unique(adjust.posterize(FLOATS, 2))) == {0, 0.25, 0.5, 0.75}
    np.testing.assert_allclose(adjust.solarize(FLOATS, 0.5), np.where(FLOATS >= 0.5, 1 - FLOATS, FLOATS))
    dull = FLOATS / 3 + 0.2
    stretched = adjust.autocontrast(dull)
    np.testing.assert_allclose(stretched, (dull - dull.min((0, 1))) / np.ptp(dull, (0, 1)), atol=1e-6)
    flat = np.full((3, 3, 1), 0.4, np.float32)
    assert np.array_equal(adjust.autocontrast(flat), flat)
    np.testing.assert_allclose(adjust.equalize(FLOATS) * 255, adjust.equalize(NOISE), atol=1e-4)
    np.testing.assert_allclose(adjust.to_grey(FLOATS)[..., 0], FLOATS @ [0.2989, 0.587, 0.114], atol=1e-6)


def test_hue_is_that_of_colorsys():
    import colorsys

    for turn in (-0.5, -0.2, 0.0, 0.1, 0.5):
        out = adjust.adjust_hue(FLOATS, turn)
        for pixel, changed in zip(FLOATS.reshape(-1, 3)[:40], out.reshape(-1, 3), strict=False):
            h, s, v = colorsys.rgb_to_hsv(*pixel)
            np.testing.assert_allclose(changed, colorsys.hsv_to_rgb((h + turn) % 1, s, v), atol=1e-5)
        h, s, v = picture(NOISE).convert("HSV").split()
        turned = Image.fromarray(np.asarray(h) + np.int32(turn * 255).astype(np.uint8))
        expected = Image.merge("HSV", (turned, s, v)).convert("RGB")
        assert np.array_equal(adjust.adjust_hue(NOISE, turn), np.asarray(expected))
    grey = FLOATS[..., :1]
    assert adjust.adjust_hue(grey, 0.3) is grey and adjust.adjust_saturation(grey, 0.3) is grey


def test_blur_is_torch_s_convolution():
    torch = pytest.importorskip("torch", reason=TORCH)
    t = GaussianBlur((3, 7), (0.5, 1.5))
    sigma = 0.5 + Rng(0).random()
    kernels = []
    for taps in (3, 7):
        x = torch.linspace(-(taps - 1) / 2, (taps - 1) / 2, taps, dtype=torch.float64)
        kernel = torch.exp(-0.5 * (x / sigma) ** 2)
        kernels.append(kernel / kernel.sum())
    weight = (kernels[0][:, None] * kernels[1][None]).expand(3, 1, 3, 7)
    for image in (NOISE, FLOATS):
        x = torch.from_numpy(image.astype(float)).permute(2, 0, 1)[None]
        x = torch.nn.functional.conv2d(torch.nn.functional.pad(x, (3, 3, 1, 1), "reflect"), weight, groups=3)
        expected = x[0].permute(1, 2, 0).numpy()
        out = t(image, Rng(0))
        assert out.dtype == image.dtype
        np.testing.assert_allclose(out, np.rint(expected) if image is NOISE else expected, atol=1e-5)


def test_jitter_draws_factors_and_orders():
    t = ColorJitter(0.4, (0.2, 0.5), 0, 0.1)
    assert t.brightness == (0.6, 1.4) and t.saturation == (1, 1) and t.hue == (-0.1, 0.1)
    drawn = [t.draw((), Rng(i)) for i in range(300)]
    assert len({tuple(f.__name__ for f, _ in steps) for steps in drawn}) == 6  # the orders of three
    factors = np.array([[{f.__name__: v for f, v in steps}[n] for n in
                         ("adjust_brightness", "adjust_contrast", "adjust_hue")] for steps in drawn])  # fmt: skip
    assert np.allclose(factors.min(0), [0.6, 0.2, -0.1], atol=0.02)
    assert np.allclose(factors.max(0), [1.4, 0.5, 0.1], atol=0.02)
    assert np.allclose(factors.mean(0), [1.0, 0.35, 0.0], atol=0.07)
    fixed = ColorJitter((0.5, 0.5), (2, 2))(FLOATS, Fixed(0.1, 0.2, 0.3, 0.4, 0, 0, 0, 0))
    np.testing.assert_allclose(fixed, adjust.adjust_contrast(adjust.adjust_brightness(FLOATS, 0.5), 2), atol=1e-6)


# --- automatic augmentation -------------------------------------------------------------------------------------------


def test_operations_by_name():
    im = picture(NOISE)
    expected = {
        "Identity": NOISE,
        "ShearX": im.transform(im.size, Image.Transform.AFFINE, (1, 0.3, 0, 0, 1, 0), Image.Resampling.NEAREST),
        "ShearY": im.transform(im.size, Image.Transform.AFFINE, (1, 0, 0, 0.3, 1, 0), Image.Resampling.NEAREST),
        "TranslateX": im.transform(im.size, Image.Transform.AFFINE, (1, 0, -4, 0, 1, 0), Image.Resampling.NEAREST),
        "TranslateY": im.transform(im.size, Image.Transform.AFFINE, (1, 0, 0, 0, 1, -4), Image.Resampling.NEAREST),
        "Rotate": im.rotate(25, Image.Resampling.NEAREST),
        "Brightness": ImageEnhance.Brightness(im).enhance(1.3),
        "Color": ImageEnhance.Color(im).enhance(1.3),
        "Contrast": ImageEnhance.Contrast(im).enhance(1.3),
        "Sharpness": ImageEnhance.Sharpness(im).enhance(1.3),
        "Posterize": ImageOps.posterize(im, 5),
        "Solarize": ImageOps.solarize(im, 76.5),
        "AutoContrast": ImageOps.autocontrast(im),
        "Equalize": ImageOps.equalize(im),
        "Invert": ImageOps.invert(im),
    }
    strengths = {"TranslateX": 4.9, "TranslateY": 4.9, "Rotate": 25, "Posterize": 5}
    for name, result in expected.items():
        out = auto.operate(NOISE, name, strengths.get(name, 0.3), "nearest", 0, "test")
        assert np.array_equal(out, np.asarray(result)), name


def test_strengths_are_those_of_the_tables():
    wide = auto._wide((100, 331, 3))
    assert [auto._strength(wide, "Rotate", k, 31, 0.9) for k in (0, 9, 30)] == [0, 9, 30]
    assert auto._strength(wide, "TranslateX", 30, 31, 0.1) == -150  # half of the signs are negative
    assert [auto._strength(wide, "Posterize", k, 10, 0.1) for k in (0, 5, 6, 9)] == [8, 6, 5, 4]
    assert auto._strength(wide, "Solarize", 9, 31, 0) == pytest.approx(0.7)
    assert [len(pairs) for pairs in POLICIES.values()] == [25, 25, 25]
    assert POLICIES["imagenet"][0] == (("Posterize", 0.4, 8), ("Rotate", 0.6, 9))
    assert POLICIES["cifar10"][13] == (("Brightness", 0.9, 6), ("Color", 0.2, 8))
    assert POLICIES["svhn"][24] == (("ShearX", 0.7, 2), ("Invert", 0.1, 0))


def test_what_is_drawn():
    n = 400
    drawn = [RandAugment(2, 15).draw((32, 32, 3), Rng(i)) for i in range(n)]
    names = [name for steps in drawn for name, _ in steps]
    assert len(set(names)) == 14
    assert max(names.count(name) for name in set(names)) < 2 * n / 14 + 5 * np.sqrt(2 * n / 14)
    rotations = [strength for steps in drawn for name, strength in steps if name == "Rotate"]
    assert set(rotations) == {15.0, -15.0}
    trivial = [TrivialAugmentWide().draw((32, 32, 3), Rng(i))[0] for i in range(n)]
    assert len({name for name, _ in trivial}) == 14 and len({s for name, s in trivial if name == "Rotate"}) > 10
    lengths = [len(AutoAugment("svhn").draw((32, 32, 3), Rng(i))) for i in range(n)]
    expected = np.mean([p1 + p2 for (_, p1, _), (_, p2, _) in POLICIES["svhn"]])
    assert abs(np.mean(lengths) - expected) < 5 * 0.7 / np.sqrt(n)
    for t in (AugMix(), AugMix(mixture_width=2, chain_depth=5, alpha=0.5, all_ops=False)):
        mixes = [t.draw((32, 32, 3), Rng(i)) for i in range(n)]
        assert all(abs(own + sum(share for share, _ in chains) - 1) < 1e-9 for own, chains in mixes)
        assert abs(np.mean([own for own, _ in mixes]) - 0.5) < 5 * 0.36 / np.sqrt(n)
        depths = {len(chain) for _, chains in mixes for _, chain in chains}
        assert depths == ({1, 2, 3} if t.chain_depth < 0 else {5}) and len(mixes[0][1]) == t.mixture_width
    assert "Color" not in {name for _, chains in mixes for _, chain in chains for name, _ in chain}


# --- PIL images, the missing extra, wrong settings --------------------------------------------------------------------


def test_pil_images_are_taken():
    assert np.array_equal(Resize(7)(picture(NOISE)), Resize(7)(NOISE))
    assert Resize((5, 5))(picture(NOISE).convert("L")).shape == (5, 5, 1)
    assert np.array_equal(ToImage()(picture(NOISE)), NOISE)


def test_without_pillow_the_error_names_the_extra(monkeypatch):
    real = builtins.__import__

    def blocked(name, *args, **kwargs):
        if name.split(".")[0] == "PIL":
            raise ImportError("no PIL here")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", blocked)
    with pytest.raises(ImportError, match=r"Resize\(size=7.*needs Pillow: pip install 'fnet\[image\]'"):
        Resize(7)(NOISE)
    Compose([ToFloat(), GaussianBlur(3), ElasticTransform(5.0, 1.0), ColorJitter(0.3)])(NOISE, Rng(0))  # numpy alone


WRONG = [
    (lambda: Resize(0), "Resize: size is one positive integer or (height, width), got 0"),
    (lambda: Resize(8, "cubic"), "one of nearest, bilinear, bicubic, lanczos, box, hamming, got 'cubic'"),
    (lambda: Resize((8, 8), max_size=9), "max_size=9 goes with a size that is one integer"),
    (lambda: RandomRotation(-3), "degrees as one number must not be negative, got -3"),
    (lambda: RandomRotation(3, "lanczos"), "interpolation is one of nearest, bilinear, bicubic, got 'lanczos'"),
    (lambda: RandomAffine(3, translate=(2, 0)), "translate is two fractions of 0 to 1, got (2, 0)"),
    (lambda: RandomAffine(3, shear=(1, 2, 3)), "shear is one angle, (low, high) or four angles"),
    (lambda: RandomAffine(3, scale=(0, 1)), "RandomAffine: scale needs 1e-06 <= low <= high, got (0, 1)"),
    (lambda: RandomPerspective(2), "distortion_scale is from 0 to 1, got 2"),
    (lambda: ElasticTransform(sigma=0), "sigma must be positive, got 0"),
    (lambda: ColorJitter(-1), "brightness must not be negative, got -1"),
    (lambda: ColorJitter(hue=0.6), "ColorJitter: hue needs -0.5 <= low <= high"),
    (lambda: ColorJitter(hue=(0, 0.6)), "hue is within -0.5 to 0.5 turns, got (0, 0.6)"),
    (lambda: GaussianBlur(4), "kernel_size is odd and positive, or two such, got 4"),
    (lambda: GaussianBlur(29)(NOISE, Rng(0)), "the kernel reaches 14 pixels beyond an image of 14 x 17"),
    (lambda: RandomPosterize(9), "bits is from 0 to 8, got 9"),
    (lambda: RandomGrayscale(1.0)(NOISE[..., :2], Rng(0)), "grey values are made of 1 or 3 channels, the image has 2"),
    (lambda: RandomAdjustSharpness(2, 1.0)(NOISE[..., :2], Rng(0)), "colours are of 3 channels (RGB), the image has 2"),
    (lambda: AutoAugment("mnist"), "policy is one of imagenet, cifar10, svhn, got 'mnist'"),
    (lambda: RandAugment(magnitude=31), "magnitude below num_magnitude_bins, got 2, 31 and 31"),
    (lambda: AugMix(11), "severity is from 1 to 10, got 11"),
    (lambda: AugMix(chain_depth=0), "chain_depth (or -1) and alpha must be positive"),
    (lambda: TrivialAugmentWide("nearest", "box"), "interpolation is one of nearest, bilinear, bicubic, got 'box'"),
]


@pytest.mark.parametrize(("call", "message"), WRONG, ids=range(len(WRONG)))
def test_wrong_settings_are_named(call, message):
    with pytest.raises((ValueError, TypeError), match=re.escape(message)):
        call()
