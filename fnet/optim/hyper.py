"""Hyperparameters that live in the optimizer's state: read them, change them, no recompilation."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from numbers import Real
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from fnet.selectors import hint

Schedule: TypeAlias = Callable[[Any], Any]  # step (int, or int32 array) -> value
Rate: TypeAlias = float | Schedule  # what a hyperparameter may be


class Decay(NamedTuple):
    """The decay rate of a running average, with the weight that new values get."""

    keep: jax.Array
    rest: jax.Array  # 1 - keep, without the digits that float32 loses next to 1

    def mix(self, old: jax.Array, new: jax.Array) -> jax.Array:
        """The running average's next value, ``keep · old + (1 - keep) · new``."""
        return self.keep * old + self.rest * new

    def correction(self, t: jax.Array) -> jax.Array:
        """``1 - keep^t``: what an average that began at zero must be divided by after t values.

        Written with expm1 and log1p, since the plain form cancels: for keep = 0.999 and t = 20 it has 5 digits
        in float32.
        """
        return -jnp.expm1(t * jnp.log1p(-self.rest))

    def root_scale(self, t: jax.Array) -> jax.Array:
        """``1 / √correction(t)``: what takes the bias out of the root of an average of squares.

        A factor and no divisor: XLA's loops would divide every element by it, beside the division they are there for.
        """
        return 1 / jnp.sqrt(self.correction(t))


def check(owner: str, name: str, value: Any, decay: bool) -> None:
    """Raise TypeError or ValueError unless ``value`` can be the hyperparameter ``name`` of ``owner``."""
    if callable(value):
        return
    if isinstance(value, Mapping):
        raise TypeError(
            f"{owner}: {name} is a float or a schedule, got a dict: an optimizer here holds no parameters. "
            f"opt = {owner}(1e-3), opt_state = opt.init(params)"
        )
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(
            f"{owner}: {name} must be a float or a schedule step -> float, got {value!r} ({type(value).__name__}). "
            f"For a value computed under jit build with a float and use optim.set_hyper(opt_state, {name}=value)."
        )
    if not (0 <= float(value) < (1 if decay else math.inf)):
        allowed = "in [0, 1)" if decay else "finite and not negative"
        raise ValueError(f"{owner}: {name} must be {allowed}, got {value!r}")


def strong(value: Any, like: Any = None) -> jax.Array:
    """A hyperparameter as an array: strongly typed, in the dtype of ``like`` or else JAX's default float."""
    value = value if like is None else jnp.asarray(value, jnp.result_type(like, float))
    return jnp.asarray(value, jnp.result_type(value, float))


def decay_of(value: jax.Array, configured: Rate) -> Decay:
    """A hyperparameter as a `Decay`, its complement exact as long as the value is the configured one.

    In float32 ``1 - 0.999`` is off by 1.3e-5 of itself, which an average without bias correction never loses.
    """
    rest = 1 - value
    if not callable(configured):
        rest = jnp.where(value == jnp.asarray(configured, value.dtype), jnp.asarray(1 - configured, value.dtype), rest)
    return Decay(value, rest)


def get_hyper(opt_state: Mapping[str, Any], name: str, group: int | str | None = None) -> jax.Array:
    """The value of a hyperparameter in an optimizer's state, a scalar array.

    With a schedule it is the value that the last update used. Where there are groups, ``group`` says which, by
    its place in the order of `groups`. Raises KeyError when there is no such name or group.

    >>> import jax.numpy as jnp
    >>> from fnet import optim
    >>> opt_state = optim.sgd(0.5).init({"w": jnp.ones(3)})
    >>> float(optim.get_hyper(opt_state, "lr"))
    0.5
    """
    values = _of_group(_hyper_of(opt_state, "get_hyper"), group)
    return values[_known(name, values)]


def set_hyper(opt_state: Mapping[str, Any], group: int | str | None = None, **values: Any) -> dict[str, Any]:
    """The optimizer's state with other values of hyperparameters; the compiled step stays valid.

    Values are scalars, traced ones too. Where there are groups, ``group`` says which, by its place in the order
    of `groups` ("1.0" for group 0 inside group 1). Raises KeyError when there is no such name or group and
    ValueError for a hyperparameter that follows a schedule.

    >>> import jax.numpy as jnp
    >>> from fnet import optim
    >>> opt_state = optim.sgd(0.5).init({"w": jnp.ones(3)})
    >>> opt_state = optim.set_hyper(opt_state, lr=0.25)
    >>> float(optim.get_hyper(opt_state, "lr"))
    0.25
    """
    old = _of_group(_hyper_of(opt_state, "set_hyper"), group)
    scheduled = _scheduled_names(opt_state.get("scheduled", {}), group)
    new = dict(old)
    for name, value in values.items():
        if _known(name, old) in scheduled:
            raise ValueError(
                f"{name} follows a schedule, so a value set here would be lost at the next update. Build the optimizer "
                f"with a float to set {name} by hand, or change the schedule."
            )
        new[name] = jnp.full_like(old[name], value)  # keeps dtype and placement: either would recompile the step
    return {**opt_state, "hyper": _with_group(opt_state["hyper"], group, new)}


def _hyper_of(opt_state: Any, who: str) -> Mapping[str, Any]:
    if not isinstance(opt_state, Mapping):
        raise TypeError(
            f"{who} takes the state of an optimizer, a dict, got {type(opt_state).__name__}; that of a run is "
            "run.opt_state, and run._replace(opt_state=…) puts a new one into it"
        )
    return opt_state["hyper"]


def _known(name: str, values: Mapping[str, Any]) -> str:
    if name not in values:
        off = " Terms that are 0 when the optimizer is built, such as weight_decay=0.0, are left out of the state."
        raise KeyError(f"this optimizer state has no hyperparameter {name!r}; {hint(name, values)}{off}")
    return name


def _path(group: int | str | None) -> list[str]:
    return [] if group is None else str(group).split(".")


def _of_group(hyper: Mapping[str, Any], group: int | str | None) -> Mapping[str, Any]:
    above: tuple[str, ...] = ()
    for part in _path(group):
        if not isinstance(hyper.get(part), Mapping):
            has = _choices(hyper, above)
            fix = f"give {has}" if has else "it has no groups"
            raise KeyError(f"no group {group!r} in this optimizer state; {fix}")
        hyper, above = hyper[part], (*above, part)
    if has := _choices(hyper, above):
        raise KeyError(f"this optimizer state has groups: say which with {has}")
    return hyper


def _choices(hyper: Mapping[str, Any], above: tuple[str, ...]) -> str:
    """What ``group`` may be here, as arguments: a bare number would read as a count."""
    groups = (".".join((*above, name)) for name, value in hyper.items() if isinstance(value, Mapping))
    return " or ".join(f"group={name!r}" if above else f"group={name}" for name in groups)


def _scheduled_names(scheduled: Mapping[str, Any], group: int | str | None) -> Mapping[str, Any]:
    for part in _path(group):
        scheduled = scheduled.get(part, {})
    return scheduled


def _with_group(hyper: Mapping[str, Any], group: int | str | None, new: dict[str, Any]) -> dict[str, Any]:
    first, *rest = _path(group) or [""]
    if not first:
        return new
    return {**hyper, first: _with_group(hyper[first], ".".join(rest) or None, new)}
