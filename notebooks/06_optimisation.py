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
# # 6 · Optimisation
#
# We have data (2), a model (4) and gradients (5). Training is the loop that puts them together. We write it out in full first, with a loop for training and a loop for testing as in PyTorch's tutorial, and take the shorter form when we know what it stands for.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import fnet
import fnet.functional as F
from fnet import data, metrics, nn, optim, plot, train


def mlp(images, fc1, fc2):
    x = images.reshape(len(images), -1) / 255
    return fc2(F.relu(fc1(x)))


model = nn.Model(mlp, fc1=nn.Linear(128), fc2=nn.Linear(10))

# %% [markdown]
# ## Hyperparameters
#
# The numbers that *you* choose, since training does not: how many times to go through the data, how many samples to average a gradient over, how far to step.

# %%
epochs = 12
batch_size = 64
learning_rate = 3e-3

train_set, test_set = data.digits()
train_loader = data.DataLoader(train_set, batch_size=batch_size, shuffle=True, seed=0, last="drop")
test_loader = data.DataLoader(test_set, batch_size=batch_size, last="pad")  # adds a mask, False where it is padding

# %% [markdown]
# ## Loss function and optimizer
#
# `F.cross_entropy` is `nn.CrossEntropyLoss`: of scores, not of probabilities. An optimizer in PyTorch holds the parameters and changes them. Here it holds the recipe only; what it remembers between steps (Adam's averages, the number of updates) is `opt_state`, a dict, and `update` returns the new parameters:
#
# | PyTorch | here |
# |---|---|
# | `opt = torch.optim.Adam(net.parameters(), lr=3e-3)` | `opt = optim.adam(3e-3)`; `opt_state = opt.init(params)` |
# | `opt.zero_grad()` | nothing |
# | `loss.backward()` | `grads = jax.grad(loss)(params)` |
# | `opt.step()` | `params, opt_state = opt.update(grads, opt_state, params)` |

# %%
opt = optim.adam(learning_rate)
params, _ = model.init(jax.random.key(0), jax.ShapeDtypeStruct((1, 8, 8, 1), "uint8"))
opt_state = opt.init(params)
print("the optimizer remembers:", *(f"{name} {np.shape(leaf)}" for name, leaf in fnet.named(opt_state)), sep="\n  ")

# %% [markdown]
# ## One step, compiled
#
# The step is a pure function: old parameters and a batch in, new parameters and the loss out. `@jax.jit` compiles it at its first call, and this is where JAX gets its speed: put the *whole* step under one `jit`, not single operations.


# %%
def loss_fn(params, images, labels):
    return F.cross_entropy(model(params, images), labels)


@jax.jit
def train_step(params, opt_state, images, labels):
    loss, grads = jax.value_and_grad(loss_fn)(params, images, labels)
    params, opt_state = opt.update(grads, opt_state, params)
    return params, opt_state, loss


@jax.jit
def test_step(params, images, labels, mask):
    logits = model(params, images)
    correct = (logits.argmax(-1) == labels) & mask
    return F.cross_entropy(logits, labels, mask=mask) * mask.sum(), correct.sum(), mask.sum()


# %% [markdown]
# ## The train loop and the test loop


# %%
def train_loop(params, opt_state, epoch):
    for number, (images, labels) in enumerate(train_loader.epoch(epoch)):
        params, opt_state, loss = train_step(params, opt_state, images, labels)
        if number == 0:
            print(f"epoch {epoch:2}   first batch's loss {loss:.4f}", end="   ")
    return params, opt_state


def test_loop(params):
    sums = np.zeros(3)
    for images, labels, mask in test_loader.epoch(0):
        sums += np.array(test_step(params, images, labels, mask))
    loss, correct, count = sums
    print(f"test: {correct / count:.1%} right, mean loss {loss / count:.4f}, of {count:.0f} samples")


for epoch in range(epochs):
    params, opt_state = train_loop(params, opt_state, epoch)
    test_loop(params)

# %% [markdown]
# **What to notice.** The names `params` and `opt_state` are bound again at each step: `train_step` does not change what it is given. If you forget to take what it returns, nothing is trained, and that is the one mistake to look for when a loss does not move.
#
# JAX does not wait for a result until you look at it, so the loop prepares the next batch while the device works. Printing the loss at *every* step would make it wait each time.
#
# ## The same with less to write
#
# `train.supervised` writes the loss of (inputs, labels) batches, masks included. `train.start` puts all that changes (parameters, state, optimizer state, random key, step) into one value, the run. `train.make_step` writes the step above. `train.fit` writes the two loops, with a progress bar and a history.

