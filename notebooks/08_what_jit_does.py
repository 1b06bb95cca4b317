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
# # 8 · What jit does
#
# Until now `jax.jit` was a word to put before a function to make it fast. It has rules, and every one of them follows from how it works. This page shows how it works, so that you need not learn the rules by heart.
#
# The nearest thing in PyTorch is `torch.compile`. The difference: `torch.compile` falls back to Python where it does not understand your code. `jax.jit` never falls back. What it cannot compile is an error, and what it does compile is the whole function.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import fnet.functional as F
from fnet import data, nn, optim, train

# %% [markdown]
# ## Tracing: your function runs once, on stand-ins
#
# At the first call, JAX runs your Python function with *tracers* in the place of arrays. A tracer has a shape and a dtype and no numbers. Each operation on it is written down. What was written down is compiled, and from then on the compiled program runs and **your Python does not run again**. A `print` in the function shows it:


# %%
@jax.jit
def double(x):
    print("  Python runs, with", x)
    return 2 * x


for i in range(3):
    print("call", i, "gives", double(jnp.array([1.0, 2.0]) + i))

# %% [markdown]
# What was written down can be looked at. It is called a *jaxpr*, a list of operations on typed arrays:

# %%
jaxpr = jax.make_jaxpr(lambda x, w: jnp.tanh(x @ w).sum())(jnp.ones((4, 3)), jnp.ones((3, 2)))
print(jaxpr.pretty_print(use_color=False))

# %% [markdown]
# ## When it is traced again
#
# The program is good for the shapes and dtypes that it was made for. Another shape means another trace and another compilation, and compiling takes as long as thousands of runs. Count them:

# %%
traces = []


@jax.jit
def mean_square(x):
    traces.append(f"{x.dtype}{list(x.shape)}")
    return (x**2).mean()


for x in (jnp.ones(3), jnp.zeros(3), jnp.ones(4), jnp.ones(3, "int32"), jnp.ones(4) * 5):
    mean_square(x)
print("5 calls,", len(traces), "traces:", traces)

# %% [markdown]
# **What to notice.** Values do not matter, shapes and dtypes do. The third and fourth call were new, the fifth was not. This is why a loader has `last="drop"` and `last="pad"`: a smaller last batch is another shape.
#
# A new *function* is also traced anew. A common way to compile at every step by accident is to make the function inside the loop:

# %%
traces.clear()


def body(x):
    traces.append("traced")
    return x + 1


for _ in range(4):
    jax.jit(lambda x: body(x))(1.0)  # a new lambda each time: nothing to recognise
print("made in the loop:     ", len(traces), "traces for 4 calls")

traces.clear()
plus_one = jax.jit(body)
for _ in range(4):
    plus_one(1.0)
print("made before the loop: ", len(traces), "trace  for 4 calls")

# %% [markdown]
# ## No `if` on values
#
# A tracer has no numbers, so Python cannot decide by them:


# %%
@jax.jit
def clipped(x):
    if x > 1:
        return jnp.ones_like(x)
    return x


try:
    clipped(2.0)
except jax.errors.TracerBoolConversionError as error:
    print("TracerBoolConversionError:", str(error).splitlines()[0])

# %% [markdown]
# There are three ways out, by what you mean:
#
# * Choose *element by element*: `jnp.where(condition, a, b)`. Both are computed.
# * Choose *a computation*, when the program runs: `jax.lax.cond(condition, f, g, x)`. One of the two runs. Loops likewise: `jax.lax.fori_loop`, `jax.lax.scan`.
# * Choose *when the program is made*: the argument is a setting, not data. Name it in `static_argnames`, and it stays an ordinary Python value; each new value is a new program.
#
# An `if` on a shape, on a dtype, or on a setting is fine: these are known while tracing. So is a Python `for` with a known number of turns, such as one over a list of layers: it is written down turn by turn.
#
# Whatever else needs numbers has an error of the same kind, which names its argument: `float(x)`, `x.item()`, `f"{x:.3f}"` and `np.asarray(x)` (return `x`, and convert it outside), `range(n)` (make `n` static, or use `fori_loop`), and `x[x > 0]`, since the *shape* of the result would depend on numbers (`jnp.where(x > 0, x, 0)`).

# %%
print(jax.jit(lambda x: jnp.where(x > 1, 1, x))(jnp.array([0.5, 2.0])))
print(jax.jit(lambda x: jax.lax.cond(x.sum() > 1, jnp.sin, jnp.cos, x))(jnp.array([0.0, 0.5])))

power = jax.jit(lambda x, n: x**n if n > 0 else 1 / x, static_argnames="n")
print(power(2.0, n=3), power(2.0, n=-1))

# %% [markdown]
# A static argument must be hashable, and equal ones must mean the same program. fnet's models are made so: a model is a value, and two that are built alike are equal.

