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
# # 4 · Build a model
#
# In PyTorch a model is an object: you write a class, its constructor makes the layers, the layers hold the weights. In fnet a model is a *description*, and the weights are a separate dict that you carry yourself. It looks like more work for a page. What you get for it: two sets of weights for one model, an average of two models, a model whose weights are the output of another, a copy from before the last step, all without any machinery, since a dict is only data.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt

import fnet
import fnet.functional as F
from fnet import data, init, nn

train_set, _ = data.digits()
images = jnp.asarray(train_set.arrays[0][:3]) / 255  # three samples, (3, 8, 8, 1)

# %% [markdown]
# ## A model is a function of its input and of its parts
#
# PyTorch:
#
# ```
# class Net(nn.Module):
#     def __init__(self):
#         super().__init__()
#         self.fc1 = nn.Linear(64, 128)
#         self.fc2 = nn.Linear(128, 10)
#
#     def forward(self, x):
#         return self.fc2(F.relu(self.fc1(x.flatten(1))))
# ```
#
# The same in fnet: `forward` becomes an ordinary function, and what was `self.fc1` is an argument. `nn.Model` puts the two together.


# %%
def net(x, fc1, fc2):
    x = x.reshape(len(x), -1)
    return fc2(F.relu(fc1(x)))


model = nn.Model(net, fc1=nn.Linear(128), fc2=nn.Linear(10))
print(model)

# %% [markdown]
# **What to notice.** `nn.Linear(128)` names the output size only: the input size is read from the data. And there is nothing in `model` but what you see printed. It has no weights yet, it can be compared (`==`) and used as a key of a dict.
#
# The weights come from `init`, which needs a key (it draws random numbers) and an input, of which it looks at the shape alone:

# %%
params, state = model.init(jax.random.key(0), images)
for name, p in fnet.named(params, model):  # model.named_parameters()
    print(f"{name:12} {p.shape!s:10} {p.dtype}")
print("the dict itself:", jax.tree.map(lambda p: p.shape, params))  # with the shape of each array in its place
print("state:", state, "(this model has nothing to remember; below there is one that does)")

# %% [markdown]
# The weight of a `Linear` is `(in, out)` here and `(out, in)` in PyTorch: here it is `x @ weight + bias`. (`io.from_torch` turns them for you, notebook 7.)
#
# Calling the model takes the weights as the first argument. The output is scores; a softmax makes probabilities of them.

# %%
logits = model(params, images)
probabilities = F.softmax(logits, -1)
print(logits.shape, probabilities.sum(axis=-1), "predicted:", probabilities.argmax(axis=-1))

# %% [markdown]
# Called as in PyTorch, with the images alone, it has no weights to compute with:

# %%
try:
    model(images)
except TypeError as error:
    print("TypeError:", error)

# %% [markdown]
# Where is `.to(device)`? The weights are arrays, so they are where arrays are made: on the GPU if JAX sees one. Where is `requires_grad`? Notebook 5.
#
# ## Layer by layer
#
# PyTorch's tutorial takes a minibatch of three images through each layer. A layer alone is a model, too, so it is `init` and a call again. There is no `nn.ReLU`: an activation has no parameters, so it is a function, `F.relu`.

# %%
flatten = nn.Flatten()
flat = flatten({}, images)  # it has no parameters: an empty dict
print("Flatten  ", images.shape, "→", flat.shape)

linear = nn.Linear(20)
linear_params, _ = linear.init(jax.random.key(1), flat)
hidden = linear(linear_params, flat)
print("Linear   ", flat.shape, "→", hidden.shape)
print("relu      from", hidden.min().round(2), "to", F.relu(hidden).min())

stack = nn.Sequential(nn.Flatten(), nn.Linear(20), F.relu, nn.Linear(10))
stack_params, _ = stack.init(jax.random.key(2), images)
print("Sequential", fnet.names(stack_params))

# %% [markdown]
# `Sequential` numbers its parts as PyTorch does (1 is the first Linear, since Flatten is 0), or takes names: `nn.Sequential(hidden=nn.Linear(20), act=F.relu, head=nn.Linear(10))`.
#
# ## A look inside
#
# `fnet.summary` follows the shapes through the model without computing anything.

