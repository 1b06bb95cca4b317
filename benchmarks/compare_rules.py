"""All update rules on two real problems, their learning rates tuned alike; writes docs/optimizers.md and its figure.

The problems are a small convolutional network on MNIST and a character-level transformer on tiny Shakespeare, with one
warm-up and cosine schedule. Each rule is tried at three rates, half a decade apart, and at further ones while the best
on the validation data is at the edge of those tried, up to a factor of a thousand either way. The best then trains for
longer, with three other seeds; the table has their mean on test data that no choice has seen. Every trial is kept in
build/compare_rules/: run it again to go on.
"""

from __future__ import annotations

import argparse
import itertools
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


# SOAP and Shampoo: new bases and roots every 20 updates; of the side of 784, the inputs of the CNN's hidden layer, none
# and only the diagonal. Otherwise they would take 30 times as long as the others.
MATRICES = {"precondition_frequency": 20, "max_precond_dim": 512}

# name: (where the search begins, learning rate -> optimizer). Rprop and L-BFGS are for full batches: not here.
RULES: dict[str, tuple[float, Callable[[Rate], Any]]] = {
    "sgd": (0.3, optim.sgd),
    "sgd, momentum": (0.1, lambda lr: optim.sgd(lr, momentum=0.9)),
    "sgd, Nesterov": (0.1, lambda lr: optim.sgd(lr, momentum=0.9, nesterov=True)),
    "adam": (1e-2, optim.adam),
    "adamw": (1e-2, optim.adamw),
    "adam, amsgrad": (1e-2, lambda lr: optim.adam(lr, amsgrad=True)),
    "nadam": (1e-2, optim.nadam),
    "radam": (1e-2, optim.radam),
    "adamax": (1e-2, optim.adamax),
    "adabelief": (1e-2, optim.adabelief),
    "adan": (1e-2, optim.adan),
    "ademamix": (1e-2, optim.ademamix),
    "adopt": (1e-2, optim.adopt),
    "yogi": (3e-2, optim.yogi),
    "novograd": (3e-2, optim.novograd),
    "rmsprop": (3e-3, optim.rmsprop),
    "adagrad": (0.1, optim.adagrad),
    "adadelta": (3.0, optim.adadelta),
    "asgd": (0.3, optim.asgd),
    "lion": (1e-3, optim.lion),
    "sophia": (3e-3, optim.sophia),
    "lamb": (3e-2, optim.lamb),
    "lars": (3.0, optim.lars),
    "adafactor": (3e-2, optim.adafactor),
    "muon + adamw": (6e-2, with_adamw(optim.muon)),
    "soap": (1e-2, lambda lr: optim.soap(lr, **MATRICES)),
    "shampoo": (0.1, lambda lr: optim.shampoo(lr, **MATRICES)),
    "shampoo, grafted": (0.1, lambda lr: optim.shampoo(lr, momentum=0.9, graft="diagonal", **MATRICES)),
    "schedule-free sgd": (1.0, optim.schedule_free_sgd),
    "schedule-free adamw": (1e-2, optim.schedule_free_adamw),
    "prodigy": (1.0, optim.prodigy),
    "dadapt_adamw": (0.3, optim.dadapt_adamw),
    "sam(adamw)": (1e-2, lambda lr: optim.sam(optim.adamw(lr))),
    "lookahead(adamw)": (1e-2, lambda lr: optim.lookahead(optim.adamw(lr))),
}
SPACING, BOUND = 10**0.5, 6  # rates are start · SPACING^k, |k| at most BOUND
TUNING_SEED, SEEDS = 0, (1, 2, 3)


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


PROBLEMS = {"mnist": mnist_cnn, "shakespeare": shakespeare_gpt}


