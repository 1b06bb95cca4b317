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
# # 2 · Datasets and loaders
#
# PyTorch splits the work in two, and so does fnet: a **dataset** gives you sample number *i*, a **loader** cuts a dataset into batches. If you have written a `torch.utils.data.Dataset`, you can write one for fnet: it is the same class without the base class.
#
# This part of fnet is plain NumPy. Samples and batches are NumPy arrays; they become JAX arrays when a model takes them.

# %%
import csv
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from fnet import data, plot

# %% [markdown]
# ## A dataset that is ready
#
# In torchvision you write `datasets.FashionMNIST(root, train=True, download=True)` and again with `train=False`. Here every named set gives both parts at once: `data.digits()`, `data.mnist(...)`, `data.fashion_mnist(...)`, `data.cifar10(...)`. The digits ship with fnet, so there is nothing to download.

# %%
train_set, test_set = data.digits()
print(train_set)
image, label = train_set[0]
print(image.shape, image.dtype, "from", image.min(), "to", image.max(), "and the label", label, type(label).__name__)
print("classes:", test_set.classes)

# %% [markdown]
# **What to notice.** An image is `(height, width, channels)`, the channels *last*, while PyTorch puts them first: a batch here is NHWC, there NCHW. And it is bytes of 0 to 255, as in the file. Nothing has converted it behind your back; notebook 3 is about doing that.

# %%
plot.images(train_set, rows=3, columns=6)

# %% [markdown]
# ## A dataset of your own: images named in a CSV
#
# Your own data is probably a folder of image files and a table that says what they show. Let us make such a folder out of the first 200 digits, so that there is something to read:
#
# ```
# labels.csv          images/
#   file,label          000.png
#   000.png,zero        001.png
#   001.png,two         …
# ```

# %%
root = Path(tempfile.mkdtemp())
(root / "images").mkdir()
words = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
with open(root / "labels.csv", "w", newline="") as file:
    table = csv.writer(file)
    table.writerow(["file", "label"])
    for i in range(200):
        image, label = train_set[i]
        Image.fromarray(image[..., 0]).save(root / "images" / f"{i:03}.png")
        table.writerow([f"{i:03}.png", words[label]])

print((root / "labels.csv").read_text()[:60])

# %% [markdown]
# ### Written by hand
#
# PyTorch's tutorial writes a `CustomImageDataset` at this point. Here it is again. It needs `__len__` and `__getitem__`, and nothing to inherit from: in fnet a dataset is *anything* with these two, so a list is one, and so is a NumPy array. (Its `transform` must draw no random numbers; notebook 3 says what to do with one that does.)


# %%
class CustomImageDataset:
    def __init__(self, annotations, folder, transform=None, target_transform=None):
        with open(annotations, newline="") as file:
            self.rows = list(csv.DictReader(file))
        self.folder = Path(folder)
        self.transform, self.target_transform = transform, target_transform

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, i):
        row = self.rows[i]
        image = np.asarray(Image.open(self.folder / row["file"]))[..., None]  # (8, 8) -> (8, 8, 1)
        label = row["label"]
        if self.transform:
            image = self.transform(image)
        if self.target_transform:
            label = self.target_transform(label)
        return image, label


mine = CustomImageDataset(root / "labels.csv", root / "images", target_transform=words.index)
print(len(mine), "samples; number 7 is", mine[7][0].shape, mine[7][1])

# %% [markdown]
# ### Or the ready-made one
#
# `data.ImageCSV` is that class with what one adds over time: it reads any format that Pillow knows, turns labels that are text into numbers (`classes` says which), and names the file when one is damaged. (`data.ImageFolder` is for images in one folder a class.)

# %%
dataset = data.ImageCSV(root / "labels.csv", root / "images", mode="L")  # "L": grey, one channel
print(dataset, dataset.classes)
same = all(np.array_equal(dataset[i][0], mine[i][0]) for i in range(200))
print("the same images as the class above:", same)

# %% [markdown]
# Note that `classes` is sorted by the alphabet, so "eight" is class 0. Labels that are numbers in the CSV stay the numbers that they are.
#
# ## The loader
#
# `data.DataLoader` has PyTorch's name and arguments. `for batch in loader` is one epoch, and when it has gone through to the last batch, the next `for` is the next epoch, shuffled anew:

# %%
loader = data.DataLoader(dataset, batch_size=64, shuffle=True, seed=0)
images, labels = next(iter(loader))
print("images", images.shape, images.dtype, " labels", labels.shape, labels.dtype)
print("left early, it begins again with the same batch:", np.array_equal(images, next(iter(loader))[0]))
print([len(labels) for _, labels in loader], "samples in the batches of an epoch")
print("after a whole epoch, with another:", not np.array_equal(images, next(iter(loader))[0]))

