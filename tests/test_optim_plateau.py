"""The learning rate that falls when the loss does not."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnet import optim


@pytest.mark.parametrize(
    "settings",
    [
        {"factor": 0.5, "patience": 2},
        {"factor": 0.3, "patience": 0, "cooldown": 2, "min_lr": 1e-3},
        {"factor": 0.5, "patience": 1, "threshold": 0.3, "threshold_mode": "abs"},
        {"factor": 0.5, "patience": 1, "threshold": 0.05, "mode": "max", "cooldown": 1},
        {"factor": 0.9, "patience": 1, "threshold": 0.1, "threshold_mode": "abs", "mode": "max", "eps": 0.02},
    ],
    ids=str,
)
def test_plateaus_equal_torchs(settings, x64):
    torch = pytest.importorskip("torch", reason="parity tests need the oracle extra: pip install fnet[oracle]")
    torch_opt = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.3)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(torch_opt, **settings)
    opt = optim.reduce_on_plateau(optim.sgd(0.3), **settings)
    params = {"w": jnp.ones(1)}
    state = opt.init(params)
    traces = []

    @jax.jit
    def update(state, loss):
        traces.append(1)
        return opt.update(params, state, params, loss=loss)[1]

    rng, rates = np.random.default_rng(1), set()
    for t in range(80):
        loss = float(3 / (1 + t / 10) + rng.normal() * 0.3) if t % 17 else float("nan")
        state = update(state, loss)
        scheduler.step(loss)
        assert float(optim.get_hyper(state, "lr")) == pytest.approx(torch_opt.param_groups[0]["lr"], rel=1e-12), t
        rates.add(float(optim.get_hyper(state, "lr")))
    assert len(rates) > 2 and len(traces) == 1


def test_plateaus_look_at_the_mean_of_an_interval_or_at_what_they_are_given():
    params = {"w": jnp.ones(1)}
    every, epochs = (optim.reduce_on_plateau(optim.sgd(1.0), 0.5, 0, interval=n) for n in (1, 3))
    state, rates = epochs.init(params), []
    for loss in (9, 0, 0, 1, 2, 3, 1, 1, 1):  # means 3, 2, 1: never worse
        params, state = epochs.update(params, state, params, loss=loss)
        rates.append(float(optim.get_hyper(state, "lr")))
    assert rates == [1.0] * 9 and float(state["plateau"]["best"]) == 1.0
    for _ in range(3):
        params, state = epochs.update(params, state, params, loss=5.0)
    assert float(optim.get_hyper(state, "lr")) == 0.5
    with pytest.raises(ValueError, match="needs loss="):
        every.update(params, every.init(params), params)
    hand = optim.reduce_on_plateau(optim.groups({"w": optim.sgd(1.0)}), 0.5, 0, interval=None)
    outer = optim.clip_by_global_norm(hand, 1.0)
    state = outer.init(params)
    for value in (2.0, 3.0, 1.0, 2.0):
        params, state = outer.update(params, state, params)
        state = hand.observe(state, value)
    assert float(optim.get_hyper(state, "lr", group=0)) == 0.25
    state = optim.set_hyper(state, lr=7.0, group=0)  # still free to set
    assert float(hand.observe(state, 9.0)["hyper"]["0"]["lr"]) == 3.5
