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
# # 5 · Autograd
#
# PyTorch records what you do to tensors that say `requires_grad`, and `loss.backward()` walks back through the record and *adds* to the `.grad` of each. JAX has no record. It has a function that takes a function, `jax.grad`: give it *f*, and it returns the function that computes the gradient of *f*. All else on this page follows from that.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt

import fnet
import fnet.functional as F
from fnet import data, nn

# %% [markdown]
# ## The network of PyTorch's tutorial
#
# One layer, `z = x @ w + b`, and a loss:
#
# ```
# x = torch.ones(5); y = torch.zeros(3)                          # PyTorch
# w = torch.randn(5, 3, requires_grad=True); b = torch.randn(3, requires_grad=True)
# loss = binary_cross_entropy_with_logits(x @ w + b, y)
# loss.backward()
# w.grad, b.grad
# ```
#
# In JAX you write the loss as a function of what you want the gradient in:

# %%
x, y = jnp.ones(5), jnp.zeros(3)
w_key, b_key = jax.random.split(jax.random.key(0))
params = {"w": jax.random.normal(w_key, (5, 3)), "b": jax.random.normal(b_key, (3,))}


def loss(params, x, y):
    z = x @ params["w"] + params["b"]
    return F.binary_cross_entropy_with_logits(z, y)


grads = jax.grad(loss)(params, x, y)  # in the first argument
print("d loss / d b =", grads["b"])
print("d loss / d w =", grads["w"], sep="\n")

# %% [markdown]
# **What to notice.** `grads` is a dict like `params`: the gradient of a tree is a tree of the same structure. It is a new value; nothing was attached to `w`. So there is no `zero_grad()`, as there is nothing to reset, and no `no_grad()`, as nothing is ever recorded unless you ask.
#
# To have the value of the loss too, for the price of one pass, use `jax.value_and_grad`. To return other things beside the loss (the accuracy, say), `has_aux=True`:


# %%
def loss_and_more(params, x, y):
    z = x @ params["w"] + params["b"]
    return F.binary_cross_entropy_with_logits(z, y), {"largest score": z.max()}


(value, more), grads = jax.value_and_grad(loss_and_more, has_aux=True)(params, x, y)
print("loss", value, more)

# %% [markdown]
# Is it right? Compare with finite differences, in float64, every leaf along random directions:

# %%
print(fnet.autograd.check_gradients(loss, params, x, y))

# %% [markdown]
# Each leaf is tried along two directions, and each direction in both ways that JAX has to differentiate: `reverse`, from the loss back to the parameters, which is `jax.grad` (and `backward()` in PyTorch), and `forward`, from the parameters on, which is `jax.jvp`. `computed` is what JAX says, `measured` is what the loss does when the leaf is moved a little, and `error` is their difference, relative to the gradient. So each number stands there four times, twice computed and twice measured, as it should. That the directions have nearly the same numbers is due to this loss: a direction is made of +1 and −1, and since `x` is all ones, every row of the gradient in `w` is the gradient in `b`.
#
# ## Every weight and bias by name
#
# In PyTorch you would write `for name, p in model.named_parameters(): print(name, p.grad.norm())`. Here the gradients have the names, since they are a tree like the parameters. Let us take a real network and real images:

# %%
train_set, test_set = data.digits()
images, labels = (jnp.asarray(part[:256]) for part in train_set.arrays)


def mlp(x, fc1, fc2, fc3):
    x = x.reshape(len(x), -1)
    return fc3(F.relu(fc2(F.relu(fc1(x)))))


model = nn.Model(mlp, fc1=nn.Linear(64), fc2=nn.Linear(64), fc3=nn.Linear(10))
params, _ = model.init(jax.random.key(0), images / 255)


def batch_loss(params, images, labels):
    return F.cross_entropy(model(params, images / 255), labels)


grads = jax.grad(batch_loss)(params, images, labels)
for name, g in fnet.named(grads, model):  # with the model: in its own order
    print(f"{name:12} {g.shape!s:10} norm {jnp.linalg.norm(g):.4f}   largest {jnp.abs(g).max():.4f}")

