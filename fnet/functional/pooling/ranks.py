"""The names of pooling functions with a rank: `max_pool2d` is `max_pool` over two axes."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import jax

from fnet.functional.pooling.windows import each

AXES = {1: "(..., L, C)", 2: "(..., H, W, C)", 3: "(..., D, H, W, C)"}


def with_rank(function: Callable[..., jax.Array], rank: int, arguments: str, size: int = 2) -> Callable[..., jax.Array]:
    """`function` over `rank` axes; `arguments` are those of the example in its docstring, whose result has `size`."""
    signature = inspect.signature(function)
    name = f"{function.__name__}{rank}d"
    sizes = "kernel_size" if "kernel_size" in signature.parameters else "output_size"

    def ranked(*args: Any, **kwargs: Any) -> jax.Array:
        bound = signature.bind(*args, **kwargs)
        given = each(bound.arguments[sizes], rank)
        if len(given) != rank:
            raise ValueError(f"{name}: {sizes}={given} has {len(given)} sizes, expected {rank}, or one for all")
        bound.arguments[sizes] = given
        return function(*bound.args, **bound.kwargs)

    ranked.__name__ = ranked.__qualname__ = name
    ranked.__module__ = function.__module__
    ranked.__signature__ = signature  # type: ignore[attr-defined]
    ranked.__doc__ = f"""`{function.__name__}` over the {rank} axes before the last: {AXES[rank]}, any leading axes.

    >>> {name}(jnp.ones({(4,) * rank + (1,)}), {arguments}).shape
    {(size,) * rank + (1,)}
    """
    return ranked
