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
# # fnet in ten minutes
#
# We train a small network to read handwritten digits, look at what it learned, and save it. Everything you meet on the way
# is a plain value: the model, its parameters, the optimizer, the whole training run. What acts on them are pure functions.
#
# This is the whole way in one go. Notebooks 1 to 8 take it step by step, for a reader who knows PyTorch and has not seen JAX:
# tensors, datasets and loaders, transforms, models, autograd, optimisation, saving and resuming, and what `jit` does.
# `make notebooks` in a clone opens them all in your browser.

# %%
import jax
import jax.numpy as jnp
import numpy as np

import fnet
import fnet.functional as F
from fnet import data, metrics, nn, optim, plot, train

# %% [markdown]
# ## Data
#
# A dataset is anything with a length and samples by number. This one ships with fnet: 1,797 images of 8×8 bytes.

# %%
train_set, test_set = data.digits()
image, label = train_set[0]
print(len(train_set), "training and", len(test_set), "test samples; one is", image.shape, image.dtype, "and", label)

# %%
plot.images(train_set, rows=2, columns=8)

# %% [markdown]
# A loader cuts it into batches; `last="drop"` leaves out the smaller one at the end of an epoch. The batch of any step is a pure function of the seed and the step, so you can ask for
# batch 1,000 without reading the 999 before it, and you get the same one every time. Resuming a run needs only its step.

# %%
loader = data.DataLoader(train_set, batch_size=64, shuffle=True, seed=0, last="drop")
images, labels = loader.batch(1000)
print(images.shape, labels[:10], np.array_equal(images, loader.batch(1000)[0]))

# %% [markdown]
# ## Model
#
# A model is an ordinary function of its inputs and of its named parts. It holds no arrays: `init` draws them, from the
# shapes of the inputs alone, as a nested dict. What it draws depends on a *key*, which is a random seed as a value.


# %%
def mlp(images, fc1, drop, fc2):
    x = images.reshape(len(images), -1) / 255
    return fc2(drop(F.relu(fc1(x))))


model = nn.Model(mlp, fc1=nn.Linear(128), drop=nn.Dropout(0.2), fc2=nn.Linear(10))
params, state = model.init(jax.random.key(0), images)
fnet.summary(model, images)

# %% [markdown]
# `apply` is a pure function: the same parameters and inputs give the same outputs, and nothing is changed by calling it.
# In training, dropout needs randomness, so you pass a key; each part gets one of its own.

# %%
logits, state = model.apply(params, state, images, key=jax.random.key(1), train=True)
logits = model(params, images)  # the short form, for a model without state
print(logits.shape)

# %% [markdown]
# ## Gradients
#
# There is nothing to switch on and nothing to reset. The gradient of a function is another function, and its value is a
# tree shaped like the parameters, so the gradient of every weight and bias has the name of that weight or bias.


# %%
def simple_loss(params):
    return F.cross_entropy(model(params, images), labels)


grads = jax.grad(simple_loss)(params)
for name, g in fnet.named(grads, model):
    print(f"{name:12} {str(g.shape):10} norm {jnp.linalg.norm(g):.4f}")

# %% [markdown]
# ## Training
#
# An optimizer is a value, too; its state is a dict that you can read and change. `train.supervised` makes the loss of
# batches (inputs, labels) out of a model and a loss function. `train.start` puts parameters, state, optimizer state, key and
# step into one *pytree* (JAX's word for dicts, lists and tuples of arrays, nested as you like), the *run*. `make_step` gives
# one function from run and batch to the next run, and has `jax.jit` compile it. The loop is yours to write:

# %%
opt = optim.adamw(3e-3, weight_decay=0.01)
loss = train.supervised(model, F.cross_entropy, metrics={"accuracy": metrics.accuracy})
step = train.make_step(loss, opt)
run = train.start(model, opt, jax.random.key(0), images)

for epoch in range(2):
    for batch in loader.epoch(epoch):
        run, scores = step(run, batch)
    print(epoch, {name: round(float(value), 3) for name, value in scores.items()})

# %% [markdown]
# These are the numbers of one batch, the last of its epoch: 64 samples, with dropout on. They jump, and the accuracy may
# fall while the network gets better. To see how good it is, `train.evaluate` takes every sample of a loader, dropout off.
#
# `train.fit` is that loop with a progress bar and a history. It counts from the run's step, so it goes on where we are:
# `epochs=40` is the total, of which two are done, and 38 more are trained.

# %%
test_loader = data.DataLoader(test_set, batch_size=512, last="pad")
run, history = train.fit(
    step, run, loader, epochs=40, evaluate=lambda run: train.evaluate(loss, run, test_loader), progress=False
)
print(f"{history.last()['eval_accuracy']:.1%} of the held-out digits are right")

# %%
plot.history(history, ["loss", "accuracy"])

# %% [markdown]
# The learning rate lives in the optimizer's state: read it, change it, and nothing compiles again.

# %%
run = run._replace(opt_state=optim.set_hyper(run.opt_state, lr=3e-4))
print("learning rate", float(optim.get_hyper(run.opt_state, "lr")))

# %% [markdown]
# ## Save and load
#
# One file, no pickle. The structure comes back without a template, and the reloaded run continues bit for bit.

# %%
import tempfile
from pathlib import Path

path = Path(tempfile.mkdtemp()) / "run.safetensors"
fnet.save(path, run)
again = fnet.load(path)
print("differences after loading:", fnet.diff(again, run))

batch = loader.batch(int(run.step))
print("differences one step later:", fnet.diff(step(again, batch)[0], step(run, batch)[0]))

# %% [markdown]
# ## Look at it
#
# The network's answers for test images it has never seen. A wrong one would be red and say what was right.
#
# **Exercise.** Take `drop` out of the model: `quiet = model.map("drop", lambda d: nn.Dropout(0.0))`. Train it with the same
# seed. Which of the two has the lower training loss, and which the lower test loss?
#
# <details>
# <summary>Solution</summary>
#
# ```python
# quiet = model.map("drop", lambda d: nn.Dropout(0.0))
# quiet_loss = train.supervised(quiet, F.cross_entropy, metrics={"accuracy": metrics.accuracy})
# begin = train.start(quiet, opt, jax.random.key(0), images)
# quiet_run, _ = train.fit(train.make_step(quiet_loss, opt), begin, loader, epochs=40, progress=False)
# everything = data.DataLoader(train_set, batch_size=512)
# for name, of_model, trained in (("with dropout", loss, run), ("without", quiet_loss, quiet_run)):
#     on_train, on_test = train.evaluate(of_model, trained, everything), train.evaluate(of_model, trained, test_loader)
#     print(f"{name}: training loss {on_train['loss']:.4f}, test loss {on_test['loss']:.4f}")
# ```
#
# Measured with dropout off, as `evaluate` does, the two training losses are about the same; on digits that were never seen, the network trained with dropout has the lower loss. It could not rely on any single unit.
#
# </details>

# %%
shown, truth = data.DataLoader(test_set, batch_size=24, shuffle=True, seed=1).batch(0)
predicted = np.argmax(train.predict(model, run, shown), axis=-1)
plot.images(shown, truth, predicted, classes=test_set.classes, rows=3, columns=8)
