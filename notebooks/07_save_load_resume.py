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
# # 7 · Save, load, resume
#
# In PyTorch you save a `state_dict`, and to go on with a training run you save the optimizer's as well, and the scheduler's, and the epoch, and hope that the random generators do not matter. Here everything that changes is in one value, the run; saving a run saves all of it.

# %%
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

import fnet
import fnet.functional as F
from fnet import data, io, nn, optim, train

folder = Path(tempfile.mkdtemp())
train_set, test_set = data.digits()
loader = data.DataLoader(train_set, batch_size=64, shuffle=True, seed=0, last="drop")
images, labels = loader.batch(0)


def mlp(images, fc1, drop, fc2):
    x = images.reshape(images.shape[0], -1) / 255
    return fc2(drop(F.relu(fc1(x))))


model = nn.Model(mlp, fc1=nn.Linear(64), drop=nn.Dropout(0.2), fc2=nn.Linear(10))
opt = optim.adamw(3e-3)
step = train.make_step(train.supervised(model, F.cross_entropy), opt)
run = train.start(model, opt, jax.random.key(0), images)

# %% [markdown]
# ## Parameters
#
# `fnet.save` writes any tree of arrays, `fnet.load` reads it. You need no template: the structure comes back as it was.

# %%
fnet.save(folder / "model.safetensors", run.params)
params = fnet.load(folder / "model.safetensors")
print("differences:", fnet.diff(params, run.params))
print({name: p.shape for name, p in fnet.named(params)})

# %% [markdown]
# **What to notice.** The file is in the *safetensors* format: names, shapes and bytes. PyTorch's `torch.save` writes a pickle, and loading a pickle from a stranger runs the stranger's code. This format holds data and nothing else, and other libraries read it too.
#
# The model itself is code: you make it again by calling what made it, and put the loaded parameters in. With `like=` the file is checked against what the model expects, before a wrong shape turns up somewhere inside it:

# %%
wider = nn.Model(mlp, fc1=nn.Linear(100), drop=nn.Dropout(0.2), fc2=nn.Linear(10))
expected, _ = jax.eval_shape(wider.init, jax.random.key(0), images)
try:
    fnet.load(folder / "model.safetensors", like=expected)
except io.FileError as error:
    print(str(error).replace(str(folder), "…"))

# %% [markdown]
# If the misfit is what you want (fine-tuning: a new head on an old body), `fnet.overlay` takes the old values where names and shapes agree, and says what it did:

# %%
five, _ = model.replace("fc2", nn.Linear(5)).init(jax.random.key(1), images)
tuned = fnet.overlay(five, params)

# %% [markdown]
# ## The whole run
#
# The run is a tree as well, so it is saved by the same function. Below we train for 30 steps, save, and train for another 30: once straight on, and once from the file. Dropout is on, the data is shuffled, Adam has its averages; and still there is no difference, not in the last bit.

# %%
for number in range(30):
    run, _ = step(run, loader.batch(number))
fnet.save(folder / "run.safetensors", run)

straight_on = run
for number in range(30, 60):
    straight_on, _ = step(straight_on, loader.batch(number))

resumed = fnet.load(folder / "run.safetensors")
for number in range(int(resumed.step), 60):
    resumed, _ = step(resumed, loader.batch(number))

print(resumed)
print("differences:", fnet.diff(resumed, straight_on))

# %% [markdown]
# Why does it work? The dropout mask of step 31 is a function of the run's key and of the number 31; batch 31 is a function of the loader's seed and of the number 31. Both are in the file or in your code. Nothing is hidden anywhere.
#
# ## Checkpoints: a run that goes on when it is killed
#
# `io.Checkpoints` keeps the latest few in a folder. It is a callback of `train.fit`. A checkpoint is there complete or not at all, so a process that is killed while it writes does no harm. Here is a run that is interrupted, by an exception, in the middle of its third epoch:


# %%
class Killed(Exception):
    pass


def killed_at(number, step):
    def fragile(run, batch):
        if int(run.step) == number:
            raise Killed
        return step(run, batch)

    return fragile


fresh = train.start(model, opt, jax.random.key(0), images)
checkpoints = io.Checkpoints(folder / "run", keep=2, every=10)
try:
    train.fit(killed_at(55, step), fresh, loader, epochs=4, callbacks=[checkpoints], progress=False)
except Killed:
    checkpoints.close()  # waits for the file that is being written
    print("killed. There are", checkpoints)

# %% [markdown]
# And the script that you would start again, the same one as the first time. Note that `epochs` is the total of the whole run: `fit` counts from the run's own step.

# %%
checkpoints = io.Checkpoints(folder / "run", keep=2, every=10)
again = train.start(model, opt, jax.random.key(0), images)
if checkpoints.steps():
    again = checkpoints.restore(like=again)
    print("goes on from", again)
again, after = train.fit(step, again, loader, epochs=4, callbacks=[checkpoints], progress=False)
checkpoints.close()

whole, history = train.fit(step, fresh, loader, epochs=4, progress=False)
print("differences from a run that was never killed:", fnet.diff(again, whole))

