"""`find_nan` names the place of planted faults."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnet import functional as F
from fnet import inspect, nn, optim, train

KEY = jax.random.key(0)
X = jnp.asarray(np.random.default_rng(0).normal(size=(4, 5)), jnp.float32)
Y = jnp.array([0, 1, 2, 0])


def log_of(x: Any, fc: Any) -> Any:
    return jnp.log(fc(x) - 100.0)  # negative: NaN


def root(x: Any, fc: Any) -> Any:
    h = fc(x) * 0.0
    return jnp.where(h > 0, jnp.sqrt(h), 0.0)  # right at 0; its gradient there is 0 times infinity


def fault_of(model: Any, x: Any = X, y: Any = Y, loss: Any = F.cross_entropy, change: Any = None) -> Any:
    opt = optim.sgd(0.1)
    run = train.start(model, opt, KEY, X)
    if change is not None:
        run = run._replace(params=change(run.params))
    return inspect.find_nan(train.make_step(train.supervised(model, loss), opt), run, (x, y))


def line_of(text: str) -> str:
    with open(__file__) as file:
        return next(f"{__file__}:{n}" for n, line in enumerate(file, 1) if text in line and "line_of" not in line)


def test_nothing_to_find():
    assert fault_of(nn.Sequential(nn.Linear(4), F.relu, head=nn.Linear(3))) is None


def test_the_forward_pass():
    model = nn.Sequential(body=nn.Sequential(nn.Linear(6), bad=nn.Model(log_of, fc=nn.Linear(4))), head=nn.Linear(3))
    fault = fault_of(model)
    assert (fault.kind, fault.layer, fault.phase, fault.operation) == ("NaN", "body.bad", "forward", "log")
    assert fault.source.startswith(line_of("jnp.log(fc(x) - 100.0)")) and "log_of" in fault.source
    (given,) = fault.inputs
    assert given.startswith("float32[4, 4] from -10") and fault.cause is None
    assert fault.results[0] == "loss" and "it reaches loss, the run's params." in str(fault)
    assert "layer 'body.bad'" in str(fault) and "the forward pass" in str(fault)


def test_the_backward_pass_only_and_the_infinity_behind_it():
    model = nn.Sequential(nn.Linear(6), bad=nn.Model(root, fc=nn.Linear(4)), head=nn.Linear(3))
    fault = fault_of(model)
    assert (fault.kind, fault.layer, fault.phase, fault.operation) == ("NaN", "bad", "backward", "mul")
    assert fault.source.startswith(line_of("jnp.sqrt(h), 0.0)"))
    assert "loss" not in fault.results and "the run's params.bad.fc.weight" in fault.results
    assert fault.cause.kind == "inf" and fault.cause.layer == "bad" and "0 × inf" in str(fault)


def shrink(x: Any, fc: Any, scale: Any) -> Any:
    return x + 1 / (scale - 2.0) * 0.0 * fc(x)  # NaN where the scale is 2


def test_inside_a_stack_and_a_checkpoint():
    part = nn.Model(shrink, fc=nn.Linear(5), scale=nn.Param((), lambda key, shape, dtype: jnp.zeros(shape, dtype)))
    for layer in (nn.Stack(nn.Remat(part), 4), nn.Stack(nn.Sequential(part), 4)):
        model = nn.Sequential(blocks=layer, head=nn.Linear(3))

        def second(params: Any) -> Any:
            return jax.tree.map(lambda p: p.at[2].set(2.0) if p.shape == (4,) else p, params)

        fault = fault_of(model, change=second)
        assert fault.layer.startswith("blocks") and fault.phase == "forward" and fault.operation == "mul"
        assert fault.iterations == ("step 2 of 4 of a loop",) and fault.cause.operation == "div"


def test_what_a_checkpoint_computes_again_is_in_its_layer():
    model = nn.Sequential(blocks=nn.Stack(nn.Remat(nn.Model(root, fc=nn.Linear(5))), 2), head=nn.Linear(3))
    fault = fault_of(model)
    assert (fault.layer, fault.phase, fault.operation) == ("blocks", "backward", "mul")
    assert (fault.cause.layer, fault.cause.operation) == ("blocks", "div")


def test_loops_of_unknown_length_and_branches():
    def f(x: Any) -> Any:
        def body(carry: Any) -> Any:
            i, x = carry
            return i + 1, jax.lax.cond(i == 3, lambda x: jnp.sqrt(-x), lambda x: x + 1, x)

        return jax.lax.while_loop(lambda c: c[0] < 6, body, (0, x))[1]

    fault = inspect.find_nan(f, jnp.ones(2))
    assert fault.operation == "sqrt" and fault.iterations == ("step 3 of a loop",) and fault.phase == "forward"
    assert fault.results == ("the result",) and fault.inputs == ("float32[2] from -4 to -4",)


def test_from_data():
    model = nn.Sequential(nn.Linear(4), nn.BatchNorm(), F.relu, nn.Linear(3))
    fault = fault_of(model, x=X.at[2, 3].set(jnp.nan))
    assert fault.phase == "input" and str(fault).startswith("the input batch at '0' has NaN at [2, 3]")
    fault = fault_of(nn.Linear(3), change=lambda p: {**p, "bias": p["bias"].at[1].set(jnp.nan)})
    assert str(fault).startswith("the run at 'params.bias' has NaN at [1]")


def test_a_label_out_of_range_is_said_to_be_one():
    fault = fault_of(nn.Sequential(fc=nn.Linear(3)), y=Y.at[1].set(7))
    assert (fault.kind, fault.phase, fault.layer, fault.results[0]) == ("NaN", "forward", "", "loss")
    assert "a label, target or length out of range" in str(fault)
    table, offsets = jnp.ones((4, 2)), jnp.array([0, 2, 1])
    assert "out of range" in str(inspect.find_nan(lambda o: F.embedding_bag(jnp.array([0, 1, 2]), table, o), offsets))
    assert inspect.find_nan(lambda x, s: jnp.log(x - s), np.ones(2), 2.0).inputs == ("float32[2] from -1 to -1",)
    assert "out of range" not in str(inspect.find_nan(lambda x: jnp.where(x > 0, x, jnp.nan), -X))


def test_overflow_in_half_precision():
    def squares(outputs: Any, y: Any) -> Any:
        return jnp.sum((outputs.astype(jnp.float16) * 100) ** 2, dtype=jnp.float16).astype(jnp.float32)

    fault = fault_of(nn.Linear(3), x=X * 100, loss=squares)
    assert (fault.kind, fault.phase, fault.layer, fault.results[0]) == ("inf", "forward", "", "loss")
    assert fault.source.startswith(line_of("dtype=jnp.float16).astype")) and "float16[4, 3]" in fault.inputs[0]


def test_a_nan_that_is_masked_out_is_no_fault():
    assert inspect.find_nan(lambda x: jnp.where(x > 0, jnp.log(x), 0.0), jnp.array([-1.0, 2.0])) is None
    masked = jnp.array([[0.0, -jnp.inf]])
    assert inspect.find_nan(jax.nn.softmax, masked) is None
    assert inspect.find_nan(lambda x: jnp.full(3, jnp.inf) * x, 0.0).operation == "mul"


def test_gradient_table_shows_dead_units_and_faults():
    def loss(params: Any) -> Any:
        hidden = F.relu(X @ params["fc"]["weight"] + params["fc"]["bias"])
        return jnp.sum(hidden**2)

    params = {"fc": {"weight": jnp.ones((5, 4)) * 0.1, "bias": jnp.array([0.0, 0.0, 0.0, -1e4])}}  # the last is dead
    table = inspect.gradient_table(params, jax.grad(loss)(params))
    assert table["fc.bias"].zeros == 0.25 and table["fc.weight"].zeros == 0.25 and table["fc.bias"].nonfinite == 0
    w, g = np.asarray(params["fc"]["weight"]), np.asarray(jax.grad(loss)(params)["fc"]["weight"])
    np.testing.assert_allclose(table["fc.weight"].ratio, np.linalg.norm(g) / np.linalg.norm(w), rtol=1e-6)
    bad = inspect.gradient_table({"a": jnp.ones(4)}, {"a": jnp.array([jnp.nan, 0.0, 3.0, 4.0])})
    assert bad["a"].nonfinite == 0.25 and bad["a"].gradient == 5.0 and "not finite" in str(bad)
    assert "<table>" in bad._repr_html_()
    weights = inspect.gradient_table({"a": jnp.array([3.0, jnp.nan, 4.0])}, {"a": jnp.ones(3)})
    assert weights["a"].weight == 5.0
    with pytest.raises(KeyError, match="no gradient 'b' in the table; it has a"):
        bad["b"]
    with pytest.raises(ValueError, match=r"'a' has shape \(3,\), params has shape \(4,\)"):
        inspect.gradient_table({"a": jnp.ones(4)}, {"a": jnp.ones(3)})
