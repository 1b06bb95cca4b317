"""The training step: from a loss and an optimizer to a pure, jitted function of (run, batch)."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from fnet import tree
from fnet.metrics import Metric, Partial
from fnet.nn.core.values import freeze
from fnet.nn.core.walk import is_layer
from fnet.optim.checks import whole
from fnet.train.microbatches import mean_over_slices, widest
from fnet.train.retrace import Guard
from fnet.train.state import TrainState

Loss = Callable[..., tuple[jax.Array, tuple[Any, Mapping[str, jax.Array]]]]
Metrics = dict[str, jax.Array]


def make_step(
    loss: Loss, opt: Any, *, microbatches: int = 1, donate: bool = False, strict: bool = False
) -> Callable[[TrainState, Any], tuple[TrainState, Metrics]]:
    """A pure, jitted ``step(run, batch) -> (run, metrics)``.

    ``loss(params, state, batch, *, key, train) -> (scalar, (new state, {metric: value}))`` is differentiated in the
    leaves that ``opt.trainable`` leaves in place, and in no others. Each step's key derives from the run's key and
    step. ``metrics`` are those of the loss and ``"loss"`` itself; a streaming metric gives its value for the batch,
    and is left out when that is no scalar (a confusion matrix is for `evaluate`). ``donate=True`` reuses the memory of
    the run passed in, which is then gone: it saves memory on GPU and TPU and costs time on CPU.

    ``microbatches=k`` takes the batch in k equal consecutive slices, one after another, and updates once with the mean
    of their gradients: the same numbers from the memory of one slice. Loss and metrics are means over the slices
    too; the state goes from slice to slice, each with a key of its own, so BatchNorm normalises by slice. Every leaf
    of the batch must have a leading axis that k divides: else a ValueError names it.

    When a call has the step traced and compiled again, a warning, `Retraced`, names the leaves that changed, from what
    to what; ``strict=True`` raises it.

    >>> import jax, jax.numpy as jnp
    >>> from fnet import functional as F, nn, optim, train
    >>> model, opt = nn.Linear(3), optim.sgd(0.1)
    >>> x, y = jnp.ones((8, 5)), jnp.zeros(8, "int32")
    >>> step = train.make_step(train.supervised(model, F.cross_entropy), opt)
    >>> run, metrics = step(train.start(model, opt, jax.random.key(0), x), (x, y))
    >>> int(run.step), sorted(metrics)
    (1, ['loss'])
    """
    whole("make_step", "microbatches", microbatches, 1)
    check_loss(loss, "make_step")

    guard = Guard(strict)

    def step(run: TrainState, batch: Any) -> tuple[TrainState, Metrics]:
        check_run(run, "step")
        guard(run=run, batch=batch)
        key = jax.random.fold_in(run.key, run.step)
        scale = opt.loss_scale(run.opt_state)

        def gradients(params: Any) -> tuple[tuple[jax.Array, Any, Any], Any]:
            trained = opt.trainable(params)
            frozen = _rest(params, trained)

            def of_slice(state: Any, batch: Any, key: jax.Array) -> tuple[Any, tuple[jax.Array, Any, Any]]:
                def scaled(trained: Any) -> tuple[jax.Array, tuple[jax.Array, Any, Any]]:
                    out = loss(tree.merge(trained, frozen), state, batch, key=key, train=True)
                    value, new, metrics = checked(out)
                    return _times(value, scale), (value, new, metrics)

                return jax.grad(scaled, has_aux=True)(trained)

            if microbatches == 1:
                grads, out = of_slice(run.state, batch, key)
            else:
                grads, out = mean_over_slices(of_slice, microbatches, trained, run.state, batch, key)
            return out, jax.tree.map(lambda g: _over(g, scale), grads)

        def value_and_grad(params: Any) -> tuple[jax.Array, Any]:
            (value, _, _), grads = gradients(params)
            return value, grads

        (value, state, metrics), grads = gradients(run.params)
        opt_key = tree.fold_name(key, "optimizer")
        params, opt_state = opt.update(
            grads, run.opt_state, run.params, loss=value, value_and_grad=value_and_grad, key=opt_key
        )
        return TrainState(params, state, opt_state, run.key, run.step + 1), {"loss": value, **_of_one_batch(metrics)}

    return jax.jit(step, donate_argnums=(0,) if donate else ())


def supervised(
    model: Any, loss: Callable[..., jax.Array], metrics: Mapping[str, Callable[..., Any] | Metric] | None = None
) -> Loss:
    """The loss of `make_step` for batches ``(x, y)`` or ``(x, y, mask)``.

    ``loss(outputs, y)`` and each of ``metrics`` give a scalar, or a metric is a streaming one such as
    ``metrics.F1(10)``, which `evaluate` merges exactly over all batches; where the batch has a mask (False: padding,
    from a loader with ``last="pad"``) they are called with ``mask=mask``, as those of `fnet.functional` and
    `fnet.metrics` allow. ``x`` may be any pytree that the model takes as its one input.

    >>> import jax.numpy as jnp
    >>> from fnet import functional as F, metrics, nn, train
    >>> loss = train.supervised(nn.Flatten(), F.cross_entropy, metrics={"accuracy": metrics.accuracy})
    >>> value, (state, scores) = loss({}, {}, (jnp.eye(3), jnp.array([0, 1, 1])))
    >>> round(float(scores["accuracy"]), 3)
    0.667
    """
    if not hasattr(model, "apply") or not callable(loss):
        raise TypeError(
            "supervised takes a model and then a loss, as supervised(model, F.cross_entropy), got "
            f"{type(model).__name__} and {type(loss).__name__}"
        )
    return Supervised(model, loss, freeze(dict(metrics or {}), "the metrics of supervised"))


@dataclass(frozen=True)
class Supervised:
    """What `supervised` gives: a value, so that an equal one is not compiled again."""

    model: Any
    loss: Callable[..., jax.Array]
    metrics: Mapping[str, Callable[..., Any] | Metric]

    def __call__(self, params: Any, state: Any, batch: Any, *, key: Any = None, train: bool = False) -> Any:
        """The loss of `make_step`."""
        if not isinstance(batch, tuple | list) or len(batch) not in (2, 3):
            raise TypeError(
                f"supervised takes batches (x, y) or (x, y, mask), got {_describe(batch)}; for others write the loss "
                "yourself: (params, state, batch, *, key, train) -> (scalar, (state, metrics))"
            )
        x, y, *mask = batch
        outputs, state = self.model.apply(params, state, x, key=key, train=train)
        measured = {name: _measure(f"the metric {name!r}", f, outputs, y, *mask) for name, f in self.metrics.items()}
        return _measure("the loss", self.loss, outputs, y, *mask), (state, measured)


def _measure(what: str, function: Any, outputs: Any, y: Any, mask: Any = None) -> Any:
    if isinstance(function, Metric):
        return Partial(function, function.update(function.init(), outputs, y, mask=mask))
    if mask is None:
        return function(outputs, y)
    taken = inspect.signature(function).parameters
    if "mask" not in taken and all(p.kind is not p.VAR_KEYWORD for p in taken.values()):
        raise TypeError(
            f"the batch has a mask, and {what} takes none: give it a parameter mask=None that leaves out examples "
            'where the mask is False, or make batches without padding: DataLoader(…, last="keep")'
        )
    return function(outputs, y, mask=mask)


def _of_one_batch(metrics: Mapping[str, Any]) -> Metrics:
    """Scalars for the record of a step: those of the loss, and what streaming metrics give for this batch alone."""
    computed = {name: value.compute() if isinstance(value, Partial) else value for name, value in metrics.items()}
    return {
        name: value
        for name, value in computed.items()
        if not isinstance(metrics[name], Partial) or jnp.shape(value) == ()
    }


def check_loss(loss: Any, where: str) -> None:
    """Raise TypeError when a model, or a function of other arguments, is given where a loss is meant."""
    if is_layer(loss):
        raise TypeError(f"{where} takes a loss, got a model; train.supervised(model, F.cross_entropy) makes one of it")
    try:
        inspect.signature(loss).bind(None, None, None, key=None, train=False)
    except ValueError:  # it says nothing about its parameters
        return
    except TypeError as error:
        raise TypeError(
            f"{where} takes a loss (params, state, batch, *, key, train) -> (scalar, (new state, {{metric: value}})), "
            f"and {getattr(loss, '__name__', loss)} cannot be called so: {error}. "
            "train.supervised(model, F.cross_entropy) makes one of a loss of outputs and labels"
        ) from None


def check_run(run: Any, where: str) -> None:
    """Raise TypeError when a part of a run, such as its parameters, is given for the whole."""
    if not hasattr(run, "params") or not hasattr(run, "state"):
        raise TypeError(f"{where} takes the whole run, as train.start gives it, got {type(run).__name__}")


def _rest(params: Any, trained: Any) -> Any:
    """The parameters that are holes in ``trained``, with holes where it has leaves."""
    kept = set(tree.names(trained))
    return tree.map_named(lambda name, leaf: tree.HOLE if name in kept else leaf, params)


def _times(value: jax.Array, scale: Any) -> jax.Array:
    return value if isinstance(scale, int | float) and scale == 1 else value * scale


def _over(grad: jax.Array, scale: Any) -> jax.Array:
    """Divided in float32 at least and left there: in float16 the small ones, for which the scale is, would vanish."""
    return grad if isinstance(scale, int | float) and scale == 1 else grad.astype(widest(grad.dtype)) / scale


def checked(result: Any) -> tuple[jax.Array, Any, Mapping[str, Any]]:
    """``(value, state, metrics)`` of what a loss returned; raises TypeError where it has another form."""
    match result:
        case (value, (state, Mapping() as metrics)):
            if jnp.shape(value) != () or not jnp.issubdtype(jnp.result_type(value), jnp.floating):
                raise TypeError(f"the loss must be a floating scalar, got {_describe(value)}; take its mean")
            if "loss" in metrics:
                raise ValueError("'loss' is what the step calls the loss itself; give that metric another name")
            return jnp.asarray(value), state, metrics
    raise TypeError(f"the loss must return (scalar, (new state, {{metric: value}})), got {_describe(result)}")


def _describe(value: Any) -> str:
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"{value.dtype}{list(value.shape)}"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key!r}: {_describe(item)}" for key, item in value.items()) + "}"
    if isinstance(value, tuple | list):
        return f"({', '.join(map(_describe, value))})"
    return type(value).__name__