class Trials:
    """Runs of one rule on one problem, remembered in a file; all share one compiled step, the rate its argument."""

    def __init__(self, problem: Problem, rule: str, file: Path):
        self.problem, self.rule, self.file = problem, rule, file
        self.make = RULES[rule][1]
        self.step = jax.jit(lambda run, batch, rate: self.train_step(rate)(run, batch))

    def train_step(self, rate: jax.Array) -> Any:
        return train.make_step(self.problem.loss, self.make(lambda count: rate))

    def score(self, which: str, rate: float, steps: int, seed: int) -> float:
        """The result on the validation or the test data, from the file or else from a run."""
        key = {"rule": self.rule, "data": which, "rate": float(f"{rate:.3g}"), "steps": steps, "seed": seed}
        rows = [json.loads(line) for line in self.file.read_text().splitlines()] if self.file.exists() else []
        for row in rows:
            if row.items() >= key.items():
                return row["score"]
        score = self.problem.score(self.trained(rate, steps, seed), which)
        with self.file.open("a") as file:
            file.write(json.dumps(key | {"score": score}) + "\n")
        print(self.problem.name, key, score, flush=True)
        return score

    def trained(self, rate: float, steps: int, seed: int) -> Any:
        """A run with the parameters to evaluate, after warm-up to ``rate`` and a cosine to zero."""
        rates = rate * np.asarray(optim.warmup(optim.cosine(1.0, steps - steps // 10), steps // 10)(np.arange(steps)))
        opt = self.make(lambda count: jnp.float32(0))
        batches = self.problem.batches(seed)
        first = next(batches)
        run = train.start(self.problem.model, opt, jax.random.key(seed), first[0])
        for rate_now, batch in zip(rates, itertools.chain([first], batches), strict=False):
            run, _ = self.step(run, batch, jnp.float32(rate_now))
        return run._replace(params=opt.eval_params(run.opt_state, run.params))


def best_rate(trials: Trials, steps: int) -> tuple[float, bool]:
    """The rate with the best validation result, and whether it is at the edge of all that the search may try."""

    def quality(k: int) -> float:
        score = trials.score("validation", start * SPACING**k, steps, TUNING_SEED)
        sign = 1 if trials.problem.better is max else -1
        return sign * score if math.isfinite(score) else -math.inf

    start = RULES[trials.rule][0]
    tried = {k: quality(k) for k in (-1, 0, 1)}
    while True:
        best = max(sorted(tried), key=lambda k: tried[k])  # of equals, such as those that all diverged, the lowest
        following = best - 1 if best == min(tried) else best + 1
        if following in tried or abs(following) > BOUND:
            return start * SPACING**best, following not in tried
        tried[following] = quality(following)


def result(trials: Trials, rate: float, edge: bool, steps: int) -> dict:
    """A row of the table."""
    tests = [trials.score("test", rate, steps, seed) for seed in SEEDS]
    return {
        "problem": trials.problem.name,
        "rule": trials.rule,
        "rate": rate,
        "edge": edge,
        "test": statistics.mean(tests),
        "spread": max(tests) - min(tests),
    }


def write(results: list[dict], tuning_steps: int, steps: int, folder: Path) -> None:
    """The tables and the figure in ``folder``; what stands in optimizers.md from "## Speed" on is left as it is."""
    from matplotlib.figure import Figure

    raced = {(r["problem"], r["rule"]) for r in results}
    absent = [f"{rule} on {p}" for p in {p for p, _ in raced} for rule in RULES if (p, rule) not in raced]
    missing = f" Not run: {', '.join(absent)}." if absent else ""
    edges = any(r["edge"] for r in results)
    lines = [
        "# The update rules compared",
        "",
        f"Made by `python benchmarks/compare_rules.py` with jax {jax.__version__} on {os.cpu_count()} CPU cores. Rates "
        f"are half a decade apart; three were tried for {tuning_steps} steps with one seed, and more of them until the "
        "best on validation data had a worse one on either side. "
        + ("An asterisk marks a rate at the bound of that search. " if edges else "")
        + f"The best then took {steps} steps with each of three other seeds, whose mean on test data is in the tables. "
        "The spread is that of the three; differences below it mean nothing. So short a race says who starts well, not "
        "who ends best. SOAP and Shampoo renew their bases and roots every 20 updates; of a side above 512 SOAP has no "
        'basis and Shampoo the diagonal. "Grafted" is `momentum=0.9, graft="diagonal"`, without which Shampoo is as in '
        "the paper. Rprop and L-BFGS, which are for full "
        "batches, take no part." + missing,
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
        names, values = [r["rule"] for r in rows][::-1], [1 - r["test"] if accuracy else r["test"] for r in rows][::-1]
        axes.errorbar(values, names, xerr=[r["spread"] / 2 for r in rows][::-1], fmt="o", markersize=4)
        axes.set_xlabel(f"{problem}: {'test error' if accuracy else unit}")
        if accuracy:  # on a linear axis one bad rule would make the others look the same
            ticks = [0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5]
            axes.set_xscale("log")
            axes.set_xticks(ticks, [f"{tick:.0%}" for tick in ticks])
            axes.set_xticks([], minor=True)
            axes.set_xlim(0.8 * min(values), 1.1 * max(values))
        axes.grid(alpha=0.3)
    figure.savefig(folder / "optimizers.png", dpi=110)
    page = folder / "optimizers.md"
    _, speed, rest = page.read_text().partition("\n## Speed") if page.exists() else ("", "", "")
    page.write_text("\n".join([*lines, "![the same as a figure](optimizers.png)", ""]) + speed + rest)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rules", nargs="*", default=list(RULES), help="by default all")
    parser.add_argument("--problems", nargs="*", default=list(PROBLEMS), help="by default both")
    parser.add_argument("--tuning-steps", type=int, default=200)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--docs", type=Path, default=Path("docs"))
    args = parser.parse_args()
    if "FNET_DATA" not in os.environ:
        raise SystemExit("set FNET_DATA to a folder with mnist/ and tinyshakespeare.txt")
    kept = Path("build/compare_rules")
    kept.mkdir(parents=True, exist_ok=True)
    problems = {name: PROBLEMS[name]() for name in args.problems}
    races = [Trials(problem, rule, kept / f"{name}.jsonl") for name, problem in problems.items() for rule in args.rules]
    rates = [best_rate(trials, args.tuning_steps) for trials in races]
    results = [result(trials, *found, args.steps) for trials, found in zip(races, rates, strict=True)]
    args.docs.mkdir(exist_ok=True)
    write(results, args.tuning_steps, args.steps, args.docs)


if __name__ == "__main__":
    main()
