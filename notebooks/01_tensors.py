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
# # 1 · Tensors
#
# **JAX in one paragraph.** JAX is three things. It is NumPy's functions on CPU, GPU and TPU (`jax.numpy`, always imported as `jnp`). It is functions that take a function and return another one: `jax.grad` returns its gradient, `jax.jit` a compiled version, `jax.vmap` a batched version. And it is a rule that makes those work: *nothing is changed in place*. In PyTorch a tensor is an object with a life: it is written to, it collects a `.grad`, it is moved to a device. In JAX an array is a value, like the number 3, and every operation gives a new one.
#
# fnet adds no tensor class of its own. Where PyTorch has `torch.Tensor` you have `jax.Array`, and everything in `jax.numpy` works on it. `fnet.tensor`, `fnet.zeros` and their like are thin over `jnp.array` and `jnp.zeros`: they have PyTorch's names and say more when something is wrong. Use either.

# %%
import jax
import jax.numpy as jnp
import numpy as np

import fnet
from fnet import data, plot

# %% [markdown]
# ## Making tensors
#
# From data, from NumPy, from the shape of another tensor, or from a shape: the same four ways as in PyTorch.

# %%
x = fnet.tensor([[1, 2], [3, 4]])  # torch.tensor(...)
y = fnet.from_numpy(np.array([[1.5, 2.5], [3.5, 4.5]]))  # torch.from_numpy(...), but a copy
print(x, x.dtype)
print(y, y.dtype)
print(fnet.ones_like(x), fnet.zeros((2, 3)), fnet.full((2,), 7.0), sep="\n")

# %% [markdown]
# **What to notice.** Look at the two dtypes. `torch.tensor([[1, 2]])` would be `int64`, and `torch.from_numpy` of that array would be `float64`. JAX keeps to 32 bits unless you ask otherwise (`jax.config.update("jax_enable_x64", True)`, once, at the top of a program), because that is what accelerators are fast at. Two consequences: labels are `int32` here and that is fine, and arithmetic that leaves 32 bits wraps around, silently. Data that does not fit in the first place, `fnet.tensor` refuses:

# %%
print(jnp.array([2**31 - 1]) + 1, "← int32 wrapped around, as it does in C")
try:
    fnet.tensor([1, 2**40])
except OverflowError as error:
    print("OverflowError:", error)

# %% [markdown]
# ## Random tensors need a key
#
# `torch.rand(2, 3)` takes its numbers from a generator that is hidden in PyTorch and changed by every call. JAX has nothing hidden: you make a *key* from a seed and hand it over. **The same key gives the same numbers**, which is what makes a run reproducible, and also the most common mistake of the first day: using one key twice.

# %%
key = jax.random.key(0)  # torch.manual_seed(0), except that it is a value
print(fnet.rand(key, (3,)))
print(fnet.rand(key, (3,)), "← the same key, the same numbers")

first, second, third = jax.random.split(key, 3)  # three independent keys out of one; `key` itself is now used up
print(fnet.rand(first, (3,)))
print(fnet.randn(second, (3,)))
print(fnet.rand_like(third, x, dtype=float))  # the shape of x

# %% [markdown]
# In a loop, `jax.random.fold_in(key, i)` is the key of turn number `i`. A seed in the place of a key is caught:

# %%
try:
    fnet.rand(0, (3,))
except TypeError as error:
    print("TypeError:", error)

# %% [markdown]
# ## Shape, dtype, device
#
# The attributes have PyTorch's names. `fnet.to(x, device)` is `x.to(device)`, and it takes whole *trees* as well. A tree (in full *pytree*) is JAX's word for arrays in dicts, lists and tuples, nested as you like: a dict of all parameters is one, and a single array, too. Much in JAX takes trees, and `jax.tree.map(f, tree)` applies `f` to each array of one. An array that you make lands on the default device, which is the GPU if JAX sees one: there is usually no `.to(device)` in a JAX program at all. `fnet.devices()` says what there is and how to get what there is not.

# %%
print(x.shape, x.dtype, x.ndim, x.size)
moved = fnet.to({"weight": y, "bias": y[0]}, "cpu")
print(sorted(moved), moved["bias"].device.platform)
print(jax.tree.map(lambda leaf: leaf.shape, moved))

# %% [markdown]
# ## Operations
#
# Indexing, slicing, arithmetic, `@`, broadcasting: as in NumPy, and so as in PyTorch. What has another name:
#
# | PyTorch | here |
# |---|---|
# | `torch.zeros(2, 3)` | `fnet.zeros((2, 3))`: a shape is one argument |
# | `torch.cat([a, b], dim=1)`, `torch.stack` | `jnp.concatenate([a, b], axis=1)`, `jnp.stack` |
# | `x.sum(dim=1, keepdim=True)` | `x.sum(axis=1, keepdims=True)` |
# | `x.view(2, -1)`, `x.permute(0, 2, 1)`, `x.unsqueeze(0)` | `x.reshape(2, -1)`, `x.transpose(0, 2, 1)`, `x[None]` |
# | `x.size(0)`, `x.float()`, `x.long()` | `x.shape[0]`, `x.astype("float32")`, `x.astype("int32")` |
# | `x.detach().cpu().numpy()` | `np.asarray(x)` |
# | `x.cuda()` | `fnet.to(x, "gpu")`, seldom needed, as you saw |

