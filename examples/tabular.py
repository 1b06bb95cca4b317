"""Regression on a table, with an honest "± how much": an ensemble of networks that each predict a mean and a variance.

The members disagree where data is scarce, and their variances say how noisy the target is (deep ensembles,
Lakshminarayanan et al. 2017, arXiv:1612.01474). Without --data the table is made by Friedman's first benchmark (1991):
ten uniform features, of which five matter, y = 10 sin(π x0 x1) + 20 (x2 - ½)² + 10 x3 + 5 x4 + noise of deviation 1, so
that no model can have an RMSE below 1. A run that was killed goes on from its last checkpoint when started again.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from _made_for import checksum, made_for
from matplotlib.figure import Figure

import fnet
import fnet.functional as F
from fnet import data, io, models, nn, optim, train


def friedman(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Features (n, 10), targets (n,) and the names of the features of Friedman's benchmark #1."""
    rng = np.random.default_rng(seed)
    x = rng.random((n, 10))
    y = 10 * np.sin(np.pi * x[:, 0] * x[:, 1]) + 20 * (x[:, 2] - 0.5) ** 2 + 10 * x[:, 3] + 5 * x[:, 4]
    return x, y + rng.normal(size=n), [f"x{k}" for k in range(10)]


def read_table(args: argparse.Namespace) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Features, targets and names of a CSV with a line of headings; texts become one column of 0 and 1 for each."""
    path = args.data
    as_text = dict.fromkeys(args.drop, "str")  # whatever is in a column that is left out
    delimiter = args.delimiter.replace("\\t", "\t")
    try:
        table = data.read_csv(path, delimiter=delimiter, types=as_text, encoding=args.encoding)
    except FileNotFoundError:
        raise SystemExit(f"there is no table {path}; leave --data out to use Friedman's benchmark") from None
    except (ValueError, TypeError, LookupError) as error:
        raise SystemExit(f"{error}\n(here: --delimiter, --encoding, --drop)") from None
    table = {name: column for name, column in table.items() if name not in args.drop}
    args.target = args.target or next(reversed(table), None)
    if args.target not in table:
        raise SystemExit(f"{path}: no column {args.target!r} to predict; columns: {', '.join(table)}")
    missing = {name: column == "" if column.dtype == object else ~np.isfinite(column.astype(float))
               for name, column in table.items()}  # fmt: skip
    if table[args.target].dtype == object or missing[args.target].all():
        raise SystemExit(f"{path}: the target {args.target!r} must be a column of numbers; columns: {', '.join(table)}")
    useless = {name: "has no value in any row" for name in table if missing[name].all()}
    for name, column in table.items():
        different = len(set(column)) if column.dtype == object else 0
        if different > max(10, len(column) / 2):
            useless[name] = f"is text, with {different} different ones in {len(column)} rows, such as {column[0]!r}"
    if useless:
        raise SystemExit("\n".join([
            f"{path} has columns from which nothing can be learnt:",
            *(f"  {name!r} {why}" for name, why in useless.items()),
            f"leave them out: --drop {' '.join(map(repr, useless))}",
        ]))  # fmt: skip

    lacking = np.any(list(missing.values()), axis=0)
    if lacking.any():
        where = ", ".join(f"{name} {rows.sum()}" for name, rows in missing.items() if rows.any())
        print(f"{lacking.sum()} rows with missing values are left out (missing in {where})")
    if len(lacking) - lacking.sum() < 10 or len(table) < 2:
        raise SystemExit(f"{path}: at least 10 rows without missing values and one feature are needed")
    table = {name: column[~lacking] for name, column in table.items()}
    y = table.pop(args.target).astype(float)
    columns = {}
    for name, column in table.items():
        if column.dtype == object:
            columns |= {f"{name}={value}": (column == value).astype(float) for value in sorted(set(column))}
        else:
            columns[name] = column.astype(float)
    return np.stack(list(columns.values()), axis=1), y, list(columns)


def loss(model: Any) -> Any:
    """Minus the log-likelihood of each member, in mean; a member's outputs are its mean and the log of its variance."""

    def nll(params: Any, state: Any, batch: Any, *, key: Any = None, train: bool = False) -> Any:
        x, y = batch
        outputs, state = model.apply(params, state, x, key=key, train=train)  # (members, batch, 2)
        mean, log_variance = outputs[..., 0], outputs[..., 1]
        y = jnp.broadcast_to(y, mean.shape)
        value = F.gaussian_nll_loss(mean, y, jnp.exp(log_variance), full=True)
        return value, (state, {"rmse": rmse(mean.mean(0), y[0])})

    return nll


def rmse(prediction: Any, y: Any) -> Any:
    return jnp.sqrt(jnp.mean((prediction - y) ** 2))