# %% [markdown]
# And since they are plain arrays, arithmetic on all of them is `jax.tree.map`. One step of gradient descent by hand:

# %%
stepped = jax.tree.map(lambda p, g: p - 0.1 * g, params, grads)
print("loss before", batch_loss(params, images, labels), "after", batch_loss(stepped, images, labels))

# %% [markdown]
# ## What became of requires_grad, detach, no_grad
#
# | PyTorch | here |
# |---|---|
# | `requires_grad=True` | you differentiate in the arguments that you name |
# | `loss.backward()` | `jax.grad(loss)(params)` |
# | `optimizer.zero_grad()` | nothing |
# | `with torch.no_grad():` | nothing |
# | `h.detach()` | `jax.lax.stop_gradient(h)` |
# | `z.grad_fn` | there is no record; `jax.make_jaxpr(loss)(params, x, y)` prints the operations (notebook 8) |
# | `p.requires_grad = False` (freeze) | take the gradient in the others only |
#
# The last line: `fnet.autograd.grad(f, selector)` differentiates in the leaves that a pattern names. For the others nothing is computed, and the tree has a hole in their place. (An optimizer does this for you: `optim.groups({"fc1.*": None, ...})`.)

# %%
head_only = fnet.autograd.grad(batch_loss, "fc3.*")(params, images, labels)
print("gradients of", fnet.names(head_only), "and in the place of fc1.weight:", head_only["fc1"]["weight"])

print("x² · x             ", jax.grad(lambda x: x**2 * x)(3.0))
print("x² · x, x² detached", jax.grad(lambda x: jax.lax.stop_gradient(x**2) * x)(3.0))

# %% [markdown]
# ## Ordinary Python is differentiated
#
# The graph is made anew at each call, as in PyTorch: `if` and `for` work as long as you are not inside `jit` (notebook 8).


# %%
def powers(x, n):
    result = 1.0
    for _ in range(n):
        result = result * x
    return result if x > 0 else -result


print([float(jax.grad(powers)(2.0, n)) for n in range(1, 5)], "= 1, 2·2, 3·2², 4·2³")

# %% [markdown]
# ## Outputs that are no scalar: products with the Jacobian
#
# `jax.grad` is for functions whose value is one number, as `loss.backward()` is. For others, `out.backward(v)` in PyTorch is the product of *v* with the Jacobian. PyTorch's tutorial calls it twice to show a trap: the second call *adds* to the first, and the gradient is twice too large, unless you zero it between. `fnet.autograd.vjp` (or `jax.vjp`, which it is made of) is a function: call it twice and you get the same twice.

# %%

def square(inp):
    return ((inp + 1) ** 2).T


inp = jnp.eye(4, 5)
_, first = fnet.autograd.vjp(square, inp, jnp.ones((5, 4)))  # out.backward(torch.ones(5, 4), retain_graph=True)
_, second = fnet.autograd.vjp(square, inp, jnp.ones((5, 4)))  # and again
print(first[0], second[0], "← in PyTorch this would be [8, 4, 4, 4, 4]", sep="\n")

# %% [markdown]
# The whole Jacobian is `jax.jacrev(f)` (best when there are few outputs) or `jax.jacfwd(f)` (best when there are few inputs). `fnet.autograd.jacobian(f, selector)` is for functions of parameters, and picks the one that is cheaper:

# %%

def scores(params):
    return model(params, images[:4] / 255)  # (4, 10)


jacobian = fnet.autograd.jacobian(scores, "fc3.*")(params)
for name, j in fnet.named(jacobian):
    print(name, j.shape, "= 4 images × 10 scores × the shape of the parameter")

# %% [markdown]
# ## Each example's own gradient, and second derivatives
#
# Things that take a trick in PyTorch are one line, because the gradient function is a function like any other. You can batch it (`jax.vmap`) or differentiate it again.