# %%
t = jnp.arange(12.0).reshape(3, 4)
print("first row     ", t[0])
print("last column   ", t[..., -1])
print("cat           ", jnp.concatenate([t, t], axis=1).shape, " stack", jnp.stack([t, t]).shape)
print("matmul        ", (t @ t.T).shape, " elementwise", (t * t).shape)
print("a Python float", t.sum().item())

# %% [markdown]
# ## Nothing is changed in place
#
# `t[:, 1] = 0` and `t.add_(5)` do not exist. You say what the new array is, and if you have no more use for the old one you give the new one its name.

# %%
try:
    t[:, 1] = 0
except TypeError as error:
    print("TypeError:", str(error).split(". ")[0])

u = t.at[:, 1].set(0)  # t[:, 1] = 0
u = u + 5  # t.add_(5)
u = u.at[0].multiply(10)  # t[0] *= 10
print(u)
print("and t is still what it was:", t[0])

# %% [markdown]
# Does that copy the whole array each time? Written one by one as above, yes. Inside `jax.jit` (notebook 8) the compiler sees that the old array is not needed any more and writes in place. You write values; it does the bookkeeping.
#
# ## Indices out of range
#
# This one surprises everybody. On an accelerator a program cannot stop in its middle to raise an error, so JAX *clamps* a read that is out of range to the last element, and *drops* a write.

# %%
five = jnp.arange(5)
print("five[10] is", five[10])
print("writing to five[10] gives", five.at[10].set(99))
print("asked for, a read outside can be NaN:", (five * 1.0).at[10].get(mode="fill", fill_value=jnp.nan))

# %% [markdown]
# So in JAX a label 10 among ten classes would silently be read as a 9. fnet's losses look for that: outside of `jit` it is an error that names the label, inside it makes the loss NaN, which you see at once.
#
# ## The bridge to NumPy
#
# In PyTorch a tensor and the NumPy array it came from share their memory. Here, treat every bridge as a copy: `np.asarray(x)` is a read-only view where that is possible, `fnet.to_numpy(x)` is a copy that you may write to. For torch there are `fnet.from_torch` and `fnet.to_torch`, copies as well.

# %%
n = np.ones(3)
z = fnet.from_numpy(n)
n += 1  # in PyTorch, z would now be twos
print(z, n)
writable = fnet.to_numpy(z)
writable[0] = 7
print(writable, z)

# %% [markdown]
# ## All of it together: a classifier of ten averages
#
# Here are 1,438 real images, as one array of bytes. We compute the average image of each digit without a loop: a matrix of zeros and ones says which image belongs to which digit, and a matrix product sums them up. A new image is then the digit whose average is nearest.

# %%
train_set, test_set = data.digits()
images, labels = (jnp.asarray(part) for part in train_set.arrays)  # (1438, 8, 8, 1) bytes, (1438,) int32
flat = images.reshape(len(images), -1) / 255  # bytes to floats of 0 to 1, (1438, 64)

member = jax.nn.one_hot(labels, 10)  # (1438, 10)
means = member.T @ flat / member.sum(axis=0)[:, None]  # (10, 64)

test_images, test_labels = (jnp.asarray(part) for part in test_set.arrays)
queries = test_images.reshape(len(test_images), -1) / 255
distances = jnp.square(queries[:, None, :] - means[None, :, :]).sum(axis=-1)  # (359, 10), by broadcasting
right = (distances.argmin(axis=1) == test_labels).mean()
print(f"{right:.1%} of {len(queries)} test images are nearest to the right average")

# %% [markdown]
# **Exercise.** The outermost pixels of these images are nearly always empty. Set the border of every training image to 0 in one expression, without writing into `images`, and check that the original has kept it. How much ink was there?
#
# <details>
# <summary>Solution</summary>
#
# Make zeros, and set the inner part: `.at[...].set` takes any index that reading takes.
#
# ```python
# inner = jnp.zeros_like(images).at[:, 1:-1, 1:-1].set(images[:, 1:-1, 1:-1])
# ink = lambda pictures: int(pictures.sum())  # bytes are added up in a wider integer, as in NumPy and PyTorch
# print(f"{1 - ink(inner) / ink(images):.1%} of the ink was on the border; images still has {ink(images):,}")
# ```
#
# </details>
#
# The ten averages, which are all that this classifier knows:

# %%
plot.images(means.reshape(10, 8, 8), range(10), rows=1, columns=10)