def mixture(outputs: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean, deviation, and the part of the deviation on which members disagree, from outputs (members, n, 2)."""
    mean, variance = outputs[..., 0], np.exp(outputs[..., 1])
    return mean.mean(0), np.sqrt(variance.mean(0) + mean.var(0)), mean.std(0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="a CSV file with headings; default: Friedman's benchmark")
    parser.add_argument("--target", help="the column to predict; default: the last one")
    parser.add_argument("--drop", nargs="+", default=[], metavar="COLUMN", help="columns to leave out: names, dates, …")
    parser.add_argument("--delimiter", default=",", help="between the columns of --data: ';', or '\\t' for a tab")
    parser.add_argument("--encoding", default="utf-8", help="of --data, such as latin-1")
    parser.add_argument("--members", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=25, help="many more make it too sure of itself")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="folder of checkpoints and picture; default: runs/tabular")
    parser.add_argument("--short", action="store_true", help="three epochs, to see that it runs")
    args = parser.parse_args()
    args.out = args.out or Path("runs/tabular-short" if args.short else "runs/tabular")
    epochs = 3 if args.short else args.epochs

    # Data: features and target scaled by what the training rows have.
    x, y, names = friedman(2000) if args.data is None else read_table(args)
    source = f"{args.data.name}, checksum {checksum(x, y)}" if args.data else "Friedman's benchmark"
    made = made_for(args.out, args, "epochs", "data", "drop", "delimiter", "encoding", source=source, features=names)
    order = np.random.default_rng(0).permutation(len(y))
    train_rows, test_rows = order[: 4 * len(y) // 5], order[4 * len(y) // 5 :]
    x_mean, x_std = x[train_rows].mean(0), x[train_rows].std(0) + 1e-9
    y_mean, y_std = y[train_rows].mean(), y[train_rows].std() + 1e-9
    x_scaled, y_scaled = ((x - x_mean) / x_std).astype("float32"), ((y - y_mean) / y_std).astype("float32")
    train_set = data.ArrayDataset(x_scaled[train_rows], y_scaled[train_rows])
    loader = data.DataLoader(train_set, min(64, len(train_rows)), shuffle=True, seed=args.seed, last="drop")

    # Model: one network, n times side by side, each with its own initial weights.
    model = nn.Ensemble(models.mlp(2, (64, 64), activation=F.silu), args.members)
    opt = optim.adamw(optim.cosine(5e-3, epochs * len(loader)), weight_decay=0.05)
    run = train.start(model, opt, jax.random.key(args.seed), loader.batch(0)[0])
    step = train.make_step(loss(model), opt)
    print(f"{len(train_rows):,} rows of {x.shape[1]} features; {args.members} networks of "
          f"{fnet.count(run.params) // args.members:,} parameters")

    total, begin = epochs * len(loader), time.perf_counter()
    log = train.JSONLines(args.out / "history.jsonl")
    ckpt = io.Checkpoints(args.out / "checkpoints", keep=2, sigterm=True, metadata=made)
    with ckpt, train.History(log) as history:
        if ckpt.steps():
            run = ckpt.restore(like=run)
            print(f"goes on from step {int(run.step)} of {total}", flush=True)
        if int(run.step) < total:
            run, _ = train.fit(step, run, loader, epochs=epochs, callbacks=[ckpt], history=history)
    seconds = time.perf_counter() - begin

    # Held-out rows, in the target's own unit: the error, and whether the intervals hold what they promise.
    outputs = np.asarray(model(run.params, x_scaled[test_rows]))
    mean, deviation, _ = mixture(outputs)
    mean, deviation, truth = y_mean + y_std * mean, y_std * deviation, y[test_rows]
    alone = [float(rmse(y_mean + y_std * member, truth)) for member in outputs[..., 0]]
    inside = np.mean(np.abs(truth - mean) < 1.645 * deviation)
    print(f"RMSE {rmse(mean, truth):.3f} on {len(truth)} held-out rows (members alone {np.mean(alone):.3f}, always the "
          f"mean {truth.std():.3f}); {inside:.1%} are inside the 90 % interval; {seconds:.0f} s of training")

    # One feature moved across and beyond the data, the others at their mean: the ensemble knows where it knows nothing.
    feature = int(np.argmax(sensitivity(model, run.params, x_scaled[test_rows])))
    low, high = x[:, feature].min(), x[:, feature].max()
    grid = np.linspace(low - (high - low) / 2, high + (high - low) / 2, 200)
    probe = np.zeros((200, x.shape[1]), "float32")
    probe[:, feature] = (grid - x_mean[feature]) / x_std[feature]
    line, total_std, disagreement = mixture(np.asarray(model(run.params, probe)))

    figure = Figure(figsize=(12, 3.8), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    left.errorbar(truth, mean, 1.645 * deviation, fmt="o", markersize=2.5, linewidth=0.4)
    left.axline((truth.mean(), truth.mean()), slope=1, color="black", linewidth=0.8)
    left.set(xlabel="measured", ylabel="predicted, with its 90 % interval", title=f"RMSE {rmse(mean, truth):.2f}")
    promised = np.linspace(0.05, 0.95, 19)
    bounds = np.asarray(jax.scipy.stats.norm.ppf(0.5 + promised / 2))
    middle.plot(promised, [np.mean(np.abs(truth - mean) < bound * deviation) for bound in bounds], "o-", markersize=3)
    middle.axline((0, 0), slope=1, color="black", linewidth=0.8)
    middle.set(xlabel="promised share inside", ylabel="observed share inside", title="calibration")
    line = y_mean + y_std * line
    for part, alpha, label in ((total_std, 0.2, "90 % interval"), (disagreement, 0.4, "of it: members disagree")):
        right.fill_between(grid, line - 1.645 * y_std * part, line + 1.645 * y_std * part, alpha=alpha, label=label)
    right.plot(grid, line, linewidth=1)
    right.axvspan(low, high, color="black", alpha=0.06, label="where there was data")
    right.set(xlabel=names[feature], ylabel="predicted", title="beyond the data it is unsure")
    right.legend(fontsize=7)
    args.out.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.out / "uncertainty.png", dpi=120)
    print(f"picture and checkpoints: {args.out}")


def sensitivity(model: Any, params: Any, x: np.ndarray) -> jax.Array:
    """How much the mean depends on each feature: the mean size of its gradient."""
    gradient = jax.vmap(jax.grad(lambda row: model(params, row[None])[..., 0].mean()))
    return jnp.abs(gradient(x)).mean(0)


if __name__ == "__main__":
    main()
