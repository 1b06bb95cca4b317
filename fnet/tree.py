"""Dotted names over pytrees: how fnet finds, selects, splits, compares and changes the leaves of any tree.

A leaf's name joins the keys on the way to it with dots, ``"encoder.0.fc1.weight"``. It is the leaf's key in
files, its row in tables, its place in errors and what selectors match. In a dict key ``~`` is written ``~0``
and ``.`` is written ``~1``, so that a name always says one thing.
"""

from __future__ import annotations

import math
import re
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from hashlib import sha256
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import DictKey, FlattenedIndexKey, GetAttrKey, SequenceKey

from fnet.compare import difference
from fnet.selectors import Selector, first_match, hint, match, optional

__all__ = [
    "HOLE", "Hole", "assign", "cast", "count", "diff", "escape", "get", "is_hole", "map_named", "merge", "named",
    "names", "nbytes", "optional", "overlay", "path_name", "select", "split", "unescape",
]  # fmt: skip

PyTree: TypeAlias = Any


class Hole:
    """Where a leaf was taken out by `split`: a pytree node without leaves, so that every transform passes over it."""

    def __repr__(self) -> str:
        return "HOLE"

    def __reduce__(self) -> str:
        return "HOLE"  # there is one, after pickling and copying, too


HOLE = Hole()
jax.tree_util.register_pytree_node(Hole, lambda hole: ((), None), lambda _, children: HOLE)


def escape(part: str) -> str:
    """A dict key as one part of a dotted name.

    >>> escape("conv.1")
    'conv~11'
    """
    return part.replace("~", "~0").replace(".", "~1")


def unescape(part: str) -> str:
    """The dict key that one part of a dotted name stands for.

    >>> unescape("conv~11")
    'conv.1'
    """
    return part.replace("~1", ".").replace("~0", "~")


def path_name(path: tuple[Any, ...]) -> str:
    """The dotted name of a key path as `jax.tree_util` gives it.

    >>> import jax
    >>> [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path({"a": [1, {"b": 2}]})]
    ['a.0', 'a.1.b']
    """
    return ".".join(_part(key) for key in path)


def _part(key: Any) -> str:
    match key:
        case DictKey(key=inner) | FlattenedIndexKey(key=inner):
            return escape(str(inner))
        case SequenceKey(idx=index):
            return str(index)
        case GetAttrKey(name=name):
            return escape(name)
    return escape(str(key))


def _children(node: PyTree) -> list[tuple[str, PyTree]] | None:
    """The direct children of a node with their part names, or None for a leaf."""
    below = jax.tree_util.tree_flatten_with_path(node, is_leaf=lambda child: child is not node)[0]
    if len(below) == 1 and below[0][0] == ():
        return None
    return [(path_name(path), child) for path, child in below]


def _natural(part: str) -> list[tuple[bool, int | str]]:
    """A sort key under which "10" comes after "9"."""
    return [
        (not piece.isdigit(), int(piece) if piece.isdigit() else piece) for piece in re.split(r"(\d+)", part) if piece
    ]


def _declared(part: str, order: list[str]) -> tuple[Any, ...]:
    return (order.index(part), []) if part in order else (len(order), _natural(part))


def named(tree: PyTree, model: Any = None) -> Iterator[tuple[str, Any]]:
    """Iterate over the leaves of a tree as ``(dotted name, leaf)``.

    Dict keys come in natural order ("9" before "10"); with ``model``, in the order in which the model declares
    its parts, weight before bias. Lists, tuples, NamedTuples and dataclasses keep their own order.

    >>> import fnet
    >>> for name, g in fnet.named({"fc": {"bias": 0.5, "weight": 2.0}}): print(name, g)
    fc.bias 0.5
    fc.weight 2.0
    """
    for parts, leaf in _walk(tree, model, ()):
        yield ".".join(parts), leaf


