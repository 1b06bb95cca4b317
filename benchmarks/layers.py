"""Every layer beside PyTorch eager, Flax NNX and Equinox: the time of its forward and of forward and gradients.

    python benchmarks/layers.py --only "conv/*" --rounds 15 --markdown

Cases stand in layer_cases/, one file a family. All contenders of a case take turns in one process: in every round
each runs for some milliseconds, and the medians over rounds are printed, with their ratio to fnet's in brackets
(above 1: fnet is faster). Gradients are those of all parameters and floating inputs, for one random cotangent. What
is in JAX is jitted as a pure function with jax.jit, whichever library it is from, so that no library pays for its
own dispatch. float32 throughout.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable
from fnmatch import fnmatch
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx
from layer_cases import Case, Pure, families

LIBRARIES = ("fnet", "torch", "flax", "equinox")
Run = Callable[[], Any]


def channels_second(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(np.moveaxis(array, -1, 1)) if array.dtype == np.float32 and array.ndim > 2 else array


def fnet_function(case: Case, inputs: list[Any]) -> Pure:
    layer = case.fnet()
    if isinstance(layer, Pure) or not hasattr(layer, "apply"):
        return layer if isinstance(layer, Pure) else Pure(lambda params, *xs: layer(*xs))
    params, state = layer.init(jax.random.key(0), *inputs)
    key = jax.random.key(1)
    return Pure(lambda params, *xs: layer.apply(params, state, *xs, key=key, train=case.train)[0], params)


def flax_function(case: Case) -> Pure:
    assert case.flax
    module = case.flax(nnx.Rngs(0))
    if not isinstance(module, nnx.Module):
        return module if isinstance(module, Pure) else Pure(lambda params, *xs: module(*xs))
    module.train() if case.train else module.eval()
    graph, params, rest = nnx.split(module, nnx.Param, ...)
    return Pure(lambda params, *xs: nnx.merge(graph, params, rest)(*xs), params)


def equinox_function(case: Case) -> Pure:
    assert case.equinox
    module = case.equinox(jax.random.key(0))
    if isinstance(module, Pure):
        return module
    params, static = eqx.partition(module, eqx.is_inexact_array)
    return Pure(lambda params, *xs: jax.vmap(eqx.combine(params, static))(*xs), params)


def jax_runs(pure: Pure, inputs: list[np.ndarray]) -> tuple[Run, Run]:
    """(forward, forward and gradients), each a call that ends when its results are there."""
    arrays = [jnp.asarray(array) for array in inputs]
    floating = [i for i, array in enumerate(arrays) if jnp.issubdtype(array.dtype, jnp.floating)]

    def outputs(params: Any, xs: list[jax.Array], given: list[jax.Array]) -> list[jax.Array]:
        whole = list(given)
        for i, x in zip(floating, xs, strict=True):
            whole[i] = x
        leaves = jax.tree.leaves(pure.function(params, *whole))
        return [leaf for leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.floating)]

    def both(params: Any, xs: list[jax.Array], given: list[jax.Array], cotangents: list[jax.Array]) -> Any:
        values, pullback = jax.vjp(lambda params, xs: outputs(params, xs, given), params, xs)
        return values, pullback(cotangents)

    forward, gradients = jax.jit(outputs), jax.jit(both)
    xs = [arrays[i] for i in floating]
    rng = np.random.default_rng(1)
    shapes = jax.eval_shape(outputs, pure.params, xs, arrays)
    cotangents = [jnp.asarray(rng.standard_normal(leaf.shape, dtype="float32")) for leaf in shapes]
    return (
        lambda: jax.block_until_ready(forward(pure.params, xs, arrays)),
        lambda: jax.block_until_ready(gradients(pure.params, xs, arrays, cotangents)),
    )


def torch_runs(case: Case, inputs: list[np.ndarray]) -> tuple[Run, Run]:
    assert case.torch
    module = case.torch()
    tensors = [torch.tensor(a if a.dtype == np.float32 else a.astype("int64")) for a in inputs]
    leaves = [tensor.requires_grad_() for tensor in tensors if tensor.is_floating_point()]
    if isinstance(module, Pure):
        function, params = module.function, list(module.params)
        module = lambda *xs: function(params, *xs)  # noqa: E731
    else:
        params = list(module.parameters()) if isinstance(module, torch.nn.Module) else []
    if isinstance(module, torch.nn.Module):
        module.train(case.train)

    def outputs() -> list[Any]:
        found, pending = [], [module(*tensors)]
        while pending:
            value = pending.pop(0)
            if isinstance(value, tuple | list):
                pending = [*value, *pending]
            elif isinstance(value, torch.Tensor) and value.is_floating_point():
                found.append(value)
        return found

    def forward() -> None:
        with torch.no_grad():
            outputs()

    cotangents = [torch.randn_like(value) for value in outputs()]
    wanted = [*params, *leaves]

    def both() -> None:
        torch.autograd.grad(outputs(), wanted, cotangents, allow_unused=True)

    return forward, both


def contenders(case: Case) -> dict[str, tuple[Run, Run]]:
    inputs = case.arrays()
    moved = [channels_second(array) for array in inputs] if case.channels_first else inputs
    found = {"fnet": jax_runs(fnet_function(case, [jnp.asarray(array) for array in inputs]), inputs)}
    if case.torch:
        found["torch"] = torch_runs(case, moved)
    if case.flax:
        found["flax"] = jax_runs(flax_function(case), inputs)
    if case.equinox:
        found["equinox"] = jax_runs(equinox_function(case), moved)
    return found


def medians(runs: dict[str, Run], rounds: int, seconds: float) -> dict[str, float]:
    """Milliseconds a call: the median over rounds, in each of which everyone runs for about `seconds`, in turns."""
    repeats = {}
    for name, run in runs.items():
        run()
        begin = time.perf_counter()
        run()
        repeats[name] = max(1, round(seconds / (time.perf_counter() - begin)))
    times: dict[str, list[float]] = {name: [] for name in runs}
    rng = random.Random(0)
    for _ in range(rounds):
        # In a random order, with pauses: PyTorch's threads spin on after its turn, and slow the next one up to 1.6x.
        for name in rng.sample(list(runs), len(runs)):
            time.sleep(0.005)
            runs[name]()  # not timed: the cache is that of whoever came before
            begin = time.perf_counter()
            for _ in range(repeats[name]):
                runs[name]()
            times[name].append((time.perf_counter() - begin) / repeats[name])
    return {name: 1e3 * statistics.median(found) for name, found in times.items()}


def row(name: str, times: list[dict[str, float]], markdown: bool) -> str:
    cells = []
    for found in times:
        cells.append(f"{found['fnet']:.2f}")
        for library in LIBRARIES[1:]:
            known = library in found
            cells.append(f"{found[library]:.2f} ({found[library] / found['fnet']:.1f})" if known else "–")
    if markdown:
        return f"| {name} | " + " | ".join(cells) + " |"
    return f"{name:58}" + "".join(f"{cell:>15}" for cell in cells)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="*", help='a glob over "family/case"')
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--seconds", type=float, default=0.02, help="how long each contender runs in a round")
    parser.add_argument("--markdown", action="store_true")
    args = parser.parse_args()
    cases = {f"{family}/{case.name}": case for family, found in families().items() for case in found}
    chosen = {name: case for name, case in cases.items() if fnmatch(name, args.only)}
    if not chosen:
        parser.error(f"no case matches {args.only!r}; there are\n  " + "\n  ".join(cases))
    print(
        f"jax {jax.__version__} on {jax.devices()[0].device_kind}, torch {torch.__version__} with "
        f"{torch.get_num_threads()} threads, {args.rounds} rounds; ms, and in brackets as a multiple of fnet's\n"
    )
    heads = [f"{what} {library}" for what in ("forward", "+ gradients") for library in LIBRARIES]
    if args.markdown:
        print("| case | " + " | ".join(heads) + " |\n" + "|---" * (len(heads) + 1) + "|")
    else:
        print(f"{'':58}" + "".join(f"{head.replace('+ gradients', '+grad'):>15}" for head in heads))
    for name, case in chosen.items():
        runs = contenders(case)
        times = [medians({library: run[i] for library, run in runs.items()}, args.rounds, args.seconds) for i in (0, 1)]
        print(row(name, times, args.markdown), flush=True)


if __name__ == "__main__":
    main()