# %%
loss = train.supervised(model, F.cross_entropy, metrics={"accuracy": metrics.accuracy})
step = train.make_step(loss, opt)
run = train.start(model, opt, jax.random.key(0), jax.ShapeDtypeStruct((1, 8, 8, 1), "uint8"))
run, history = train.fit(
    step, run, train_loader, epochs=epochs, evaluate=lambda run: train.evaluate(loss, run, test_loader), progress=False
)
print(f"test: {history.last()['eval_accuracy']:.1%} right, mean loss {history.last()['eval_loss']:.4f}")
changes = fnet.diff(run.params, params, rtol=1e-3, atol=1e-3)
print("differences from the parameters of the loop by hand, beyond rounding:", changes)

# %%
plot.history(history, ["loss", "accuracy"])

# %% [markdown]
# What `train.supervised` wrote is a function that you can write yourself, whenever your batches or your loss have another form. It takes the parameters, the model's state (notebook 4) and a batch, and gives the loss, the new state, and what else you want to know:


# %%
def own_loss(params, state, batch, *, key=None, train=False):
    images, labels = batch
    logits, state = model.apply(params, state, images, key=key, train=train)
    return F.cross_entropy(logits, labels), (state, {"accuracy": metrics.accuracy(logits, labels)})


batch = train_loader.batch(0)
print("own:       ", own_loss(run.params, run.state, batch))
print("supervised:", loss(run.params, run.state, batch))
grads, _ = jax.grad(own_loss, has_aux=True)(run.params, run.state, batch)  # of the first of the two values
print("gradients: ", {name: round(float(jnp.linalg.norm(g)), 4) for name, g in fnet.named(grads)})

# %% [markdown]
# ## Learning rates: by hand, by schedule, by group
#
# A learning rate given as a number is in the state, where you can change it at any time, without compiling again. One given as a *schedule*, a function of the step, changes by itself. In PyTorch you call `scheduler.step()` and must remember where; here the optimizer counts its own updates.

# %%
run = run._replace(opt_state=optim.set_hyper(run.opt_state, lr=1e-4))
print(f"learning rate now {optim.get_hyper(run.opt_state, 'lr'):g}")

plot.schedule(
    {
        "warmup(cosine)": optim.warmup(optim.cosine(3e-3, steps=450), steps=50),
        "one_cycle": optim.one_cycle(3e-3, steps=500),
        "step_decay": optim.step_decay(3e-3, steps=150, gamma=0.3),
    },
    steps=500,
)

# %% [markdown]
# A schedule goes where the learning rate would be. Its `steps` are updates, not epochs: here those of 40 epochs. `train.early_stopping` is a callback of `train.fit`: it ends the training when `eval_loss` has not been better than its best for `patience` evaluations, of which there is one an epoch. It has to look back, so you make the history yourself and give it to both.

# %%
history = train.History()
opt = optim.adamw(optim.cosine(learning_rate, steps=40 * len(train_loader)))
run = train.start(model, opt, jax.random.key(0), jax.ShapeDtypeStruct((1, 8, 8, 1), "uint8"))
run, history = train.fit(
    train.make_step(loss, opt), run, train_loader, epochs=40, history=history, progress=False,
    callbacks=[train.early_stopping(history, "eval_loss", patience=5)],
    evaluate=lambda run: train.evaluate(loss, run, test_loader),
)  # fmt: skip
print(f"stopped after epoch {len(history['eval_loss'])} of 40; the best was epoch {history['eval_loss'].argmin() + 1}")
print(f"learning rate of the last update: {optim.get_hyper(run.opt_state, 'lr'):.5f}")

# %% [markdown]
# **What to notice.** The rate can be read as before, but not set: `set_hyper` says that it follows a schedule. It has not come down to 0, since the schedule is for all 40 epochs. And `run` is the *last* one, a few epochs behind the best; `io.Checkpoints` (notebook 7) keeps the best. One more thing: here the test images have said when to stop, so their score is a little too good. For a number to report, stop by a part of the training data, `data.random_split`.
#
# PyTorch's parameter groups are `optim.groups`: names on the left, optimizers on the right, the first match wins. Wrappers such as gradient clipping go around an optimizer and give an optimizer.

# %%
opt = optim.groups({"fc1.*": optim.adam(1e-3), "*.bias": optim.sgd(1e-2), "*": optim.adamw(1e-3, weight_decay=0.1)})
opt = optim.clip_by_global_norm(opt, 1.0)
print(opt)