# %%
traces.clear()


def forward(model, params, x):
    traces.append("traced")
    return model(params, x)


forward = jax.jit(forward, static_argnames="model")
x = jnp.ones((2, 8))
params, _ = nn.Linear(4).init(jax.random.key(0), x)
for _ in range(3):
    forward(nn.Linear(4), params, x)  # a new object each time, and the same value
print(len(traces), "trace for 3 calls with equal models")

# %% [markdown]
# ## The guard
#
# In a long run a second compilation is easily overlooked: the step is only slower than you think. The step that `train.make_step` gives watches for it. When it is traced again, it warns and says what changed, from what to what; with `strict=True` it raises. Here is the smaller last batch of `last="keep"`.
#
# (`ToFloat()`, a transform in notebook 3, is a layer of the model here. Any function of an array can be one, and this one is a division and a look at the dtype, which a tracer allows as a NumPy array does. Most transforms are NumPy inside, and fail here as `np.asarray(x)` does.)

# %%
train_set, _ = data.digits()
model = nn.Sequential(data.transforms.ToFloat(), nn.Flatten(), nn.Linear(10))
opt = optim.sgd(0.1)
loss = train.supervised(model, F.cross_entropy)
step = train.make_step(loss, opt, strict=True)

uneven = data.DataLoader(train_set, batch_size=64, last="keep")
run = train.start(model, opt, jax.random.key(0), uneven.batch(0)[0])
try:
    for batch in uneven.epoch(0):
        run, _ = step(run, batch)
except train.Retraced as error:
    print("at step", int(run.step), "-", error)

# %% [markdown]
# ## Side effects happen once, at the wrong time
#
# Everything that is not an operation on tracers happens while tracing and never again: `print`, appending to a list, reading a global variable, drawing from NumPy's generator. There is no error. The value is simply frozen into the program.

# %%
rate = 0.1


@jax.jit
def scaled(x):
    noise = np.random.default_rng().random()  # drawn once, while tracing
    return rate * x + noise


one = scaled(1.0)
rate = 100.0  # the compiled program does not know
print("the second call gives the same:", one == scaled(1.0))

# %% [markdown]
# The remedy is the idea of this library: **what a function depends on is an argument, and what it changes is a result**. The rate lives in the optimizer's state, random numbers come from a key, BatchNorm's averages are a state that goes in and comes out. Whoever works like this never meets the problem.
#
# Two more of the kind. An array that is put into a global list from inside is a tracer, and useless later; JAX says so when you touch it. And to look at values while a compiled program runs there is `jax.debug.print`:

# %%
leaked = []


@jax.jit
def leaky(x):
    leaked.append(x * 2)
    jax.debug.print("the value is {x}", x=x)
    return x


jax.block_until_ready(leaky(3.0))
try:
    leaked[0] + 1
except jax.errors.UnexpectedTracerError as error:
    print("UnexpectedTracerError:", str(error).splitlines()[0][:78], "…")

# %% [markdown]
# ## Errors that need values cannot be raised
#
# Outside of `jit` fnet checks that class labels are in range, and names the one that is not. A compiled program cannot stop to complain, and an index out of range would be clamped, silently, to a wrong row. So fnet makes the loss NaN, which you cannot overlook. When a loss is NaN, call it once without `jit`:

# %%
logits, wrong = jnp.zeros((2, 10)), jnp.array([3, 10])
print("compiled:", jax.jit(F.cross_entropy)(logits, wrong))
try:
    F.cross_entropy(logits, wrong)
except ValueError as error:
    print("called directly:", error)

# %% [markdown]
# `with jax.disable_jit():` around a call runs everything in it as ordinary Python, with real numbers, `print` and the debugger.
#
# ## Asynchronous, so measure with care
#
# A call returns before the result is there; Python goes on while the device works, and waits when you look at a number. If you time a function, wait for its result: `jax.block_until_ready(f(x))`. And leave out the first call, in which it is compiled. (PyTorch on a GPU is the same: `torch.cuda.synchronize()`.)

# %%
import time


def seconds(f, *args):
    start = time.perf_counter()
    jax.block_until_ready(f(*args))
    return time.perf_counter() - start


chain = jax.jit(lambda x: jnp.sin(jnp.cos(jnp.tanh(x))).sum())
x = jnp.ones(1000)
first, later = seconds(chain, x), min(seconds(chain, x) for _ in range(20))
print("the first call took more than ten times as long as a later one:", first > 10 * later)

# %% [markdown]
# ## Donation: giving the memory back
#
# A training step makes new parameters while the old ones still exist, so for a moment there are two sets. If you have no more use for the old ones, *donate* them: the program may write the new ones over them. That is PyTorch's in-place update, made explicit. What you donated is gone:

