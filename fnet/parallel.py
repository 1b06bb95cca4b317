"""Many devices: a mesh, and where each array lies on it, by dotted name. What is sharded, `jax.jit` runs in parallel.

    mesh = parallel.mesh(data=-1, model=2)               # 8 devices: 4 by 2
    rules = {"*.weight": P("data", "model"), "*": P()}   # P is jax.sharding.PartitionSpec
    where = parallel.shardings(run, mesh, rules)
    run = jax.device_put(run, where)
    step = jax.jit(train.make_step(loss, opt), out_shardings=(where, None))   # the run stays where it is
    for batch in data.to_device(loader.stream(), NamedSharding(mesh, P("data"))):
        run, metrics = step(run, batch)

With everything whole on each device and batches divided, which is most often wanted, that is one line:

    step, run = parallel.data_parallel(train.make_step(loss, opt), run, parallel.mesh(data=-1))

Several hosts start with `jax.distributed.initialize()`, and each reads its part of a batch with
``DataLoader(…, shard=(jax.process_index(), jax.process_count()))``, of which `data.to_device` makes the whole.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from fnet.selectors import Selector, first_match, hint
from fnet.tree import PyTree, map_named, named

__all__ = ["data_parallel", "explain", "mesh", "shardings"]

Spec = tuple[Any, ...]  # of each axis of an array None, the name of an axis of the mesh, or a tuple of names


def mesh(devices: Sequence[jax.Device] | None = None, /, **axes: int) -> Mesh:
    """A mesh of devices (all, unless given) with named axes of these sizes; -1, once, is what remains.

    Raises ValueError where the sizes do not fit the number of devices.

    >>> from fnet import parallel
    >>> parallel.mesh(data=-1, model=1).axis_names
    ('data', 'model')
    """
    devices = jax.devices() if devices is None else list(devices)
    if not axes:
        raise ValueError("mesh needs named axes, such as mesh(data=-1)")
    for name, size in axes.items():
        if isinstance(size, bool) or not isinstance(size, int) or (size < 1 and size != -1):
            raise ValueError(f"mesh: {name} is a number of devices, or -1 for what remains, got {size!r}")
    given = math.prod(size for size in axes.values() if size != -1)
    free = [name for name, size in axes.items() if size == -1]
    shown = ", ".join(f"{name}={size}" for name, size in axes.items())
    if len(free) > 1:
        raise ValueError(f"mesh({shown}): one axis can take what remains, got {len(free)}")
    if given > len(devices) or (free and len(devices) % given):
        raise ValueError(f"mesh({shown}) does not fit {len(devices)} devices, of which it takes a multiple of {given}")
    sizes = tuple(len(devices) // given if size == -1 else size for size in axes.values())
    # Auto: ordinary code runs, and the compiler decides where what is in between lies.
    kinds = (AxisType.Auto,) * len(sizes)
    return jax.make_mesh(sizes, tuple(axes), kinds, devices=devices[: math.prod(sizes)])


def shardings(tree: PyTree, mesh: Mesh, rules: Mapping[Selector, PartitionSpec | None]) -> PyTree:
    """A `NamedSharding` for each leaf of a tree, for `jax.device_put`, ``in_shardings`` and ``out_shardings``.

    ``tree`` is of arrays or their shapes: parameters, or a whole run. ``rules`` gives each dotted name that a selector
    matches its `PartitionSpec`, which says for each axis of the array along which axis of the mesh it is divided; the
    first match wins. ``params.``, ``state.`` and ``opt_state.<slot>.`` are taken off the names of a run, so that a rule
    for a parameter holds for its slots too. A slot of another shape keeps the divisions of those of its axes that are
    the parameter's without doubt. Numbers, and what has fewer axes than its rule, lie whole on every device;
    `explain` shows what became of each leaf.

    Raises ValueError for a rule that matches nothing, or no array of enough axes; for an array that no rule matches;
    for an axis that the mesh has not; and for an axis of a parameter that its devices do not divide.

    >>> import jax.numpy as jnp
    >>> from jax.sharding import PartitionSpec as P
    >>> from fnet import parallel
    >>> params = {"fc": {"weight": jnp.ones((4, 6)), "bias": jnp.zeros(6)}}
    >>> where = parallel.shardings(params, parallel.mesh(data=1), {"*.weight": P("data"), "*": P()})
    >>> where["fc"]["weight"].spec == P("data"), where["fc"]["bias"].spec
    (True, P())
    """
    specs = {name: spec for name, spec, _ in _places(tree, mesh, rules)}
    return map_named(lambda name, leaf: NamedSharding(mesh, PartitionSpec(*specs[name])), tree)


def explain(tree: PyTree, mesh: Mesh, rules: Mapping[Selector, PartitionSpec | None]) -> str:
    """A table of what `shardings` gives: of each leaf the name, the shape, that of one device's part, and why.

    >>> import jax.numpy as jnp
    >>> from jax.sharding import PartitionSpec as P
    >>> from fnet import parallel
    >>> params = {"fc": {"weight": jnp.ones((4, 6)), "bias": jnp.zeros(6)}}
    >>> print(parallel.explain(params, parallel.mesh(data=1), {"*": P("data", None)}))
    fc.bias    (6,)   -> (6,)    P()              whole: the rule '*' is for 2 axes
    fc.weight  (4, 6) -> (4, 6)  P('data', None)  the rule '*'
    """
    leaves = dict(named(tree))
    rows = []
    for name, spec, why in _places(tree, mesh, rules):
        shape = _shape(leaves[name])
        part = NamedSharding(mesh, PartitionSpec(*spec)).shard_shape(shape)
        rows.append((name, str(shape), f"-> {part}", f"P({', '.join(map(repr, spec))})", why))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    padded = ([cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in rows)
    return "\n".join(f"{name}  {shape} {part}  {spec}  {why}".rstrip() for name, shape, part, spec, why in padded)


def data_parallel(
    step: Callable[[Any, Any], tuple[Any, Any]],
    run: PyTree,
    mesh: Mesh,
    rules: Mapping[Selector, PartitionSpec | None] | None = None,
    *,
    donate: bool = False,
) -> tuple[Callable[[Any, Any], tuple[Any, Any]], PyTree]:
    """``(step, run)`` for a mesh: each batch is divided along its first axis, and the run placed by ``rules``.

    Batches may be numpy arrays, as `train.fit` hands them on, of a size that the devices along the mesh's first axis
    divide. The numbers are those of one device but for the order of sums: a BatchNorm sees the whole batch. By default
    the run lies whole on every device; ``rules`` are those of `shardings`. ``donate=True`` lets a step reuse the memory
    of its run, and the first step that of the run given here, which may be the same. On a mesh of one device both come
    back as they are. Several hosts need `data.to_device`, as above. Raises what `shardings` raises, and JAX a
    ValueError for a batch that cannot be divided.

    >>> import jax, jax.numpy as jnp
    >>> from fnet import functional as F, nn, optim, parallel, train
    >>> model, opt, batch = nn.Linear(3), optim.sgd(0.1), (jnp.ones((8, 5)), jnp.zeros(8, "int32"))
    >>> step = train.make_step(train.supervised(model, F.cross_entropy), opt)
    >>> run = train.start(model, opt, jax.random.key(0), batch[0])
    >>> step, run = parallel.data_parallel(step, run, parallel.mesh(data=-1))
    >>> int(step(run, batch)[0].step)
    1
    """
    if mesh.size == 1:
        return step, run
    where = shardings(run, mesh, {"*": PartitionSpec()} if rules is None else rules)
    parts = NamedSharding(mesh, PartitionSpec(mesh.axis_names[0]))

    def divided(run: Any, batch: Any) -> tuple[Any, Any]:
        # A batch from numpy is traced as if on one device, for which functions would choose their forms.
        return step(run, jax.lax.with_sharding_constraint(batch, parts))

    # Without out_shardings XLA would move some of the run's leaves.
    jitted = jax.jit(divided, in_shardings=(where, parts), out_shardings=(where, None), donate_argnums=(0,) * donate)
    return jitted, jax.device_put(run, where)


def _places(
    tree: PyTree, mesh: Mesh, rules: Mapping[Selector, PartitionSpec | None]
) -> Iterator[tuple[str, Spec, str]]:
    """Of each leaf the name, its spec and the reason for that."""
    leaves = dict(named(tree))
    params = {name.removeprefix("params."): leaf for name, leaf in leaves.items() if name.startswith("params.")}
    own = {name: _owner(name, params) for name in leaves}
    plain = {own[name]: leaf for name, leaf in reversed(leaves.items())} | params
    globs, specs = list(rules), [_checked(mesh, glob, spec) for glob, spec in rules.items()]
    chosen = first_match(plain, globs)
    deep = {rule for name, rule in chosen.items() if len(_shape(plain[name])) >= len(specs[rule])}
    for name, leaf in leaves.items():
        shape, rule = _shape(leaf), chosen.get(own[name])
        if not shape:
            yield name, (), "a number"
        elif rule is None:
            raise ValueError(f'shardings: no rule matches {own[name]!r}; end with "*": P() for what lies whole')
        elif len(_shape(plain[own[name]])) < len(specs[rule]):
            if rule not in deep:
                raise ValueError(
                    f"shardings: the rule {globs[rule]!r} is for {len(specs[rule])} axes, {_p(specs[rule])}, and "
                    f"nothing that it matches has as many: {own[name]!r} is {_shape(plain[own[name]])}"
                )
            yield name, (), f"whole: the rule {globs[rule]!r} is for {len(specs[rule])} axes"
        else:
            whole = _shape(plain[own[name]])
            if shape == whole:
                _check_division(mesh, own[name], shape, specs[rule], globs[rule])
                yield name, specs[rule], f"the rule {globs[rule]!r}"
            else:
                spec = specs[rule] + (None,) * (len(whole) - len(specs[rule]))
                yield name, *_inherited(mesh, shape, whole, spec, globs[rule])


def _owner(name: str, params: Mapping[str, Any]) -> str:
    """The name that rules match: a parameter's for its slots, also for those that lie deeper in the state."""
    prefix = re.match(r"(params|state|opt_state\.[^.]+)\.", name)
    plain = name[prefix.end() :] if prefix else name
    parts = plain.split(".")
    tails = (".".join(parts[start:]) for start in range(len(parts)))
    return next((tail for tail in tails if name.startswith("opt_state.") and tail in params), plain)


