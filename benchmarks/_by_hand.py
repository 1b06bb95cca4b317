"""A three-layer perceptron and its training step in jax.numpy alone: what fnet's step is measured against."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from fnet.train import TrainState  # the same leaves, so that both steps have as much to keep


def cross_entropy(logits: jax.Array, y: jax.Array) -> jax.Array:
    """Without the checks of F.cross_entropy, which cost a comparison a label, so that both steps can share it."""
    return -jnp.mean(jnp.sum(jnp.where(y[:, None] == jnp.arange(10), jax.nn.log_softmax(logits), 0), axis=-1))


def loss_by_hand(params: Any, batch: Any) -> jax.Array:
    x, y = batch
    h = jax.nn.relu(x @ params["0"]["weight"] + params["0"]["bias"])
    h = jax.nn.relu(h @ params["2"]["weight"] + params["2"]["bias"])
    return cross_entropy(h @ params["4"]["weight"] + params["4"]["bias"], y)


def step_by_hand(rule: str) -> Any:
    """(run, batch) -> (run, metrics) for the rule "sgd" (0.1), "momentum" (0.1, 0.9) or "adamw" (default betas)."""

    def update(params: Any, grads: Any, s: dict) -> tuple[Any, dict]:
        lr, t = s["hyper"]["lr"], s["step"] + 1
        if rule == "sgd":
            return jax.tree.map(lambda p, g: p - lr * g, params, grads), s | {"step": t}
        if rule == "momentum":
            rate = s["hyper"]["momentum"]
            buffer = jax.tree.map(lambda m, g: rate * m + g, s["momentum"], grads)
            return jax.tree.map(lambda p, m: p - lr * m, params, buffer), s | {"step": t, "momentum": buffer}
        b1, b2, eps, decay = (s["hyper"][name] for name in ("b1", "b2", "eps", "weight_decay"))
        r1, r2 = (jnp.where(b == jnp.float32(c), jnp.float32(1 - c), 1 - b) for b, c in ((b1, 0.9), (b2, 0.999)))
        mu = jax.tree.map(lambda m, g: b1 * m + r1 * g, s["mu"], grads)
        nu = jax.tree.map(lambda v, g: b2 * v + r2 * (g * g), s["nu"], grads)
        c1, scale = -jnp.expm1(t * jnp.log1p(-r1)), 1 / jnp.sqrt(-jnp.expm1(t * jnp.log1p(-r2)))

        def one(p: jax.Array, m: jax.Array, v: jax.Array) -> jax.Array:
            return p * (1 - lr * decay) - lr / c1 * m / (jnp.sqrt(v) * scale + eps)

        return jax.tree.map(one, params, mu, nu), s | {"step": t, "mu": mu, "nu": nu}

    def step(run: Any, batch: Any) -> Any:
        value, grads = jax.value_and_grad(loss_by_hand)(run.params, batch)
        params, opt_state = update(run.params, grads, run.opt_state)
        return TrainState(params, {}, opt_state, run.key, run.step + 1), {"loss": value}

    return jax.jit(step)