# %%
increment = jax.jit(lambda x: x + 1, donate_argnums=0)
old = jnp.zeros(3)
new = increment(old)
print(new)
try:
    print(old)
except RuntimeError as error:
    print("RuntimeError:", error)

# %% [markdown]
# `train.make_step(loss, opt, donate=True)` donates the run. It saves memory where memory is short, on a GPU or TPU. fnet never does it without being asked, because the run that you keep in another name (to rewind, to branch) would be gone as well:

# %%
loader = data.DataLoader(train_set, batch_size=64, shuffle=True, last="drop")
step = train.make_step(loss, opt, donate=True)

begin = train.start(model, opt, jax.random.key(0), loader.batch(0)[0])
run, _ = step(begin, loader.batch(0))
print("is the run at the beginning gone?", begin.params["2"]["bias"].is_deleted())

# %% [markdown]
# **Exercise.** Write `normalised(x, scale)` with these demands: it divides the vector `x` by its largest absolute value, except where that is 0, in which case it returns `x`; then it multiplies by `scale`. Called under `jit` with scales 1.0, 2.0 and 3.0 and one shape of `x`, it shall be traced once.
#
# <details>
# <summary>Solution</summary>
#
# ```python
# count = []
#
# @jax.jit
# def normalised(x, scale):
#     count.append(1)
#     largest = jnp.abs(x).max()
#     return scale * x / jnp.where(largest > 0, largest, 1)
#
# for scale in (1.0, 2.0, 3.0):
#     print(normalised(jnp.array([1.0, -4.0]), scale), normalised(jnp.zeros(2), scale))
# assert len(count) == 1
# ```
#
# `scale` is data, so it is a traced argument: its value does not matter. And the `where` is around the *divisor*: with `jnp.where(largest > 0, x / largest, x)` the value would be right too, but both sides are computed, and the gradient through the side not taken would be 0 times infinity, which is NaN.
#
# </details>
#
# ## What shapes cost
#
# Sentences have many lengths. Here are 200 of them, with between 1 and 128 tokens, and three ways to give them to a compiled function: as they are; padded to the next multiple of 32; padded to the longest. The curves count how often it was compiled. On the right, what the padding costs: the share of what is computed that is of use.
#
# Neither end is good. A few sizes ("buckets") cost a few compilations, once, and waste little. `data.LengthBuckets` orders a dataset so.

# %%
lengths = np.random.default_rng(0).integers(1, 129, size=200)
ways = {
    "as is": lengths,
    "to multiples of 32": -(-lengths // 32) * 32,
    "to the longest": np.full(200, lengths.max()),
}
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.5), layout="constrained", width_ratios=(2, 1))
for name, padded in ways.items():
    seen = []
    total = jax.jit(lambda tokens, seen=seen: (seen.append(1), tokens.sum())[1])
    compiled = []
    for length in padded:
        total(np.zeros(length, "int32"))
        compiled.append(len(seen))
    left.plot(compiled, label=f"{name}: {compiled[-1]}")
    right.bar(name.replace("to ", "to\n").replace(" of", "\nof"), lengths.sum() / padded.sum())
left.set(xlabel="call", ylabel="programs compiled so far")
left.legend()
right.set_ylabel("share of the work that is of use")
plt.show()

# %% [markdown]
# ## Where next
#
# What these pages left out is in [docs/](../docs):
#
# * [training.md](../docs/training.md): `train.fit` and its callbacks, half precision, several devices, programs that go on where they were killed;
# * [data.md](../docs/data.md): what the loader promises, and when to take threads or processes;
# * [files.md](../docs/files.md): what `save`, `Checkpoints` and `export` write;
# * [performance.md](../docs/performance.md): how fast the layers are, and settings that make a CPU faster.
#
# And [examples/](../examples) has whole programs, to begin your own from:
#
# | You want | Take |
# |---|---|
# | to classify your own pictures, one folder a class | [folder.py](../examples/folder.py) |
# | to use a trained network for a new task with few examples | [finetune.py](../examples/finetune.py) |
# | regression on a table, and how sure it is | [tabular.py](../examples/tabular.py) |
# | a convolutional network, a ResNet | [mnist.py](../examples/mnist.py), [cifar10.py](../examples/cifar10.py) |
# | text: a GPT, an LSTM | [char_gpt.py](../examples/char_gpt.py), [lstm_lm.py](../examples/lstm_lm.py) |
# | to make images | [vae.py](../examples/vae.py), [gan.py](../examples/gan.py), [diffusion.py](../examples/diffusion.py) |
# | a small network that learns from a large one | [distillation.py](../examples/distillation.py) |
# | a run that may be killed at any moment | [resume.py](../examples/resume.py) |