def _inherited(mesh: Mesh, shape: Spec, whole: Spec, spec: Spec, glob: Any) -> tuple[Spec, str]:
    """The spec of a slot that has another shape than its parameter: what is sure of the parameter's."""
    few, many = sorted((shape, whole), key=len)
    kept = [axes for axes in combinations(range(len(many)), len(few)) if tuple(many[axis] for axis in axes) == few]
    if many is shape:
        found = {tuple(spec[axes.index(axis)] if axis in axes else None for axis in range(len(shape))) for axes in kept}
    else:
        found = {tuple(spec[axis] for axis in axes) for axes in kept}
    if len(found) != 1:
        return (), f"whole: not surely axes of its parameter, {whole}"
    inherited = tuple(
        axis if size % _devices(mesh, axis) == 0 else None for size, axis in zip(shape, found.pop(), strict=True)
    )
    return (inherited if any(inherited) else ()), f"the axes it has of {whole}, the rule {glob!r}"


def _checked(mesh: Mesh, glob: Any, given: Any) -> Spec:
    if not isinstance(given, tuple | PartitionSpec | None):
        raise TypeError(f"the rule {glob!r}: a PartitionSpec such as P({given!r}) is expected, got {given!r}")
    spec = tuple(given or ())
    used = [axis for entry in spec for axis in (entry if isinstance(entry, tuple) else (entry,)) if axis is not None]
    for axis in used:
        if axis not in mesh.axis_names:
            raise ValueError(f"the rule {glob!r}: the mesh has no axis {axis!r}; {hint(str(axis), mesh.axis_names)}")
        if used.count(axis) > 1:
            raise ValueError(f"the rule {glob!r}: {_p(spec)} divides two axes of an array along {axis!r}")
    return spec


def _check_division(mesh: Mesh, name: str, shape: Spec, spec: Spec, glob: Any) -> None:
    for index, axis in enumerate(spec):
        if shape[index] % _devices(mesh, axis):
            other = _p(tuple(None if here == index else entry for here, entry in enumerate(spec)))
            raise ValueError(
                f"the rule {glob!r} divides axis {index} of {name!r}, whose shape is {shape}, along {axis!r} among "
                f"{_devices(mesh, axis)} devices, and {shape[index]} is no multiple of that; put a narrower rule "
                f"before it, such as {name!r}: {other}"
            )


def _devices(mesh: Mesh, axis: Any) -> int:
    names = axis if isinstance(axis, tuple) else () if axis is None else (axis,)
    return math.prod(mesh.shape[name] for name in names)


def _shape(leaf: Any) -> tuple[int, ...]:
    return tuple(getattr(leaf, "shape", ()))


def _p(spec: Spec) -> str:
    return f"P({', '.join(map(repr, spec))})"