# %% [markdown]
# `best="eval_loss"` keeps the best besides the latest, `minutes=10` saves by the clock, and `sigterm=True` saves when a cluster announces that it will end your process.
#
# ## From PyTorch
#
# `io.from_torch` takes a `.pth` file, a `state_dict` or a torch module, matches by name, and turns the layouts: a `Linear` weight is `(out, in)` there and `(in, out)` here, a convolution's `OIHW` becomes `HWIO`. torch need not be installed. A `state_dict` is names and arrays, so we can write one down as NumPy:

# %%
rng = np.random.default_rng(0)
state_dict = {
    "module.fc1.weight": rng.normal(size=(64, 64)), "module.fc1.bias": np.zeros(64),
    "module.fc2.weight": rng.normal(size=(10, 64)), "module.fc2.bias": np.zeros(10),
}  # fmt: skip
try:
    io.from_torch(model, state_dict, images)
except io.FileError as error:
    print(error)

# %% [markdown]
# Everything that does not fit is in one message. The names begin with `module.`, as `DataParallel` leaves them; `rename=` is a regular expression and what to put in its place:

# %%
params, _ = io.from_torch(model, state_dict, images, rename={r"^module\.": ""})
hidden = np.maximum(images.reshape(64, -1) / 255 @ state_dict["module.fc1.weight"].T, 0)
theirs = hidden @ state_dict["module.fc2.weight"].T
print("the same outputs:", np.allclose(model(params, images), theirs, atol=1e-3))

# %% [markdown]
# (One trap: a network that flattens an image before a `Linear`. PyTorch flattens channels first, JAX channels last, so the rows of that weight are in another order. With one channel, as here, there is no difference; otherwise give `flattened={"fc1": (height, width, channels)}`.)
#
# ## A model without its code
#
# Where PyTorch has ONNX and TorchScript, JAX has StableHLO: the compiled function, before it is made for one machine. `io.export` writes it with the parameters into one file, for any batch size, on CPU, GPU and TPU. Whoever loads it needs jax and fnet, and none of your model's code.

# %%
io.export(folder / "digits.fnet", model, whole.params, whole.state, images)
served = io.load_exported(folder / "digits.fnet")
print(served)
test_images, test_labels = (jnp.asarray(part) for part in test_set.arrays)
right = (served(test_images).argmax(-1) == test_labels).mean()
print(f"{right:.1%} of {len(test_images)} test images are right, from the file alone")

# %% [markdown]
# ## One picture from a file
#
# What is this a picture of? A trained model answers for batches of what it was trained on: bytes `(n, 8, 8, 1)`. So read the file, make it that size, and put the axis of the batch in front, with `x[None]` (PyTorch's `unsqueeze(0)`). The file here is a test image, enlarged; take one of yours.

# %%
Image.fromarray(test_set[4][0][..., 0]).resize((100, 100)).save(folder / "picture.png")

x = data.transforms.Resize((8, 8))(data.read_image(folder / "picture.png", mode="L"))  # "L": grey, one channel
scores = train.predict(model, whole, x[None])[0]  # a batch of one, and its only row
print(f"{x.shape}: this is a {test_set.classes[scores.argmax()]}, with {F.softmax(scores).max():.0%} probability")
print("what it should be:", test_set[4][1])

# %% [markdown]
# **What to notice.** The picture must look like the training images in everything: in these, ink is 255 and paper is 0, and the digit fills the square. A photo of a digit on paper is the other way round, and needs `255 - x`.
#
# **Exercise.** Branch a run. Take the run after 30 steps (it is in `run.safetensors`), train it 60 steps on with the learning rate it has, and 60 steps on with a tenth of it. Compare the losses on all of the training data. In PyTorch you would need `copy.deepcopy`; why is it not needed here?
#
# <details>
# <summary>Solution</summary>
#
# ```python
# base = fnet.load(folder / "run.safetensors")
# slower = base._replace(opt_state=optim.set_hyper(base.opt_state, lr=3e-4))
# loss = train.supervised(model, F.cross_entropy)
# everything = data.DataLoader(train_set, batch_size=512)
# for name, branch in {"as it was": base, "a tenth": slower}.items():
#     branch, _ = train.fit(step, branch, loader, steps=90, progress=False)
#     print(name, train.evaluate(loss, branch, everything))
# ```
#
# No step changes the run that it is given, so `base` is still at step 30 when the second branch begins. A name is all that a copy takes.
#
# </details>
#
# The loss of the run that was never killed, with that of the resumed one on top of it from the step where it took up:

# %%
figure, axes = plt.subplots(figsize=(7, 3.4), layout="constrained")
axes.plot(history.steps("loss"), history["loss"], color="lightgrey", linewidth=6, label="never killed")
axes.plot(after.steps("loss"), after["loss"], color="C0", linewidth=1.5, label="resumed from the checkpoint")
axes.axvline(55, color="C3", linestyle="--", linewidth=1, label="killed here")
axes.set(xlabel="step", ylabel="loss")
axes.legend()
plt.show()