def _walk(tree: PyTree, model: Any, above: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    below = _children(tree)
    if below is None:
        yield above, tree
        return
    parts = dict(model.parts) if isinstance(getattr(model, "parts", None), dict) else {}
    if isinstance(tree, dict) and not isinstance(tree, OrderedDict):
        order = [] if model is None else [escape(part) for part in parts] or ["weight", "bias"]
        below.sort(key=lambda child: _declared(child[0], order))
    for part, child in below:
        yield from _walk(child, None if model is None else _part_of(parts, part), (*above, part))


def _part_of(parts: dict[str, Any], part: str) -> Any:
    """The layer under a part's name; a list or dict of layers stands in as something with parts of its own."""
    value = parts.get(unescape(part), ())
    if isinstance(value, list | tuple):
        return _Group({str(index): item for index, item in enumerate(value)})
    return _Group(value) if isinstance(value, dict) else value


class _Group:
    def __init__(self, parts: dict[str, Any]):
        self.parts = parts


def names(tree: PyTree) -> list[str]:
    """The dotted names of all leaves, in natural order.

    >>> names({"fc": {"weight": 1.0, "bias": 2.0}})
    ['fc.bias', 'fc.weight']
    """
    return [name for name, _ in named(tree)]


def get(tree: PyTree, name: str) -> PyTree:
    """The leaf or the subtree at a dotted name; raises KeyError with near names when there is none.

    >>> get({"fc": {"weight": 1.0, "bias": 2.0}}, "fc.bias")
    2.0
    """
    node = tree
    for part in name.split(".") if name else []:
        below = dict(_children(node) or [])
        if part not in below:
            raise KeyError(f"no {name!r} in this tree; {hint(name, names(tree))}")
        node = below[part]
    return node


def select(tree: PyTree, selector: Selector) -> dict[str, Any]:
    """The leaves that a selector matches, as ``{dotted name: leaf}``.

    ``selector`` is a glob whose ``*`` crosses dots, a list of globs, or ``(name, leaf) -> bool``. Raises
    ValueError with near names when nothing matches (see `optional`).

    >>> select({"fc": {"weight": 1.0, "bias": 2.0}}, "*.bias")
    {'fc.bias': 2.0}
    """
    leaves = dict(named(tree))
    return {name: leaves[name] for name in match(selector, leaves)}


def assign(tree: PyTree, rules: Iterable[Selector]) -> dict[str, int]:
    """For each dotted name that some rule matches, the index of the first rule that does.

    Raises ValueError for a rule that matches no name, or only names that earlier rules have taken, unless it is
    a final ``"*"`` or `optional`.

    >>> assign({"fc": {"weight": 1.0, "bias": 2.0}}, ["*.bias", "*"])
    {'fc.bias': 0, 'fc.weight': 1}
    """
    return first_match(dict(named(tree)), rules)


def split(tree: PyTree, selector: Selector) -> tuple[PyTree, PyTree]:
    """Split a tree in two, ``(selected, rest)``; both keep the structure, with holes where leaves are absent.

    Holes have no leaves, so both halves go through `jax.grad` and `jax.jit`; `merge` puts them together again.

    >>> frozen, trained = split({"body": 1.0, "head": 2.0}, "body")
    >>> trained
    {'body': HOLE, 'head': 2.0}
    """
    chosen = set(select(tree, selector))
    selected = map_named(lambda name, leaf: leaf if name in chosen else HOLE, tree)
    rest = map_named(lambda name, leaf: HOLE if name in chosen else leaf, tree)
    return selected, rest


def merge(*trees: PyTree) -> PyTree:
    """Put together what `split` took apart: each leaf comes from the one tree that has it.

    Raises ValueError, naming the leaf, when two trees both have it or when the structures differ.

    >>> merge(*split({"body": 1.0, "head": 2.0}, "body"))
    {'body': 1.0, 'head': 2.0}
    """

    def one(path: tuple[Any, ...], *leaves: Any) -> Any:
        present = [leaf for leaf in leaves if not isinstance(leaf, Hole)]
        if len(present) > 1:
            raise ValueError(
                f"merge: {path_name(path)!r} has a value in {len(present)} trees, expected one; split them first"
            )
        return present[0] if present else HOLE

    if not trees:
        raise TypeError("merge takes the trees that split gave, got none")
    with_holes: list[Any] = [jax.tree.structure(tree, is_leaf=is_hole) for tree in trees]
    for other in with_holes[1:]:
        if other != with_holes[0]:
            here, there = (set(names(jax.tree.unflatten(t, [0] * t.num_leaves))) for t in (with_holes[0], other))
            lone = ", ".join(map(repr, sorted(here ^ there)[:5])) or "the same names, in other containers"
            raise ValueError(f"merge: the trees have different structures; not in both: {lone}")
    return jax.tree_util.tree_map_with_path(one, *trees, is_leaf=is_hole)


def is_hole(node: Any) -> bool:
    """Whether this node stands for a leaf that is absent.

    >>> is_hole(HOLE), is_hole(None)
    (True, False)
    """
    return isinstance(node, Hole)


def map_named(f: Callable[..., Any], tree: PyTree, *rest: PyTree) -> PyTree:
    """A tree of the same structure with ``f(name, leaf, *leaves of rest)`` at each leaf.

    >>> map_named(lambda name, x: 0.0 if name.endswith("bias") else x, {"fc": {"weight": 1.0, "bias": 2.0}})
    {'fc': {'bias': 0.0, 'weight': 1.0}}
    """
    return jax.tree_util.tree_map_with_path(lambda path, *leaves: f(path_name(path), *leaves), tree, *rest)


def overlay(new: PyTree, old: PyTree, report: Callable[[str], Any] | None = print) -> PyTree:
    """``new`` with the values of ``old`` wherever names and shapes match, for fine-tuning and partial loading.

    The structure and the floating dtypes are those of ``new``; ``old`` may be any tree with such names. What stayed
    new, what had another shape or kind of dtype and what of ``old`` was dropped goes to ``report`` (``None``: say
    nothing). Raises ValueError when no name matches at all.

    >>> overlay({"body": 0, "head": 0}, {"body": 1, "top": 2})
    overlay: 1 of 2 values taken over
      stayed new: head
      dropped: top
    {'body': 1, 'head': 0}
    """
    values, targets = dict(named(old)), dict(named(new))
    common = [name for name in targets if name in values]
    fits = {name for name in common if _fits(values[name], targets[name])}
    if targets and not fits:
        raise ValueError(
            f"overlay: none of the {len(targets)} names of the new tree (such as {next(iter(targets))!r}) is in the "
            f"old one with the same shape (it has such as {next(iter(values), None)!r})"
        )
    lines = [f"overlay: {len(fits)} of {len(targets)} values taken over"]
    lines += _listing("stayed new", [name for name in targets if name not in values])
    lines += _listing(
        "stayed new, shapes or kinds differ",
        [f"{n} (new {_kind(targets[n])}, old {_kind(values[n])})" for n in common if n not in fits],
    )
    lines += _listing("dropped", [name for name in values if name not in targets])
    if report is not None and len(lines) > 1:
        report("\n".join(lines))
    return map_named(lambda name, leaf: _like(values[name], leaf) if name in fits else leaf, new)


def _listing(title: str, items: list[str]) -> list[str]:
    return [f"  {title}: {', '.join(items)}"] if items else []


def _kind(leaf: Any) -> str:
    return f"{leaf.dtype}{list(leaf.shape)}" if hasattr(leaf, "dtype") else repr(leaf)


def _fits(value: Any, leaf: Any) -> bool:
    """Whether a value can take a leaf's place: the same shape, and the same dtype or another floating one."""
    if np.shape(value) != np.shape(leaf):
        return False
    old, new = (getattr(item, "dtype", None) for item in (value, leaf))
    if old is None or new is None or old == new:
        return True
    return bool(jnp.issubdtype(old, jnp.floating) and jnp.issubdtype(new, jnp.floating))


def _like(value: Any, leaf: Any) -> Any:
    dtype = getattr(leaf, "dtype", None)
    return value if dtype is None or getattr(value, "dtype", None) == dtype else jnp.asarray(value, dtype)


def count(tree: PyTree) -> int:
    """The number of scalars in all leaves: of parameters, for a tree of parameters.

    >>> import jax.numpy as jnp
    >>> count({"weight": jnp.ones((3, 4)), "bias": jnp.ones(4)})
    16
    """
    return sum(math.prod(np.shape(leaf)) for leaf in jax.tree.leaves(tree))


def nbytes(tree: PyTree) -> int:
    """The bytes that all array leaves take (arrays and ShapeDtypeStructs; Python scalars count nothing).

    >>> import jax.numpy as jnp
    >>> nbytes({"weight": jnp.ones((3, 4)), "bias": jnp.ones(4, "bfloat16")})
    56
    """
    total = 0
    for leaf in jax.tree.leaves(tree):
        dtype = getattr(leaf, "dtype", None)
        if dtype is None:
            continue
        if jnp.issubdtype(dtype, jax.dtypes.prng_key):
            leaf = jax.eval_shape(jax.random.key_data, leaf)
        total += math.prod(leaf.shape) * np.dtype(leaf.dtype).itemsize
    return total


def cast(tree: PyTree, dtype: Any, selector: Selector | None = None) -> PyTree:
    """The tree with its floating-point leaves (those that ``selector`` matches) in another floating dtype.

    Integers, booleans, keys and Python scalars stay as they are.

    >>> import jax.numpy as jnp
    >>> cast({"weight": jnp.ones(2), "step": jnp.zeros((), "int32")}, jnp.bfloat16)["weight"].dtype
    dtype(bfloat16)
    """
    dtype = jnp.dtype(dtype)
    if not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(f"cast is for floating dtypes such as float32 and bfloat16, got {dtype.name}")
    chosen = None if selector is None else set(select(tree, selector))

    def one(name: str, leaf: Any) -> Any:
        floating = hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.floating)
        if not floating or leaf.dtype == dtype or (chosen is not None and name not in chosen):
            return leaf
        if isinstance(leaf, jax.ShapeDtypeStruct):
            return jax.ShapeDtypeStruct(leaf.shape, dtype, sharding=leaf.sharding)
        return leaf.astype(dtype)

    return map_named(one, tree)