# %% [markdown]
# **What to notice.** An epoch that was left early, by `break` or as by `next` here, is not over: the next `for` begins the same one again, and gives the same batches. If you mean to leave early, say which batches you want. `loader.epoch(e)` is epoch *e*, however often you ask. `loader.stream(start)` goes on from any step through all epochs without end. Neither remembers anything; we come back to them below.
#
# The last batch has 8 samples, since 200 is no multiple of 64. In PyTorch you choose with `drop_last`; here `last=` has three answers:
#
# * `"keep"` gives the small batch as it is (PyTorch's default);
# * `"drop"` leaves it out: use it for training;
# * `"pad"` fills it up and adds a mask that says what counts: use it for testing, where every sample must count once.
#
# Why does it matter more than in PyTorch? Because a compiled function is compiled for one shape. A batch of another size means compiling a second time (notebook 8). With `"drop"` and `"pad"` all batches have one shape.

# %%
for last in ("keep", "drop", "pad"):
    batches = list(data.DataLoader(dataset, batch_size=64, last=last))
    _, _, *mask = batches[-1]  # with "pad", a batch is (images, labels, mask)
    print(f"{last:5}", [len(batch[0]) for batch in batches], f"{mask[0].sum()} of the last one count" if mask else "")

# %% [markdown]
# ## A batch is a function of its number
#
# This is the one new idea. PyTorch's loader is an iterator: to see batch 1,000 you go through 999 others, and to resume a run in the middle of an epoch you have to skip what was done. Here **the batch of any step is a pure function of the seed and the step**. Ask for it, in any order, as often as you like.

# %%
batch = loader.batch(1000)  # batch 1,000 of the whole run: epoch 250, since an epoch has 4
again = loader.batch(1000)
print("epoch", 1000 // len(loader), "batch", 1000 % len(loader), "twice the same:", np.array_equal(batch[0], again[0]))

stream = loader.stream(start=1000)  # endless, read ahead by a thread where that helps; costs the same from any start
print("the stream begins with it:", np.array_equal(next(stream)[0], batch[0]))
print("labels of the first batch in epochs 0, 1:", *(next(iter(loader.epoch(e)))[1][:6] for e in (0, 1)))

# %% [markdown]
# So a checkpoint needs to remember one integer about the data, the step. `threads=` and `processes=` (PyTorch's `num_workers`) prepare batches ahead and change nothing about what is in them: threads for reading and decoding files, processes for what is computed in Python. Where PyTorch has `pin_memory=True` for the way to a GPU, `data.to_device(loader.epoch(0))` transfers batches ahead of their use.
#
# ## Splitting
#
# `data.random_split` is `torch.utils.data.random_split` with a seed in the place of a generator.

# %%
train_part, valid_part = data.random_split(dataset, [0.8, 0.2], seed=0)
print(len(train_part), "for training,", len(valid_part), "for validation")

# %% [markdown]
# ## When a sample is broken
#
# With real data some file is always damaged. Let us damage one and see whether we learn which.

# %%
(root / "images" / "013.png").write_bytes(b"this was an image once")
try:
    for _ in loader:
        pass
except ValueError as error:
    print("…" + str(error).replace(str(root), "")[:70], "…")
    print(*(note.replace(str(root), "…") for note in error.__notes__), sep="\n")

# %% [markdown]
# The file, the sample's number, the epoch and the step: you can look at it with `dataset[13]`. To train on without it, `DataLoader(..., on_error="mask")` warns, puts another sample in its place, and says so in the mask.

# %%
Image.fromarray(train_set[13][0][..., 0]).save(root / "images" / "013.png")  # repaired

# %% [markdown]
# **Exercise.** Make a regression dataset out of the classification one: the target of an image is the share of its pixels that have more than half of the full ink (in these files 255 is ink, 0 is paper). Do not write a class. `data.Map(dataset, function)` is the dataset of `function(sample)`.
#
# <details>
# <summary>Solution</summary>
#
# ```python
# def ink(sample):
#     image, _ = sample
#     return image, np.float32((image > 127).mean())
#
# inked = data.Map(dataset, ink)
# images, targets = data.DataLoader(inked, batch_size=5).batch(0)
# print(targets)
# assert targets.dtype == np.float32 and targets.shape == (5,)
# ```
#
# Nothing was computed when you called `Map`: it is a dataset, which computes a sample when it is asked for. `data.Cache` around it would keep the results.
#
# </details>
#
# One shuffled batch of our own files, with the names of their classes:

# %%
images, labels = loader.batch(0)
plot.images(images, labels, classes=dataset.classes, rows=3, columns=8)
