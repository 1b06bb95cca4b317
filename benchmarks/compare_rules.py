"""All update rules on two real problems, their learning rates tuned alike; writes docs/optimizers.md and its figure.

The problems are a small convolutional network on MNIST and a character-level transformer on tiny Shakespeare. Each rule
gets the same four trials: its usual learning rate times 0.1, 0.32, 1 and 3.2, with one warm-up and cosine schedule. The
trial with the best validation result is run once more with two other seeds, and the mean of the three is what the table
has, on test data that no choice has seen. Results are kept in build/compare_rules.jsonl: run it again to go on.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import fnet
from fnet import data, init, nn, optim, train
from fnet import functional as F

Rate = Callable[[Any], Any]


def is_hidden_matrix(name: str, leaf: Any) -> bool:
    """The weights that Muon is for: matrices between hidden layers, not the embedding and not the head."""
    return leaf.ndim == 2 and "head" not in name and "embed" not in name


def with_adamw(matrix_rule: Callable[[Rate], Any]) -> Callable[[Rate], Any]:
    """A rule for hidden matrices, AdamW at a tenth of the rate for all else."""
    return lambda lr: optim.groups({is_hidden_matrix: matrix_rule(lr), "*": optim.adamw(lambda step: 0.1 * lr(step))})


# name: (usual learning rate, learning rate -> optimizer). Rprop and L-BFGS are not here: they are for full batches.
RULES: dict[str, tuple[float, Callable[[Rate], Any]]] = {
    "sgd": (0.1, optim.sgd),
    "sgd, momentum": (0.1, lambda lr: optim.sgd(lr, momentum=0.9)),
    "sgd, Nesterov": (0.1, lambda lr: optim.sgd(lr, momentum=0.9, nesterov=True)),
    "adam": (3e-3, optim.adam),
    "adamw": (3e-3, optim.adamw),
    "adam, amsgrad": (3e-3, lambda lr: optim.adam(lr, amsgrad=True)),
    "nadam": (3e-3, optim.nadam),
    "radam": (3e-3, optim.radam),
    "adamax": (3e-3, optim.adamax),
    "adabelief": (3e-3, optim.adabelief),
    "adan": (3e-3, optim.adan),
    "ademamix": (3e-3, optim.ademamix),
    "adopt": (3e-3, optim.adopt),
    "yogi": (1e-2, optim.yogi),
    "novograd": (1e-2, optim.novograd),
    "rmsprop": (1e-3, optim.rmsprop),
    "adagrad": (3e-2, optim.adagrad),
    "adadelta": (1.0, optim.adadelta),
    "asgd": (0.1, optim.asgd),
    "lion": (3e-4, optim.lion),
    "sophia": (1e-3, optim.sophia),
    "lamb": (1e-2, optim.lamb),
    "lars": (1.0, optim.lars),
    "adafactor": (1e-2, optim.adafactor),
    "muon + adamw": (2e-2, with_adamw(optim.muon)),
    "soap": (3e-3, optim.soap),
    "shampoo": (1e-2, optim.shampoo),
    "schedule-free sgd": (1.0, optim.schedule_free_sgd),
    "schedule-free adamw": (3e-3, optim.schedule_free_adamw),
    "prodigy": (1.0, optim.prodigy),
    "dadapt_adamw": (1.0, optim.dadapt_adamw),
    "sam(adamw)": (3e-3, lambda lr: optim.sam(optim.adamw(lr))),
    "lookahead(adamw)": (3e-3, lambda lr: optim.lookahead(optim.adamw(lr))),
}
FACTORS = (0.1, 0.32, 1.0, 3.2)


def conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """A 3×3 convolution, ReLU, and the maximum of each 2×2."""
    y = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    n, h, w, c = y.shape
    return F.relu(y).reshape(n, h // 2, 2, w // 2, 2, c).max((2, 4))


def cnn(images: jax.Array, conv1: jax.Array, conv2: jax.Array, hidden: Any, head: Any) -> jax.Array:
    """Two convolutions and two linear layers."""
    x = conv(conv(images / 255 - 0.13, conv1), conv2)
    return head(F.relu(hidden(x.reshape(len(x), -1))))


def rms_norm(x: jax.Array) -> jax.Array:
    """Each vector scaled to a mean square of 1."""
    return x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-6)


def block(x_btd: jax.Array, qkv: Any, proj: Any, up: Any, down: Any, heads: int) -> jax.Array:
    """Causal self-attention and a feed-forward network, each added to what came in."""
    b, t, d = x_btd.shape
    q, k, v = jnp.split(qkv(rms_norm(x_btd)).reshape(b, t, heads, -1), 3, axis=-1)
    scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) / math.sqrt(d // heads)
    weights = F.softmax(jnp.where(jnp.tril(jnp.ones((t, t), bool)), scores, -1e9))
    x_btd = x_btd + proj(jnp.einsum("bhqk,bkhd->bqhd", weights, v).reshape(b, t, d))
    return x_btd + down(F.gelu(up(rms_norm(x_btd))))


def gpt(ids: jax.Array, embed: Any, position: jax.Array, blocks: list, head: Any) -> jax.Array:
    """A decoder-only transformer."""
    x = embed(ids) + position[: ids.shape[1]]
    for one in blocks:
        x = one(x)
    return head(rms_norm(x))


def make_cnn() -> nn.Model:
    """Some 52,000 parameters, for 28×28 images."""
    kernel = init.kaiming_normal()
    conv1, conv2 = nn.Param((3, 3, 1, 8), kernel), nn.Param((3, 3, 8, 16), kernel)
    return nn.Model(cnn, conv1=conv1, conv2=conv2, hidden=nn.Linear(64), head=nn.Linear(10))


def make_gpt(width: int = 64, context: int = 64, letters: int = 65) -> nn.Model:
    """Some 110,000 parameters, two blocks of four heads."""
    qkv, proj = nn.Linear(3 * width, bias=False), nn.Linear(width, bias=False)
    one = nn.Model(block, qkv=qkv, proj=proj, up=nn.Linear(4 * width), down=nn.Linear(width), heads=4)
    embed, position = nn.Embedding(letters, width), nn.Param((context, width), init.normal(0.02))
    return nn.Model(gpt, embed=embed, position=position, blocks=[one] * 2, head=nn.Linear(letters))


class Problem:
    """A model, its loss, training batches by (seed, step), and held-out batches to choose and to report by."""

    def __init__(self, name: str, model: Any, sets: dict[str, Any], batch: int, unit: str, better: Callable):
        self.name, self.model, self.sets, self.batch, self.unit, self.better = name, model, sets, batch, unit, better
        metrics = {"accuracy": fnet.metrics.accuracy}
        self.loss = train.supervised(model, F.cross_entropy, metrics)

    def batches(self, seed: int) -> Iterator[Any]:
        return iter(data.DataLoader(self.sets["train"], self.batch, shuffle=True, seed=seed, last="drop").stream())

    def score(self, run: Any, which: str) -> float:
        scores = train.evaluate(self.loss, run, data.DataLoader(self.sets[which], 500, last="pad"))
        return scores[self.unit]


class Windows:
    """Pieces of a text as (ids, the ids that follow), every ``stride`` letters."""

    def __init__(self, ids: np.ndarray, context: int, stride: int):
        self.ids, self.context = ids, context
        self.starts = np.arange(0, len(ids) - context - 1, stride)

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, index: int) -> Any:
        return self.get_batch(np.array([index]))[0]

    def get_batch(self, indices: np.ndarray) -> Any:
        pieces = self.ids[self.starts[indices][:, None] + np.arange(self.context + 1)]
        return pieces[:, :-1], pieces[:, 1:]


def mnist_cnn() -> Problem:
    """A convolutional network on MNIST; the last 5,000 training images choose the rate."""
    whole, test = data.mnist()
    images, labels = whole.arrays
    sets = {"train": (images[:-5000], labels[:-5000]), "validation": (images[-5000:], labels[-5000:])}
    sets = {name: data.ArrayDataset(*arrays) for name, arrays in sets.items()} | {"test": test}
    return Problem("MNIST CNN", make_cnn(), sets, 64, "accuracy", max)


def shakespeare_gpt() -> Problem:
    """A character-level transformer; the last tenth of the text is held out, half to choose and half to report."""
    text = (Path(os.environ["FNET_DATA"]) / "tinyshakespeare.txt").read_bytes()
    letters, ids = np.unique(np.frombuffer(text, np.uint8), return_inverse=True)
    ids, cut = ids.astype("int32"), int(0.9 * len(ids))
    half = (cut + len(ids)) // 2
    sets = {"train": Windows(ids[:cut], 64, 7), "validation": Windows(ids[cut:half], 64, 64)}
    sets["test"] = Windows(ids[half:], 64, 64)
    return Problem("char GPT", make_gpt(letters=len(letters)), sets, 16, "loss", min)


def trial(problem: Problem, make: Callable[[Rate], Any], rate: float, steps: int, seed: int, step: Any) -> dict:
    """Train once; the run with the parameters to evaluate, and its validation result."""
    batches = problem.batches(seed)
    first = next(batches)
    opt = make(lambda count: jnp.float32(0))
    run = train.start(problem.model, opt, jax.random.key(seed), first[0])
    run, _ = step(run, first, jnp.float32(rate))
    for _ in range(steps - 1):
        run, _ = step(run, next(batches), jnp.float32(rate))
    run = run._replace(params=opt.eval_params(run.opt_state, run.params))
    return {"rate": rate, "validation": problem.score(run, "validation"), "run": run}


def make_step(problem: Problem, make: Callable[[Rate], Any], steps: int) -> Any:
    """A step with the peak rate as an argument, so that all trials of a rule share one compiled program."""
    shape = optim.warmup(optim.cosine(1.0, steps - steps // 10), steps // 10)

    def step(run: Any, batch: Any, rate: jax.Array) -> Any:
        return train.make_step(problem.loss, make(lambda count: rate * shape(count)))(run, batch)

    return jax.jit(step)


def compare(problem: Problem, name: str, steps: int) -> dict:
    """Four rates, then two more seeds of the best."""
    usual, make = RULES[name]
    step = make_step(problem, make, steps)
    trials = [trial(problem, make, usual * factor, steps, 0, step) for factor in FACTORS]
    sound = [t for t in trials if math.isfinite(t["validation"])] or trials
    best = problem.better(sound, key=lambda t: t["validation"])
    again = [best, *(trial(problem, make, best["rate"], steps, seed, step) for seed in (1, 2))]
    tests = [problem.score(t["run"], "test") for t in again]
    return {
        "problem": problem.name,
        "rule": name,
        "steps": steps,
        "rate": best["rate"],
        "edge": best["rate"] in (usual * FACTORS[0], usual * FACTORS[-1]),
        "test": statistics.mean(tests),
        "spread": max(tests) - min(tests),
    }


def write(results: list[dict], folder: Path) -> None:
    """The table and the figure in ``folder``."""
    from matplotlib.figure import Figure

    first = results[0]
    raced = {(r["problem"], r["rule"]) for r in results}
    absent = [f"{rule} on {p}" for p in {p for p, _ in raced} for rule in RULES if (p, rule) not in raced]
    missing = f" Not run: {', '.join(absent)}." if absent else ""
    lines = [
        "# The update rules compared",
        "",
        f"Made by `python benchmarks/compare_rules.py` with jax {jax.__version__} on {os.cpu_count()} CPU cores. "
        f"{first['steps']} steps each; how rates were chosen stands at the top of that file. A rate with an asterisk "
        "is at the edge of the four that were tried, so a wider search might do better. The spread is that of three "
        "seeds; differences below it mean nothing. Rprop and L-BFGS, which are for full batches, take no "
        "part. So short a race says who starts well, not who ends best." + missing,
        "",
    ]
    problems = list(dict.fromkeys(r["problem"] for r in results))
    figure = Figure(figsize=(6 * len(problems), 0.24 * len(RULES) + 1), layout="constrained")
    for axes, problem in zip(figure.subplots(1, len(problems), squeeze=False).flat, problems, strict=True):
        accuracy = "CNN" in problem
        rows = sorted((r for r in results if r["problem"] == problem), key=lambda r: r["test"], reverse=accuracy)
        unit = "test accuracy" if accuracy else "test loss (nats a letter)"
        lines += [f"## {problem}", "", f"| rule | {unit} | spread | rate |", "|---|---|---|---|"]
        for r in rows:
            value = f"{r['test']:.2%}" if accuracy else f"{r['test']:.3f}"
            spread = f"{r['spread']:.2%}" if accuracy else f"{r['spread']:.3f}"
            rate = f"{r['rate']:.2g}{'*' if r['edge'] else ''}"
            lines.append(f"| {r['rule']} | {value} | {spread} | {rate} |")
        lines.append("")
        names, values = [r["rule"] for r in rows][::-1], [r["test"] for r in rows][::-1]
        axes.errorbar(values, names, xerr=[r["spread"] / 2 for r in rows][::-1], fmt="o", markersize=4)
        axes.set_xlabel(f"{problem}: {unit}")
        axes.grid(alpha=0.3)
    figure.savefig(folder / "optimizers.png", dpi=110)
    (folder / "optimizers.md").write_text("\n".join([*lines, "![the same as a figure](optimizers.png)", ""]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rules", nargs="*", default=list(RULES), help="by default all")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--docs", type=Path, default=Path("docs"))
    args = parser.parse_args()
    if "FNET_DATA" not in os.environ:
        raise SystemExit("set FNET_DATA to a folder with mnist/ and tinyshakespeare.txt")
    kept = Path("build/compare_rules.jsonl")
    kept.parent.mkdir(exist_ok=True)
    results = [json.loads(line) for line in kept.read_text().splitlines()] if kept.exists() else []
    results = [r for r in results if r["steps"] == args.steps]
    done = {(r["problem"], r["rule"]) for r in results}
    for problem in (mnist_cnn(), shakespeare_gpt()):
        for name in args.rules:
            if (problem.name, name) not in done:
                results.append(compare(problem, name, args.steps))
                print(json.dumps(results[-1]), flush=True)
                with kept.open("a") as file:
                    file.write(json.dumps(results[-1]) + "\n")
    args.docs.mkdir(exist_ok=True)
    write(results, args.docs)


if __name__ == "__main__":
    main()