# %% [markdown]
# **Exercise.** How well does *no learning* do? Make groups that freeze `fc1` (its weights stay random) and train `fc2` only, with `train.fit` for 12 epochs. `None` in the place of an optimizer means frozen. Guess the accuracy before you run it.
#
# <details>
# <summary>Solution</summary>
#
# ```python
# frozen = optim.groups({"fc1.*": None, "*": optim.adam(3e-3)})
# before = train.start(model, frozen, jax.random.key(0), jax.ShapeDtypeStruct((1, 8, 8, 1), "uint8"))
# after, _ = train.fit(train.make_step(loss, frozen), before, train_loader, epochs=12, progress=False)
# print(train.evaluate(loss, after, test_loader))
# assert not fnet.diff(after.params["fc1"], before.params["fc1"])
# ```
#
# Random features are better than their name: with 128 of them, a linear layer on top reads more than nine in ten of these digits. No gradient was computed for `fc1`, and the optimizer keeps no averages for it: look at `fnet.names(after.opt_state)`.
#
# </details>
#
# ## Optimizers racing on a surface
#
# What do optimizers do differently? Two surfaces on which it shows, each with one minimum (the star). Rosenbrock's has a curved valley: it is easy to find the valley, and hard to go along its flat floor. Beale's has steep walls beside plateaus on which the gradient is nearly zero.
#
# The parameters are one array of two numbers. An optimizer takes any tree, and an array is one. `jax.lax.scan` is a `for` loop as one compiled operation: it carries `(params, opt_state)` along and stacks what each step returns. Each optimizer has the best learning rate of a few that were tried. Momentum overshoots and saves time by it; Adam and RMSprop take steps of nearly one length wherever they are, which is good on a plateau and bad near the goal; L-BFGS learns how the surface bends, which works when there is no noise in the gradient, as there is with batches.
#
# `update` gets two things more than above, `loss=` and `value_and_grad=`. L-BFGS needs them: it tries several points along its direction before it steps to one (a *line search*), so it has to ask for the loss and gradient there. PyTorch passes a `closure` for this. The other racers ignore them, and `train.make_step` always passes them.


# %%
def rosenbrock(p):
    return (1 - p[0]) ** 2 + 100 * (p[1] - p[0] ** 2) ** 2


def beale(p):
    x, y = p
    return (1.5 - x + x * y) ** 2 + (2.25 - x + x * y**2) ** 2 + (2.625 - x + x * y**3) ** 2


def path(surface, opt, start, steps=800):
    def one(carry, _):
        point, opt_state = carry
        value_and_grad = jax.value_and_grad(surface)
        value, grad = value_and_grad(point)
        point, opt_state = opt.update(grad, opt_state, point, loss=value, value_and_grad=value_and_grad)
        return (point, opt_state), point

    start = jnp.asarray(start)
    _, points = jax.jit(lambda carry: jax.lax.scan(one, carry, length=steps))((start, opt.init(start)))
    return np.concatenate([start[None], points])


races = [
    ("Rosenbrock", rosenbrock, (-1.2, 1.0), (1.0, 1.0), (-1.7, 1.7), (-0.6, 1.9), [2e-3, 3e-3, 0.03, 0.2]),
    ("Beale", beale, (0.0, -0.5), (3.0, 0.5), (-0.5, 3.7), (-1.1, 1.3), [1e-2, 3e-3, 0.03, 0.1]),
]
figure, panels = plt.subplots(1, 2, figsize=(11, 4.6), layout="constrained")
for axes, (name, surface, start, goal, xs, ys, rates) in zip(panels, races, strict=True):
    grid = np.meshgrid(np.linspace(*xs, 200), np.linspace(*ys, 200))
    axes.contourf(*grid, np.log10(surface(grid) + 1e-3), levels=30, cmap="Greys", alpha=0.7)
    racers = {
        "sgd": optim.sgd(rates[0]), "momentum": optim.sgd(rates[1], momentum=0.9),
        "rmsprop": optim.rmsprop(rates[2]), "adam": optim.adam(rates[3]), "L-BFGS": optim.lbfgs(),
    }  # fmt: skip
    for label, racer in racers.items():
        points = path(surface, racer, start)
        arrived = np.flatnonzero(np.linalg.norm(points - goal, axis=1) < 0.05)
        when = f"there after {arrived[0]}" if len(arrived) else "not there after 800"
        axes.plot(*points.T, ".-", markersize=3, linewidth=0.8, alpha=0.8, label=f"{label}: {when}")
    axes.plot(*goal, "*", color="gold", markeredgecolor="black", markersize=14)
    axes.set(title=name, xlim=xs, ylim=ys)
    axes.legend(fontsize=8, loc="upper center" if name == "Rosenbrock" else "upper left")
plt.show()
