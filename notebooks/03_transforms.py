# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 3 · Transforms
#
# Data rarely comes in the form that training wants. A transform is a function from one to the other. fnet's have the names and arguments of `torchvision.transforms.v2`; they are values (two with equal settings are equal), and they take and return NumPy arrays `(height, width, channels)`.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import fnet.functional as F
from fnet import data
from fnet.data import transforms as T

digits, _ = data.digits()
train_set = data.Map(digits, T.OnSample(T.Resize(32)))  # 8×8 is small to look at; enlarging is a transform already
image, label = train_set[3]


def before_and_after(pairs, columns):
    """Rows of pictures, each with what it is called."""
    figure, grid = plt.subplots(len(pairs), columns, figsize=(1.3 * columns, 1.5 * len(pairs)), layout="constrained")
    for axes, (name, pictures) in zip(np.atleast_2d(grid), pairs.items(), strict=True):
        for ax, picture in zip(axes, pictures, strict=True):
            ax.imshow(np.squeeze(picture), cmap="gray_r", vmin=0, vmax=255 if picture.dtype == np.uint8 else 1)
            ax.axis("off")
        axes[0].set_title(name, fontsize=9, loc="left")
    plt.show()


# %% [markdown]
# `T.OnSample` applies a transform to the image of an `(image, label)` sample, and `data.Map` is the dataset of a function of each sample: both come back below.
#
# ## The two of PyTorch's tutorial
#
# `ToTensor()` turned bytes of 0 to 255 into floats of 0 to 1, and moved the channels to the front. Here that is `ToFloat()`, and the channels stay where they are, last. `Lambda(...)` made one-hot labels; here that is `OneHot(10)`.

# %%
as_float, as_vector = T.ToFloat()(image), T.OneHot(10)(label)
print(image.dtype, image.max(), "→", as_float.dtype, as_float.max())
print(label, "→", as_vector)

# %% [markdown]
# You will need `OneHot` less than you think: `F.cross_entropy`, as PyTorch's, takes the class numbers themselves. And there is no hurry to become float: a byte is a quarter of a float's memory, so it is usual to keep images as bytes through the whole pipeline and to write `x / 255` as the first line of the model. If you forget, you are told:

# %%
try:
    F.linear(jnp.asarray(image).reshape(1, -1), jnp.ones((1024, 10)))
except TypeError as error:
    print("TypeError:", error)

# %% [markdown]
# ## Putting them together
#
# `Compose` applies one after another, and any function of an image may stand among them: `T.Lambda` is written around it for you.

# %%
prepare = T.Compose([T.CenterCrop(24), T.ToFloat(), T.Normalize(0.5, 0.5)])
print(prepare)
prepared = prepare(image)
print(image.shape, "→", prepared.shape, "from", prepared.min().round(2), "to", prepared.max().round(2))

# %% [markdown]
# ## Random transforms, without a hidden generator
#
# In PyTorch a random transform draws from the global generator, so what a sample looks like depends on how many were drawn before it and by which worker. Here **the random numbers are an argument**, `transform(image, rng)`. Call one without, and it says so. To try things out, `np.random.default_rng(0)` will do.

# %%
rotate = T.RandomRotation(30)
try:
    rotate(image)
except ValueError as error:
    print(type(error).__name__ + ":", error)

rng = np.random.default_rng(0)
before_and_after({"before, and five rotations": [image, *(rotate(image, rng) for _ in range(5))]}, columns=6)

# %% [markdown]
# In training you do not pass it yourself. You give the transform to a dataset, and the loader hands each sample a stream of random numbers of its own, which depends on (seed, epoch, index of the sample) and on nothing else: not on the number of workers, not on the order. A run that is resumed sees the same augmented images as one that was never stopped.
#
# `T.OnSample(transform, target_transform)` says what is for the image and what for the label, and `data.Map` applies it:

# %%
augment = T.Compose([T.RandomTranslate(4), T.RandomRotation(20), T.RandomErasing(p=0.5, scale=(0.02, 0.1))])
augmented = data.Map(train_set, T.OnSample(augment))
loader = data.DataLoader(augmented, batch_size=6, seed=0)

epochs = {f"the same six samples in epoch {e}": loader.batch(e * len(loader))[0] for e in range(3)}
before_and_after({"before": data.DataLoader(train_set, batch_size=6).batch(0)[0], **epochs}, columns=6)
again = loader.batch(2 * len(loader))[0]
print("the same again when asked again:", np.array_equal(epochs["the same six samples in epoch 2"], again))

# %% [markdown]
# **What to notice.** Each epoch shows the network other versions of the same digits. Which ones are worth training on is a question about your data, and these pictures are how you answer it: a digit that *you* cannot read any more teaches nothing. A flip, for example, is harmless for photographs of cats and ruins a 2.
#
# `ImageCSV` and `ImageFolder` take `transform=` and `target_transform=` themselves, as torchvision's datasets do.
#
# And a dataset of your own? The `CustomImageDataset` of notebook 2 calls `self.transform(image)` in `__getitem__`, where there are no random numbers to hand on, so `rotate` in it ends in the error above. The way out is the same `Map`: leave `transform` away, and write `data.Map(mine, T.OnSample(rotate))`. If the class is to do it by itself, give it a method `get(self, i, rng)`. The loader calls it in the place of `__getitem__`:


# %%
class Rotated:
    def __len__(self):
        return len(train_set)

    def __getitem__(self, i):
        return train_set[i]

    def get(self, i, rng):
        image, label = self[i]
        return rotate(image, rng), label


ways = (data.Map(train_set, T.OnSample(rotate)), Rotated())
by_map, by_get = (data.DataLoader(way, batch_size=6, seed=0).batch(0)[0] for way in ways)
print("the same images either way:", np.array_equal(by_map, by_get))

# %% [markdown]
# ## A whole batch at once
#
# `Map` goes sample by sample in Python. Every transform also has `.batch`, which gives the same bytes, many at a time; `data.MapBatch` uses it, and is what to take for small images.

# %%
fast = data.MapBatch(train_set, T.OnSample(augment).batch)
one_by_one, at_once = (data.DataLoader(d, batch_size=64, shuffle=True, seed=0).batch(5)[0] for d in (augmented, fast))
print("the same bytes:", np.array_equal(one_by_one, at_once))

# %% [markdown]
# ## Or on the device, inside the training step
#
# Simple augmentations can also be part of the compiled step, where a GPU does them in passing: `F.random_flip`, `F.random_crop`, `F.cutout`, `F.color_jitter`, `F.mixup`, `F.cutmix`. They take a key, as everything random in JAX, and a batch.

# %%
batch = jnp.asarray(data.DataLoader(train_set, batch_size=6).batch(0)[0])
cut = jax.jit(lambda key, images: F.cutout(key, images, size=10))(jax.random.key(0), batch)
before_and_after({"before": np.asarray(batch), "F.cutout, compiled": np.asarray(cut)}, columns=6)

# %% [markdown]
# ## A transform of your own
#
# If it draws nothing, it is a function, and you are done. If it draws, it is a frozen dataclass with two methods: `draw` takes random numbers, `apply` uses them. Why two? So that a segmentation mask can be moved along with its image by the same draw. `self.uniforms(rng, n)` gives *n* random numbers from 0 to 1; drawn by it, the transform has its `.batch` without further work.

# %%
from dataclasses import dataclass


@dataclass(frozen=True)
class RandomInk(T.Transform):
    """Write with less ink: the image times a random number between `low` and 1."""

    low: float = 0.3

    def draw(self, shape, rng):
        return self.low + (1 - self.low) * self.uniforms(rng, 1)[0]

    def apply(self, image, strength):
        return np.rint(image * strength).astype(np.uint8)


rng = np.random.default_rng(1)
before_and_after({"before, and five with less ink": [image, *(RandomInk()(image, rng) for _ in range(5))]}, columns=6)

# %% [markdown]
# **Exercise.** `MixUp` trains on blends of two images with the blend of their labels. Before looking it up: write a function `blend(batch)` of a batch `(images, labels)` that mixes each image half and half with the next one of the batch, and gives labels of shape `(n, 10)` with two entries of 0.5. Use `np.roll` and `T.OneHot`.
#
# <details>
# <summary>Solution</summary>
#
# ```python
# def blend(batch):
#     images, labels = batch
#     vectors = T.OneHot(10)(labels)
#     floats = T.ToFloat()(images)
#     return (floats + np.roll(floats, 1, axis=0)) / 2, (vectors + np.roll(vectors, 1, axis=0)) / 2
#
# images, targets = blend(data.DataLoader(train_set, batch_size=6).batch(0))
# print(images.shape, targets[1])
# assert np.allclose(targets.sum(axis=1), 1)
# ```
#
# `F.cross_entropy` takes such targets: floats of shape `(n, classes)` are probabilities, integers of shape `(n,)` are class numbers, as in PyTorch. The paper's version draws how much of each instead of always half: `T.MixUp(num_classes=10)`, or `F.mixup` on the device.
#
# </details>
#
# To end with, a digit before and after each of eleven transforms of the library:

# %%
gallery = {
    "before": None, "RandomRotation": T.RandomRotation(30), "RandomTranslate": T.RandomTranslate(8),
    "RandomAffine": T.RandomAffine(20, shear=20), "RandomPerspective": T.RandomPerspective(0.5, p=1.0),
    "ElasticTransform": T.ElasticTransform(60.0, sigma=4.0),
    "RandomResizedCrop": T.RandomResizedCrop(32, scale=(0.4, 0.7)), "GaussianBlur": T.GaussianBlur(9, sigma=2.0),
    "GaussianNoise": T.GaussianNoise(sigma=0.2), "Cutout": T.Cutout(12),
    "RandomErasing": T.RandomErasing(p=1.0), "RandomInvert": T.RandomInvert(p=1.0),
}  # fmt: skip
figure, grid = plt.subplots(2, 6, figsize=(10, 3.9), layout="constrained")
for ax, (name, transform) in zip(grid.flat, gallery.items(), strict=True):
    picture = image if transform is None else transform(image, np.random.default_rng(4))
    ax.imshow(picture[..., 0], cmap="gray_r", vmin=0, vmax=255)
    ax.set_title(name, fontsize=9)
    ax.axis("off")
plt.show()