# %%
each = fnet.autograd.per_example(batch_loss)(params, images[:32], labels[:32])
norms = sum(jnp.square(g).reshape(32, -1).sum(1) for _, g in fnet.named(each)) ** 0.5
print("gradient norm of 32 examples: least", norms.min().round(2), "largest", norms.max().round(2))

direction = jax.tree.map(jnp.ones_like, params)
curvature = fnet.autograd.hvp(batch_loss, params, direction, images, labels)  # the Hessian times a direction
print("Hessian-vector product:", {name: v.shape for name, v in fnet.named(curvature)})

print("sin, and its first to third derivative at 1:", end=" ")
f = jnp.sin
for _ in range(4):
    print(round(float(f(1.0)), 4), end=" ")
    f = jax.grad(f)

# %% [markdown]
# ## What does the network look at?
#
# You can differentiate in the *image* as well as in the parameters: which pixels would change the score of the right class? First we train a little (how is notebook 6), then take the gradient for one image and let `vmap` do it for eight.

# %%

@jax.jit  # compiles the function; notebook 8
def step(params):
    grads = jax.grad(batch_loss)(params, images, labels)
    return jax.tree.map(lambda p, g: p - 0.3 * g, params, grads)


for _ in range(300):
    params = step(params)


def score(image, label):
    return model(params, image[None] / 255)[0, label]


shown, truth = images[:8].astype("float32"), labels[:8]
saliency = jax.vmap(jax.grad(score))(shown, truth)
figure, grid = plt.subplots(2, 8, figsize=(9, 2.6), layout="constrained")
limit = jnp.abs(saliency).max()
for column in range(8):
    grid[0, column].imshow(shown[column, ..., 0], cmap="gray_r")
    grid[1, column].imshow(saliency[column, ..., 0], cmap="RdBu", vmin=-limit, vmax=limit)
    grid[0, column].axis("off"), grid[1, column].axis("off")
figure.suptitle("gradient of the right class's score: blue, more ink here would help; red, it would hurt", fontsize=9)
plt.show()

# %% [markdown]
# **Exercise.** The gradient at an image says how to fool the network. Move the eight images a small step *against* the gradient of the right class's score, by 40 of 255 grey values in each pixel along the sign of the gradient (Goodfellow et al. 2014). How many of the eight are still classified correctly?
#
# <details>
# <summary>Solution</summary>
#
# ```python
# fooled = jnp.clip(shown - 40 * jnp.sign(saliency), 0, 255)
# right = lambda x: int((model(params, x / 255).argmax(-1) == truth).sum())
# print(right(shown), "of 8 before,", right(fooled), "after")
# assert right(fooled) < right(shown)
# ```
#
# The images look much the same to you. A network that has been trained on images without noise has never had a reason to be steady between them.
#
# </details>
#
# ## Vanishing gradients, by name
#
# The last picture is the loop over named gradients at work. Two networks of ten layers differ in one thing, the activation. With a sigmoid, whose slope is at most 1/4, the gradient shrinks on its way back through each layer, and the first layers learn next to nothing.


# %%
def ten(x, layers, head, activation):
    x = x.reshape(len(x), -1)
    for layer in layers:
        x = activation(layer(x))
    return head(x)


figure, axes = plt.subplots(figsize=(8, 3.8), layout="constrained")
for activation in (F.sigmoid, F.relu):
    network = nn.Model(ten, layers=[nn.Linear(64) for _ in range(9)], head=nn.Linear(10), activation=activation)
    start, _ = network.init(jax.random.key(0), images / 255, init={"*.weight": fnet.init.kaiming_normal()})
    grads = jax.grad(lambda params, net=network: F.cross_entropy(net(params, images / 255), labels))(start)
    norms = {name: float(jnp.linalg.norm(g)) for name, g in fnet.named(grads, network) if name.endswith("weight")}
    axes.semilogy(list(norms), list(norms.values()), "o-", label=activation.__name__)
axes.set_ylabel("norm of the gradient")
axes.tick_params(axis="x", rotation=45)
axes.legend()
plt.show()