# %%
fnet.summary(model, images)

# %% [markdown]
# Shapes are enough for `init` as well. Under `jax.eval_shape` nothing is computed and no memory is taken, so you can ask how large a model is before it has to fit:

# %%
large = nn.Sequential(nn.Linear(100_000), F.relu, nn.Linear(100_000))
shapes, _ = jax.eval_shape(large.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 100_000), "float32"))
print(f"{fnet.count(shapes):,} parameters, {fnet.nbytes(shapes) / 1e9:.0f} GB, none of them in memory")

# %% [markdown]
# ## When a shape is wrong
#
# The message says which part, what it was given, and what it expected.

# %%
try:
    model(params, jnp.ones((3, 9, 9, 1)))
except ValueError as error:
    print(error, *error.__notes__, sep="\n")

# %% [markdown]
# ## Layers that behave differently in training
#
# PyTorch has `model.train()` and `model.eval()`, which set a switch inside. Here it is an argument. Dropout needs random numbers in training: also an argument. BatchNorm remembers averages, in PyTorch by overwriting its buffers; here what a model remembers is its **state**, and a call in training *returns the new one*. The long form of the call, `apply`, is for these.
#
# The network below has a convolution. Convolutions have PyTorch's arguments less the first one, which is read from the data: `nn.Conv2d(3, 16, 3)` is `nn.Conv(16, 3)` here. `nn.Conv` reads the number of dimensions from the data as well (what stands between the batch and the channels, two for images), and `nn.Conv2d(16, 3)` fixes it to 2. Images without an axis for the channels, `(N, 28, 28)`, need one: `x[..., None]`. Without it nothing need complain: `Conv` sees *N* sequences of 28 steps, `Conv2d` one image, *N* pixels high, and both see 28 channels.


# %%
def convnet(x, conv, norm, drop, head):
    x = F.relu(norm(conv(x)))
    return head(drop(x.mean(axis=(1, 2))))  # the mean over height and width


conv_model = nn.Model(
    convnet, conv=nn.Conv(16, 3, padding=1), norm=nn.BatchNorm(), drop=nn.Dropout(0.5), head=nn.Linear(10)
)
params, state = conv_model.init(jax.random.key(0), images)
print("params:", fnet.names(params))
print("state: ", fnet.names(state))

out, new_state = conv_model.apply(params, state, images, key=jax.random.key(1), train=True)
print("running mean before", state["norm"]["running_mean"][:3], "after", new_state["norm"]["running_mean"][:3])

out, _ = conv_model.apply(params, new_state, images)  # train=False, no key: the eval mode
out_again, _ = conv_model.apply(params, new_state, images)
print("the same output twice:", bool((out == out_again).all()))

# %% [markdown]
# You cannot forget to switch back to `eval()`, because nothing was switched. And if you forget the key, you are told:

# %%
try:
    conv_model.apply(params, state, images, train=True)
except (TypeError, ValueError) as error:
    print(type(error).__name__ + ":", error)

# %% [markdown]
# ## Many layers, and blocks of blocks
#
# A list of layers is a part like any other (PyTorch needs `ModuleList`), and the loop over it is a Python loop. A `Model` can be a part of a `Model`, and the names join with dots: the name by which you print a weight is the one by which you freeze it, load it, or find it in an error message.


# %%
def residual(x, norm, fc1, fc2):
    return x + fc2(F.gelu(fc1(norm(x))))


def Block(width):
    return nn.Model(residual, norm=nn.LayerNorm(), fc1=nn.Linear(2 * width), fc2=nn.Linear(width))


def tower(x, stem, blocks, head):
    x = stem(x.reshape(len(x), -1))
    for block in blocks:
        x = block(x)
    return head(x)


deep = nn.Model(tower, stem=nn.Linear(32), blocks=[Block(32) for _ in range(3)], head=nn.Linear(10))
params, _ = deep.init(jax.random.key(0), images)
print(deep)
print({name: p.shape for name, p in fnet.select(params, "blocks.2.*").items()})