def diff(a: PyTree, b: PyTree, rtol: float = 0.0, atol: float = 0.0) -> dict[str, str]:
    """What differs between two trees, as ``{dotted name: how}``; empty when they are the same.

    Compares names, shapes, dtypes and values (within ``|a - b| <= atol + rtol |b|``; NaN equals NaN).

    >>> diff({"w": 1.0, "b": 0.0}, {"w": 1.5, "c": 0.0})
    {'b': 'only in the first', 'w': 'values differ by at most 0.5 (1 of 1)', 'c': 'only in the second'}
    """
    left, right = dict(named(a)), dict(named(b))
    out = {}
    for name, value in left.items():
        how = difference(value, right[name], rtol, atol) if name in right else "only in the first"
        if how:
            out[name] = how
    return out | {name: "only in the second" for name in right if name not in left}


def fold_name(key: jax.Array, name: str) -> jax.Array:
    """A key of its own for a name: 64 bits of the name's SHA-256, folded in.

    Sixty-four bits make a collision among a million names less likely than one in ten million; folding in a
    counter instead would give a layer other numbers whenever one is added before it.
    """
    digest = sha256(name.encode()).digest()
    high, low = np.frombuffer(digest[:8], dtype=">u4").astype(np.uint32)
    return jax.random.fold_in(jax.random.fold_in(key, high), low)
