"""A line search for the strong Wolfe conditions, as one loop with one evaluation of the loss in it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fnet.optim.vectors import pick


class Trial(NamedTuple):
    """The loss on the line ``x + t d``."""

    t: jax.Array
    value: jax.Array
    slope: jax.Array  # the derivative in t, <gradient, d>
    grad: Any  # the gradient in x


class _Search(NamedTuple):
    tried: jax.Array  # how many steps were evaluated
    t: jax.Array  # the next one
    low: Trial  # the end of the bracket with the lower loss; before there is one, the step before
    high: Trial  # the other end, without its gradient
    zoom: jax.Array  # whether there is a bracket
    stuck: jax.Array  # whether the last step was close to the bracket's edge
    done: jax.Array


def strong_wolfe(
    at: Callable[[jax.Array], Trial],
    start: Trial,
    t: jax.Array,
    wanted: Any = True,
    *,
    c1: float = 1e-4,
    c2: float = 0.9,
    max_ls: int = 25,
    smallest: Any = 0.0,
) -> Trial:
    """A step with ``f(t) <= f(0) + c1 t f'(0)`` and ``|f'(t)| <= c2 |f'(0)|`` (Nocedal & Wright, Algorithms 3.5, 3.6).

    ``at`` evaluates a step, ``start`` is the trial at 0, ``t`` the first step. The choices that the book leaves open
    are those of torch.optim.LBFGS, step for step; a loss that is not finite counts as infinite. Ends after
    ``max_ls + 1`` evaluations, or where the bracket is smaller than ``smallest``, with the lowest end of the bracket.
    Nothing is evaluated and ``start`` returned where ``wanted`` is False.
    """

    def grow(s: _Search, new: Trial) -> _Search:
        """Algorithm 3.5: lengthen the step until a bracket holds a good one. ``s.low`` is the step before."""
        over = ~_enough(start, new, c1) | ((s.tried > 1) & (new.value >= s.low.value))
        good = ~over & (jnp.abs(new.slope) <= -c2 * start.slope)
        bracket = over | (new.slope >= 0)
        out_of_tries = s.tried == max_ls
        other = pick(out_of_tries, start, s.low)
        keeps = (bracket | out_of_tries) & ~good & (other.value <= new.value)
        low, high = pick(keeps, other, new), pick(keeps, _bare(new), _bare(other))
        reach = _cubic(s.low, new, new.t + 0.01 * (new.t - s.low.t), 10 * new.t)
        return s._replace(t=reach, low=low, high=high, zoom=bracket, done=good | out_of_tries)

    def shrink(s: _Search, new: Trial) -> _Search:
        """Algorithm 3.6: replace an end of the bracket by the step inside it."""
        worse = ~_enough(start, new, c1) | (new.value >= s.low.value)
        good = ~worse & (jnp.abs(new.slope) <= -c2 * start.slope)
        swap = worse & (new.value < s.low.value)  # lower than any, yet not by enough
        turned = new.slope * (s.high.t - s.low.t) >= 0
        high = pick(worse, pick(swap, _bare(s.low), _bare(new)), pick(turned, _bare(s.low), s.high))
        low = pick(worse & ~swap, s.low, new)
        return s._replace(low=low, high=high, done=good | (s.tried == max_ls))

    def inside(s: _Search) -> _Search:
        """The next step within the bracket; one by the edge twice running, or on it, is moved a tenth inwards."""
        left, right = jnp.minimum(s.low.t, s.high.t), jnp.maximum(s.low.t, s.high.t)
        t, margin = _cubic(s.low, s.high, left, right), 0.1 * (right - left)
        close = jnp.minimum(right - t, t - left) < margin
        move = close & (s.stuck | (t >= right) | (t <= left))
        inwards = jnp.where(jnp.abs(t - right) < jnp.abs(t - left), right - margin, left + margin)
        return s._replace(t=jnp.where(move, inwards, t), stuck=close & ~move, done=s.done | (right - left < smallest))

    def body(s: _Search) -> _Search:
        new = at(s.t)
        finite = jnp.isfinite(new.value) & jnp.isfinite(new.slope)
        new = new._replace(value=jnp.where(finite, new.value, jnp.inf))
        s = pick(s.zoom, shrink(s, new), grow(s, new))
        s = pick(s.zoom, inside(s), s)
        return s._replace(tried=s.tried + 1)

    no = jnp.zeros((), bool)
    first = _Search(jnp.asarray(0), t, start, _bare(start), zoom=no, stuck=no, done=~jnp.asarray(wanted))
    return jax.lax.while_loop(lambda s: ~s.done, body, first).low


def _bare(trial: Trial) -> Trial:
    return trial._replace(grad=None)


def _enough(start: Trial, new: Trial, c1: float) -> jax.Array:
    return new.value <= start.value + c1 * new.t * start.slope


def _cubic(a: Trial, b: Trial, least: Any, most: Any) -> jax.Array:
    """The minimiser of the cubic through two trials, within bounds (eq. 3.59); their middle where there is none."""
    a, b = _bare(a), _bare(b)
    a, b = pick(a.t <= b.t, a, b), pick(a.t <= b.t, b, a)
    d1 = a.slope + b.slope - 3 * (a.value - b.value) / (a.t - b.t)
    square = d1**2 - a.slope * b.slope
    d2 = jnp.sqrt(jnp.maximum(square, 0))
    t = b.t - (b.t - a.t) * ((b.slope + d2 - d1) / (b.slope - a.slope + 2 * d2))
    exists = (square >= 0) & jnp.isfinite(t)
    return jnp.where(exists, jnp.clip(t, least, most), (least + most) / 2)
