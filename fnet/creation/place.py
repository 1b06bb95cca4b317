"""Where arrays live: the devices that there are, and moving trees between them."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from fnet.creation.arguments import Device, is_number, resolve_device
from fnet.creation.values import tensor

_MISSING = {
    "gpu": 'none; with an NVIDIA GPU and its driver: pip install "jax[cuda13]" (or cuda12, for an older driver)',
    "tpu": 'none; on a Cloud TPU machine: pip install "jax[tpu]"',
}


class Devices(tuple[jax.Device, ...]):
    """A tuple of devices that prints as a table, with how to get the kinds that are not there."""

    def __repr__(self) -> str:
        default = jax.local_devices()[0]
        rows = [(f"{d.platform}:{i}", d) for p in _platforms(self) for i, d in enumerate(_on(self, p))]
        lines = [f"{name:<6} {d.device_kind}{'  (the default)' if d == default else ''}" for name, d in rows]
        lines += [f"{platform:<6} {_how_to_get(platform)}" for platform in _MISSING if not _on(self, platform)]
        return "\n".join(lines)

    __str__ = __repr__


def _how_to_get(platform: str) -> str:
    chosen = jax.config.jax_platforms  # type: ignore[attr-defined]
    return f"not looked for: JAX_PLATFORMS is {chosen!r}" if chosen and platform not in chosen else _MISSING[platform]


def _platforms(found: tuple[jax.Device, ...]) -> list[str]:
    return list(dict.fromkeys(d.platform for d in found))


def _on(found: tuple[jax.Device, ...], platform: str) -> list[jax.Device]:
    return [d for d in found if d.platform == platform]


def devices() -> Devices:
    """The devices of this process, the default platform's first; printed, it says how to get what is not there.

    Their names, "cpu:0" and so on, are what `device=` takes everywhere in fnet. The environment variable
    JAX_PLATFORMS=cpu hides the others; XLA_FLAGS=--xla_force_host_platform_device_count=8 makes eight devices
    out of one CPU, to try code for many.

    >>> devices()[-1].platform
    'cpu'
    >>> print(devices())  # doctest: +SKIP
    cpu:0  cpu  (the default)
    gpu    none; with an NVIDIA GPU and its driver: pip install "jax[cuda13]" (or cuda12, for an older driver)
    tpu    none; on a Cloud TPU machine: pip install "jax[tpu]"
    """
    found = list(jax.local_devices())
    if found[0].platform != "cpu":
        try:
            found += jax.local_devices(backend="cpu")
        except RuntimeError:  # JAX_PLATFORMS names no CPU
            pass
    return Devices(found)


def to(tree: Any, device: Device) -> Any:
    """The tree with every array, jax's or numpy's, on `device`; other leaves stay as they are.

    `device` is a name ("cpu", "gpu:1"), a `jax.Device` or a `Sharding`. Arrays that are there already are returned
    as they are; numpy arrays are copied, as `tensor` copies them. Raises ValueError for a device that is not there.

    >>> import numpy as np
    >>> moved = to({"x": np.ones(3), "name": "a"}, "cpu")
    >>> type(moved["x"]).__name__, moved["x"].device.platform, moved["name"]
    ('ArrayImpl', 'cpu', 'a')
    """
    target = resolve_device(device)

    def move(x: Any) -> Any:
        if isinstance(x, np.ndarray | np.generic) and is_number(x.dtype):
            return tensor(x, device=target)
        return jax.device_put(x, target) if isinstance(x, jax.Array) else x

    return jax.tree.map(move, tree)
