"""Gradients of a bilinear map in forms of one's own, with jvp and derivatives of any order left intact."""

from __future__ import annotations

from collections.abc import Callable

import jax

Map = Callable[[jax.Array, jax.Array], jax.Array]
SymbolicZero = jax.custom_derivatives.SymbolicZero


def with_gradients(form: Map, input_gradient: Map, weight_gradient: Map, x: jax.Array, weight: jax.Array) -> jax.Array:
    """`form(x, weight)`, whose reverse mode runs `input_gradient(dy, weight)` and `weight_gradient(x, dy)`.

    A custom_vjp would do this at the price of jax.jvp and of second derivatives. Here the tangent map is given, as the
    transpose of each gradient; reverse mode transposes it once more and so arrives at the gradient as it was written,
    and forward mode runs the transpose. All that is asked of the gradients is that JAX can transpose them in dy.
    """

    @jax.custom_jvp
    def product(x: jax.Array, weight: jax.Array) -> jax.Array:
        return form(x, weight)

    def jvp(primals: tuple, tangents: tuple) -> tuple[jax.Array, jax.Array]:
        (x, weight), (dx, dweight) = primals, tangents
        out = product(x, weight)
        shape = jax.ShapeDtypeStruct(out.shape, out.dtype)
        parts = []
        if not isinstance(dx, SymbolicZero):
            parts += jax.linear_transpose(lambda dy: input_gradient(dy, weight), shape)(dx)
        if not isinstance(dweight, SymbolicZero):
            parts += jax.linear_transpose(lambda dy: weight_gradient(x, dy), shape)(dweight)
        return out, parts[0] if len(parts) == 1 else parts[0] + parts[1]

    product.defjvp(jvp, symbolic_zeros=True)
    return product(x, weight)
