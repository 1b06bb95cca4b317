"""Selectors: one small language that says which dotted names are meant.

A selector is a glob (``"encoder.*.weight"``: ``*`` crosses dots, ``?`` is one character), a list or tuple of
globs, or a function ``(name, leaf) -> bool``. A selector (a list as a whole) that matches nothing is an error
with the nearest names, because a typing mistake there trains, freezes or shards the wrong thing in silence;
`optional` says that no match is fine.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import translate
from typing import Any, TypeAlias

__all__ = ["Optional", "Selector", "first_match", "hint", "match", "near", "optional"]


@dataclass(frozen=True)
class Optional:
    """A selector that may match nothing; made by `optional`."""

    selector: Any

    def __repr__(self) -> str:
        return f"optional({self.selector!r})"


Selector: TypeAlias = str | Sequence[str] | Callable[[str, Any], bool] | Optional


def optional(selector: Selector) -> Optional:
    """Mark a selector as allowed to match nothing.

    >>> import fnet
    >>> fnet.select({"weight": 1.0}, fnet.optional("*.bias"))
    {}
    """
    return selector if isinstance(selector, Optional) else Optional(_hashable(selector))


def match(selector: Selector, named: Mapping[str, Any]) -> list[str]:
    """The names of ``named`` (name -> leaf) that ``selector`` matches, in the order given.

    Raises ValueError when there is none, unless the selector is ``"*"`` or `optional`.

    >>> match("*.bias", {"fc.weight": 0, "fc.bias": 1})
    ['fc.bias']
    """
    matches = _matcher(selector)
    found = [name for name, leaf in named.items() if matches(name, leaf)]
    if not found and not _may_be_empty(selector):
        raise ValueError(_no_match(selector, named))
    return found


def first_match(named: Mapping[str, Any], rules: Iterable[Selector]) -> dict[str, int]:
    """For each name that some rule matches, the index of the first rule that does.

    Raises ValueError for a rule that matches no name, or only names that earlier rules have taken, unless it
    is a final ``"*"`` or `optional`.

    >>> first_match({"fc.weight": 0, "fc.bias": 1}, ["*.bias", "*"])
    {'fc.bias': 0, 'fc.weight': 1}
    """
    rules = list(rules)
    taken: dict[str, int] = {}
    for index, rule in enumerate(rules):
        if rule == "*" and index == len(rules) - 1:
            found = list(named)
        else:
            found = match(rule, named)
        fresh = [name for name in found if name not in taken]
        if found and not fresh and not _may_be_empty(rule):
            earlier = rules[taken[found[0]]]
            raise ValueError(
                f"the rule {rule!r} never applies: all {len(found)} names that it matches (such as {found[0]!r}) are "
                f"taken by earlier rules such as {earlier!r}. The first match wins, so put the narrower rule first."
            )
        taken.update(dict.fromkeys(fresh, index))
    return taken


MAX_LETTERS = 200  # comparing takes the square of it


def near(name: str, names: Iterable[str], count: int = 5) -> list[str]:
    """The names most like ``name``, best first; wildcards in ``name`` are ignored, and names beyond 200 letters.

    >>> near("hed.weight", ["head.weight", "stem.bias"])
    ['head.weight']
    """
    names = [candidate for candidate in names if len(candidate) <= MAX_LETTERS]
    plain = re.sub(r"[*?]", "", name)[:MAX_LETTERS].strip(".")
    close = difflib.get_close_matches(plain, names, n=count, cutoff=0.5)
    last = plain.rsplit(".", 1)[-1]
    tails = {candidate.rsplit(".", 1)[-1] for candidate in names}
    for tail in difflib.get_close_matches(last, tails, n=2, cutoff=0.6):
        close += [c for c in names if c.rsplit(".", 1)[-1] == tail and c not in close]
    return close[:count]


def hint(name: str, names: Iterable[str]) -> str:
    """The end of an error message: near names if there are any, else the first few of those that exist.

    >>> hint("hed", ["head", "body"])
    "did you mean 'head'?"
    """
    names = list(names)
    close = near(name, names)
    if close:
        return f"did you mean {', '.join(map(repr, close))}?"
    if not names:
        return "there are no names at all."
    more = f" … ({len(names)} in all)" if len(names) > 6 else ""
    return f"the names are {', '.join(map(repr, names[:6]))}{more}."


def _matcher(selector: Selector) -> Callable[[str, Any], bool]:
    if isinstance(selector, Optional):
        return _matcher(selector.selector)
    if isinstance(selector, str):
        pattern = re.compile(translate(selector))
        return lambda name, leaf: pattern.match(name) is not None
    if callable(selector):
        return lambda name, leaf: bool(selector(name, leaf))
    if isinstance(selector, Sequence) and not isinstance(selector, bytes):
        parts = [_matcher(part) for part in selector]
        return lambda name, leaf: any(part(name, leaf) for part in parts)
    raise TypeError(
        f"a selector is a glob like '*.weight', a list of globs, or a function (name, leaf) -> bool; got {selector!r}"
    )


def _may_be_empty(selector: Selector) -> bool:
    if isinstance(selector, list | tuple):
        return all(map(_may_be_empty, selector))
    return selector == "*" or isinstance(selector, Optional)


def _no_match(selector: Selector, named: Mapping[str, Any]) -> str:
    if callable(selector):
        return f"the selector {selector!r} is true for none of the {len(named)} names; {hint('', named)}"
    globs: Any = [selector] if isinstance(selector, str) else selector
    hints = " ".join(hint(glob, named) for glob in list(globs)[:3] if isinstance(glob, str)) or hint("", named)
    return f"the selector {selector!r} matches none of the {len(named)} names; {hints} (fnet.optional(…) allows none)"


def _hashable(selector: Any) -> Any:
    return tuple(selector) if isinstance(selector, list) else selector
