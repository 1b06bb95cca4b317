"""What optimizers, schedules and callbacks ask of the numbers that they are built with; else a ValueError says it."""

from __future__ import annotations

from typing import Any


def whole(owner: str, name: str, value: Any, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{owner}: {name} must be an integer of at least {least}, got {value!r}")


def positive(owner: str, name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise ValueError(f"{owner}: {name} must be a number above 0, got {value!r}")


def not_negative(owner: str, name: str, value: Any) -> None:
    if not value >= 0:
        raise ValueError(f"{owner}: {name} must not be negative, got {value!r}")
