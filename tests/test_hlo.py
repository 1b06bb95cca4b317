"""The compiled step is the one you would have written by hand: fnet adds nothing to it."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import jax
import numpy as np
import pytest
from _by_hand import cross_entropy, step_by_hand

from fnet import functional as F
from fnet import nn, optim, train

X = np.random.default_rng(0).normal(size=(32, 20)).astype("float32")
Y = np.arange(32, dtype="int32") % 10
MODEL = nn.Sequential(nn.Linear(64), F.relu, nn.Linear(64), F.relu, nn.Linear(10))
RULES = {
    "sgd": optim.sgd(0.1),
    "momentum": optim.sgd(0.1, momentum=0.9),
    "adamw": optim.adamw(1e-3, weight_decay=0.1),
}


def compiled(step: Any, run: Any) -> Any:
    return step.lower(run, (X, Y)).compile()


def operations(text: str) -> Counter:
    """How often each operation stands in optimised HLO, those inside fusions included."""
    found = re.findall(r"= \S+ ([a-z][a-z0-9-]*)\(", text)
    return Counter(
        name for name in found if name not in {"parameter", "constant", "tuple", "get-tuple-element", "bitcast"}
    )


@pytest.mark.parametrize("rule", RULES)
def test_the_step_has_the_operations_of_one_written_by_hand(rule: str):
    opt = RULES[rule]
    run = train.start(MODEL, opt, jax.random.key(0), X)
    ours = compiled(train.make_step(train.supervised(MODEL, cross_entropy), opt), run)
    theirs = compiled(step_by_hand(rule), run)
    (a, scores), (b, expected) = ours(run, (X, Y)), theirs(run, (X, Y))
    assert float(scores["loss"]) == pytest.approx(float(expected["loss"]), rel=1e-6)
    for p, q in zip(jax.tree.leaves(a.params), jax.tree.leaves(b.params), strict=True):
        np.testing.assert_allclose(p, q, rtol=1e-5, atol=1e-6)
    assert ours.cost_analysis()["flops"] == theirs.cost_analysis()["flops"]
    assert operations(ours.as_text()) == operations(theirs.as_text())