# %% [markdown]
# A model is never changed; surgery gives you a new one. `replace` swaps one part, `map` changes all that a pattern names:

# %%
five_classes = deep.replace("head", nn.Linear(5))
print("new head:", five_classes["head"], " the old model still has:", deep["head"])
print(conv_model.map("drop", lambda layer: nn.Dropout(0.1)))

# %% [markdown]
# ## A layer of your own
#
# Most of what PyTorch needs a class for is a function here. You need a class when there is a *new kind of parameter*. It is a dataclass of its settings with two methods: `spec` says which arrays there are, `apply` uses them. (`frozen=True`: it cannot be changed, so it can be compared and be a key of a dict, as every model.)

# %%
from dataclasses import dataclass


@dataclass(frozen=True)
class Scale(nn.Layer):
    """Multiply each feature by a weight of its own."""

    start: float = 1.0

    def spec(self, x):  # called with the input's shape
        return {"weight": nn.Param(x.shape[-1:], init.constant(self.start))}

    def apply(self, params, state, x, key=None, train=False):
        return x * params["weight"], state  # (output, new state), always


scaled = nn.Sequential(nn.Flatten(), Scale(0.1), nn.Linear(10))
params, _ = scaled.init(jax.random.key(0), images)
print(scaled, {name: p.shape for name, p in fnet.named(params)}, sep="\n")

# %% [markdown]
# **Exercise.** Write a model of two inputs: two images go through *the same* encoder, a `Linear(16)` on the flattened image, and the model returns the cosine of the angle between the two codes. How many parameters should it have?
#
# <details>
# <summary>Solution</summary>
#
# A part that is called twice shares its weights, so there is one encoder: 64 · 16 + 16 = 1,040 parameters.
#
# ```python
# def compare(a, b, encoder):
#     u, v = encoder(a.reshape(len(a), -1)), encoder(b.reshape(len(b), -1))
#     return (u * v).sum(-1) / (jnp.linalg.norm(u, axis=-1) * jnp.linalg.norm(v, axis=-1))
#
# siamese = nn.Model(compare, encoder=nn.Linear(16))
# params, _ = siamese.init(jax.random.key(0), images, images)
# print(fnet.count(params), siamese(params, images, images))
# assert fnet.count(params) == 1040 and jnp.allclose(siamese(params, images, images), 1)
# ```
#
# Two encoders with weights of their own would be two parts, `left` and `right`, and two arguments of `compare`.
#
# </details>
#
# ## Does the signal get through?
#
# Initial weights are chosen by name, with the same patterns: `init={"*.weight": ...}`. To see what they are for, here is a network of twelve layers that returns what it has after each, with four choices. We measure by how much a unit differs from one input to another: what does not differ carries no information. Too small, and the signal dies on its way; too large, and it explodes. fnet's default for `Linear` is PyTorch's, which is made for few layers; He's (`kaiming_normal`) is made for deep ReLU networks.


# %%
def every_layer(x, layers):
    seen = []
    for layer in layers:
        x = F.relu(layer(x))
        seen.append(x)
    return seen


twelve = nn.Model(every_layer, layers=[nn.Linear(256) for _ in range(12)])
x = jax.random.normal(jax.random.key(3), (64, 256))
choices = {
    "normal(0.02)": {"*.weight": init.normal(0.02)},
    "PyTorch's default": None,
    "kaiming_normal": {"*.weight": init.kaiming_normal()},
    "normal(0.2)": {"*.weight": init.normal(0.2)},
}
figure, axes = plt.subplots(figsize=(6, 3.6), layout="constrained")
for name, rules in choices.items():
    params, _ = twelve.init(jax.random.key(0), x, init=rules)
    axes.semilogy(range(1, 13), [h.std(axis=0).mean() for h in twelve(params, x)], "o-", markersize=3, label=name)
axes.set_xlabel("layer")
axes.set_ylabel("difference between inputs\n(standard deviation, mean over units)")
axes.legend()
plt.show()
