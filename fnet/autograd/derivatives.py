"""First and second derivatives in the first argument of a function, a tree of parameters, or in some of its leaves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from fnet import tree
from fnet.selectors import Selector

PyTree = Any


def value_and_grad(f: Callable[..., Any], selector: Selector = "*", *, has_aux: bool = False) -> Callable[..., Any]:
    """``f`` with its gradient: ``(params, *args) -> (value, grads)``, in the leaves that ``selector`` names.

    ``f(params, *args, **kwargs)`` returns a floating scalar, with ``has_aux`` a pair of it and anything. The gradients
    have the structure of ``params``, with holes where a leaf is not selected or is no float: for those nothing is
    computed. Raises ValueError, listing near names, for a selector that matches no leaf.

    >>> import jax.numpy as jnp
    >>> params = {"body": jnp.ones(2), "head": jnp.ones(2)}
    >>> value_and_grad(lambda p, x: jnp.sum(p["body"] * p["head"] * x), "head")(params, 3.0)
    (Array(6., dtype=float32), {'body': HOLE, 'head': Array([3., 3.], dtype=float32)})
    """

    def both(params: PyTree, *args: Any, **kwargs: Any) -> Any:
        chosen, inside = _partial(f, selector, params, args, kwargs)
        return jax.value_and_grad(inside, has_aux=has_aux)(chosen)

    return both


def grad(f: Callable[..., Any], selector: Selector = "*", *, has_aux: bool = False) -> Callable[..., Any]:
    """The gradient alone, of `value_and_grad`; with ``has_aux``, ``(grads, aux)``.

    >>> import jax.numpy as jnp
    >>> grad(lambda p: p["a"] ** 2 * p["b"], "a")({"a": 3.0, "b": 2.0})["a"]
    Array(12., dtype=float32, weak_type=True)
    """

    def gradient(params: PyTree, *args: Any, **kwargs: Any) -> Any:
        chosen, inside = _partial(f, selector, params, args, kwargs)
        return jax.grad(inside, has_aux=has_aux)(chosen)

    return gradient


def jacobian(f: Callable[..., Any], selector: Selector = "*") -> Callable[..., Any]:
    """All first derivatives of every output: for an output of shape s and a leaf of shape t, an array (*s, *t).

    The result has the structure of f's output, with a tree like ``params`` (holes where not selected) at each of its
    leaves. Forward mode is used where there are fewer parameters than outputs, reverse mode otherwise.

    >>> import jax.numpy as jnp
    >>> jacobian(lambda p, x: x @ p["weight"])({"weight": jnp.ones((3, 2))}, jnp.ones((4, 3)))["weight"].shape
    (4, 2, 3, 2)
    """

    def all_of(params: PyTree, *args: Any, **kwargs: Any) -> Any:
        chosen, inside = _partial(f, selector, params, args, kwargs)
        outputs = tree.count(jax.eval_shape(inside, chosen))
        forward = tree.count(chosen) < outputs
        return (jax.jacfwd if forward else jax.jacrev)(inside)(chosen)

    return all_of


def hessian(f: Callable[..., Any], selector: Selector = "*") -> Callable[..., Any]:
    """All second derivatives of a scalar function: at ``["a"]["b"]`` the array (*shape of a, *shape of b).

    >>> import jax.numpy as jnp
    >>> hessian(lambda p: p["a"] ** 2 * p["b"])({"a": 3.0, "b": 2.0})["a"]["b"]
    Array(6., dtype=float32, weak_type=True)
    """

    def second(params: PyTree, *args: Any, **kwargs: Any) -> Any:
        chosen, inside = _partial(f, selector, params, args, kwargs)
        return jax.hessian(inside)(chosen)

    return second


def hvp(f: Callable[..., Any], params: PyTree, direction: PyTree, *args: Any, **kwargs: Any) -> PyTree:
    """The Hessian of a scalar ``f(params, *args)`` times a direction, a tree like ``params``.

    Forward over reverse mode (Pearlmutter 1994): it costs a few gradients and forms no matrix.

    >>> import jax.numpy as jnp
    >>> hvp(lambda p: jnp.sum(p["w"] ** 3), {"w": jnp.array([1.0, 2.0])}, {"w": jnp.array([1.0, 0.0])})["w"]
    Array([6., 0.], dtype=float32)
    """
    _check_like("hvp", "direction", direction, params)
    return jax.jvp(jax.grad(lambda p: f(p, *args, **kwargs)), (params,), (direction,))[1]


def jvp(f: Callable[..., Any], params: PyTree, direction: PyTree, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
    """``(f(params, *args), its derivative along a direction)``; the direction is a tree like ``params``.

    >>> import jax.numpy as jnp
    >>> jvp(lambda p: p["a"] * p["b"], {"a": 3.0, "b": 2.0}, {"a": 1.0, "b": 0.0})[1]
    Array(2., dtype=float32, weak_type=True)
    """
    _check_like("jvp", "direction", direction, params)
    return jax.jvp(lambda p: f(p, *args, **kwargs), (params,), (direction,))


def vjp(f: Callable[..., Any], params: PyTree, cotangent: Any, *args: Any, **kwargs: Any) -> tuple[Any, PyTree]:
    """``(f(params, *args), the gradient of its product with cotangent)``: PyTorch's ``out.backward(cotangent)``.

    The cotangent is shaped like the output. Nothing is accumulated: the same call gives the same gradients.

    >>> import jax.numpy as jnp
    >>> vjp(lambda p: p["w"] * 2, {"w": jnp.ones(2)}, jnp.array([1.0, 10.0]))[1]["w"]
    Array([ 2., 20.], dtype=float32)
    """
    value, backward = jax.vjp(lambda p: f(p, *args, **kwargs), params)
    _check_like("vjp", "cotangent", cotangent, value)
    return value, backward(cotangent)[0]


def per_example(f: Callable[..., Any], selector: Selector = "*") -> Callable[..., Any]:
    """The gradient of each example alone: ``(params, *batch) -> grads`` with an axis of examples in front of each leaf.

    ``f(params, *batch)`` is a scalar loss of a batch; the leaves of ``batch`` have the examples on their first axis,
    and ``f`` is called, under `jax.vmap`, with batches of one. What is not batched goes into ``f`` itself.

    >>> import jax.numpy as jnp
    >>> loss = lambda p, x, y: jnp.mean((x @ p["w"] - y) ** 2)
    >>> per_example(loss)({"w": jnp.zeros(3)}, jnp.ones((5, 3)), jnp.arange(5.0))["w"].shape
    (5, 3)
    """

    def gradients(params: PyTree, *batch: Any) -> PyTree:
        sizes = {name: jnp.shape(leaf)[:1] for name, leaf in tree.named(batch)}
        if not sizes or len(set(sizes.values())) != 1 or () in sizes.values():
            raise ValueError(f"per_example needs a batch of one first axis in every leaf, got {sizes}")

        def of_one(*example: Any) -> PyTree:
            return grad(f, selector)(params, *jax.tree.map(lambda leaf: leaf[None], example))

        return jax.vmap(of_one)(*jax.tree.map(jnp.asarray, batch))

    return gradients


def _partial(
    f: Callable[..., Any], selector: Selector, params: PyTree, args: Any, kwargs: Any
) -> tuple[PyTree, Callable[[PyTree], Any]]:
    """``(the chosen leaves, f as a function of them)``."""
    chosen, rest = tree.split(params, selector)
    floats = {name for name, leaf in tree.named(chosen) if jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)}
    if len(floats) < len(tree.names(chosen)):
        chosen, rest = tree.split(params, lambda name, leaf: name in floats)
    return chosen, lambda part: f(tree.merge(part, rest), *args, **kwargs)


def _check_like(where: str, what: str, given: Any, wanted: Any) -> None:
    def shapes(values: Any) -> Any:
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(jnp.shape(x), "float32"), values)

    if changes := tree.diff(shapes(given), shapes(wanted)):
        shown = "; ".join(f"{name or 'the array'}: {how}" for name, how in list(changes.items())[:5])
        raise ValueError(f"{where}: the {what} must have the names and shapes of its counterpart; {shown}")
