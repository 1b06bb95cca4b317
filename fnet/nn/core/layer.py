"""`Layer`: what a layer is, and what fnet does with any layer."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import jax

from fnet.nn.core.keys import check_key
from fnet.nn.core.param import Initializer, NoState, Param, Spec, Tree, draw, flat_specs, keys_of, put
from fnet.nn.core.render import tree_html, tree_text
from fnet.nn.core.surgery import part_at, rebuild, walk_parts
from fnet.nn.core.values import dataclass_text, freeze, refuse_unpicklable
from fnet.nn.core.walk import is_array, specs_of
from fnet.selectors import Selector, first_match, match
from fnet.tree import fold_name

# What a torch.nn.Module has and a layer has not, with what stands for it.
PYTORCH = {
    "parameters": "params, of params, state = model.init(key, x)",
    "named_parameters": "fnet.named(params)",
    "state_dict": "params itself, a dict: fnet.save(path, params)",
    "load_state_dict": "params = fnet.load(path); for a file of PyTorch's, io.from_torch(model, path, x)",
    "train": "model.apply(params, state, x, key=key, train=True)",
    "eval": "nothing: train=False is the default",
    "zero_grad": "nothing: jax.grad gives new gradients each time",
    "requires_grad_": 'optim.groups({"encoder.*": None, "*": opt}), which freezes by name',
    "to": "params = fnet.to(params, device); arrays are made on the GPU where there is one",
    "cuda": "nothing: arrays are made on the GPU where there is one; fnet.devices() says what there is",
    "cpu": 'params = fnet.to(params, "cpu")',
    "float": 'params = fnet.cast(params, "float32")',
    "half": 'params = fnet.cast(params, "float16")',
    "bfloat16": 'params = fnet.cast(params, "bfloat16")',
    "children": "model.parts, a dict",
    "named_children": "model.parts, a dict",
    "register_buffer": "nn.Param(shape, init, trainable=False) in a layer's spec",
    "register_forward_hook": "fnet.inspect.activations(model, params, state, x)",
}


# Arguments of PyTorch's layers that these have not.
_READ = ("in_features in1_features in_channels num_features num_channels normalized_shape input_size embed_dim d_model "
         "kdim vdim")  # fmt: skip
PYTORCH_ARGUMENTS = dict.fromkeys(_READ.split(), "sizes of inputs are read from the data") | {
    "device": "arrays are made on the default device; params = fnet.to(params, device)",
    "dtype": "layers compute in the dtype of their parameters; params = fnet.cast(params, dtype)",
    "inplace": "nothing is changed in place",
    "batch_first": "the batch is always the first axis",
}


class Layer(ABC):
    """The optional base of layers: a frozen dataclass of hyperparameters with `spec` and `apply`.

    Whatever has these two methods is a layer; this base adds ``init``, the short call, ``replace``, ``map``,
    printing, and checks that hyperparameters are plain values (lists become tuples, arrays are refused).

    >>> from dataclasses import dataclass
    >>> import jax, jax.numpy as jnp
    >>> from fnet import init, nn
    >>> @dataclass(frozen=True)
    ... class Scale(nn.Layer):
    ...     start: float = 1.0
    ...     def spec(self, x):
    ...         return {"weight": nn.Param(x.shape[-1:], init.constant(self.start))}
    ...     def apply(self, params, state, x, key=None, train=False):
    ...         return x * params["weight"], state
    >>> params, state = Scale(2.0).init(jax.random.key(0), jnp.ones((4, 3)))
    >>> Scale(2.0)(params, jnp.ones(3))
    Array([2., 2., 2.], dtype=float32)
    """

    keyless: ClassVar[bool] = False  # True spares a key that `apply` would never read

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name in cls.__dict__.get("__annotations__", ()):
            if hasattr(Layer, name) and not name.startswith("_") and name != "keyless":
                raise TypeError(f"{cls.__name__}.{name} would hide Layer.{name}; give the hyperparameter another name")

    def __post_init__(self) -> None:
        for field in fields(self):  # type: ignore[arg-type]
            value = freeze(getattr(self, field.name), f"{type(self).__name__}.{field.name}", lists=tuple)
            object.__setattr__(self, field.name, value)

    def spec(self, *inputs: Any, **kwargs: Any) -> Spec:
        """The arrays that the layer declares for these inputs, arrays or abstract: nested ``{name: Param}``."""
        return {}

    @abstractmethod
    def apply(
        self, params: Tree, state: Tree, *inputs: Any, key: jax.Array | None = None, train: bool = False, **kwargs: Any
    ) -> tuple[Any, Tree]:
        """The pure function of the layer: ``(output, new state)``."""

    def init(
        self,
        key: jax.Array,
        *inputs: Any,
        init: Mapping[Selector, Initializer] | None = None,
        train: bool = False,
        **kwargs: Any,
    ) -> tuple[Tree, Tree]:
        """Draw ``(params, state)`` for inputs of these shapes; each array's key comes from its dotted name.

        Inputs are any pytrees of arrays or `jax.ShapeDtypeStruct`; only shapes and dtypes are read and no forward
        pass runs. ``init`` overrides the initialisers of parameters (not of the state) by selector, first match
        wins. One that makes matrices (orthogonal, kaiming_normal, …) leaves the vectors among what its selector matches
        as they start, so ``{"*.weight": init.orthogonal()}`` does not touch the weights of norms.
        ``train=True`` walks the training path. Raises ValueError for a part that the forward
        never reaches and for a selector that matches nothing.

        >>> import jax
        >>> from fnet import nn
        >>> params, state = nn.Linear(3).init(jax.random.key(0), jax.ShapeDtypeStruct((8, 5), "float32"))
        >>> params["weight"].shape, state
        ((5, 3), {})
        """
        check_key(key, "init")
        refuse_shapes(inputs, "init")
        specs = flat_specs(specs_of(self, inputs, kwargs, train))
        chosen = _overrides(specs, dict(init or {}))
        params: Tree = {}
        state: Tree = {}
        for name, param in specs.items():
            initializer = chosen.get(name, param.init)
            value = draw(initializer, fold_name(key, name), name, param)
            put(params if param.trainable else state, keys_of(name), value)
        return params, state

    def init_state(self, *inputs: Any, train: bool = False, **kwargs: Any) -> Tree:
        """A fresh state alone, for inputs of these shapes; no parameter is drawn.

        >>> import jax
        >>> from fnet import nn
        >>> nn.Linear(3).init_state(jax.ShapeDtypeStruct((8, 5), "float32"))
        {}
        """
        state: Tree = {}
        for name, param in flat_specs(specs_of(self, inputs, kwargs, train)).items():
            if not param.trainable:
                put(state, keys_of(name), draw(param.init, fold_name(jax.random.key(0), name), name, param))
        return state

    def __call__(
        self, params: Tree, *inputs: Any, key: jax.Array | None = None, train: bool = False, **kwargs: Any
    ) -> Any:
        """The output alone, for a layer without state; raises TypeError for one with state."""
        given: Any = params
        if is_array(given):
            raise TypeError(
                f"{type(self).__name__} holds no arrays, so its parameters come first: model(params, x), where params, "
                f"state = model.init(key, x); got {given.dtype}{list(given.shape)} in their place"
            )
        output, state = self.apply(params, NoState(), *inputs, key=key, train=train, **kwargs)
        if state:
            raise TypeError(NoState.message(repr(next(iter(state)))))
        return output

    if not TYPE_CHECKING:

        def __new__(cls, /, *args: Any, **kwargs: Any) -> Layer:
            if is_dataclass(cls):
                refuse_pytorchs_arguments(cls, args, kwargs)
            return super().__new__(cls)

        def __getattr__(self, name: str) -> Any:
            if name in PYTORCH:
                raise AttributeError(f"a model has no {name!r} in fnet; in its place is {PYTORCH[name]}")
            if name in self.__dict__.get("_parts", ()):
                raise AttributeError(f"the part is model[{name!r}], and its parameters are params[{name!r}]")
            return object.__getattribute__(self, name)  # raises once more what it raised before

    @property
    def parts(self) -> dict[str, Any]:
        """The named parts inside, in the order in which they were declared; empty for a leaf layer."""
        return {}

    def with_parts(self, parts: Mapping[str, Any]) -> Layer:
        """The same layer around other parts of the same names."""
        raise TypeError(f"{self!r} has no parts")

    def __getitem__(self, name: str) -> Any:
        """The part at a dotted name; with ``params[name]`` a model of its own."""
        return part_at(self, name)

    def __contains__(self, name: object) -> bool:
        return name in dict(walk_parts(self))

    def replace(self, name: str, value: Any) -> Any:
        """A new layer with the part at a dotted name replaced.

        >>> from fnet import nn
        >>> nn.Sequential(nn.Linear(8), head=nn.Linear(10)).replace("head", nn.Linear(5))
        Sequential(Linear(8), head=Linear(5))
        """
        part_at(self, name)
        return rebuild(self, "", lambda path, part: value if path == name else part)

    def map(self, selector: Selector, f: Callable[[Any], Any]) -> Any:
        """A new layer with ``f(part)`` for every part whose dotted name the selector matches, innermost first.

        >>> from fnet import nn
        >>> model = nn.Sequential(body=nn.Sequential(nn.Linear(8), drop=nn.Dropout(0.5)), head=nn.Linear(3))
        >>> model.map("*.drop", lambda d: nn.Dropout(0.0))["body.drop"]
        Dropout(p=0.0)
        """
        chosen = set(match(selector, dict(walk_parts(self))))
        return rebuild(self, "", lambda path, part: f(part) if path in chosen else part)

    def __repr__(self) -> str:
        return dataclass_text(self)

    def __str__(self) -> str:
        return tree_text(self)

    def _repr_html_(self) -> str:
        return tree_html(self)

    def __getstate__(self) -> dict[str, Any]:
        values = {
            name: value for name, value in self.__dict__.items() if name != "_hash"
        }  # str hashes differ by process
        shown = {name: value for name, value in values.items() if name != "_parts"} | self.parts
        refuse_unpicklable(shown.items(), type(self).__name__)
        return values

    def __copy__(self) -> Layer:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Layer:
        return self


def refuse_pytorchs_arguments(cls: type, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Raise TypeError for a layer given as in PyTorch, with sizes of inputs; the rest Python refuses."""
    taken = {field.name: field.kw_only for field in fields(cls) if field.init}  # type: ignore[arg-type]
    order = [name for name, kw_only in taken.items() if not kw_only]
    twice = [name for name in order[: len(args)] if name in kwargs]
    absent = [name for name in kwargs if name not in taken and name in PYTORCH_ARGUMENTS]
    if absent:
        message = f"has no {absent[0]}: {PYTORCH_ARGUMENTS[absent[0]]}"
    elif twice or len(args) > len(order):
        what = f"{twice[0]} twice" if twice else f"{len(args)} arguments by position"
        message = f"got {what}: it takes ({', '.join(order)}), and sizes of inputs are read from the data"
    else:
        return
    try:
        inspect.signature(cls.__init__).bind(None, *args, **kwargs)  # type: ignore[misc]
    except TypeError:
        raise TypeError(f"{cls.__name__} {message}") from None  # else an __init__ of the user's own takes them


def refuse_shapes(inputs: tuple[Any, ...], where: str) -> None:
    """Raise TypeError where an input is a shape, with the stand-in that is meant."""
    for given in inputs:
        if isinstance(given, tuple | list) and given and all(isinstance(size, int) for size in given):
            example = f'jax.ShapeDtypeStruct({tuple(given)}, "float32")'
            raise TypeError(f"{where} takes inputs, or stand-ins for them, not shapes: {example}")


def _overrides(specs: Mapping[str, Param], rules: Mapping[Selector, Initializer]) -> dict[str, Initializer]:
    """The initialiser of each parameter that a selector gives one; an array with too few axes for it keeps its own,
    unless no array that the selector matches has enough: then drawing raises."""
    initializers = list(rules.values())
    chosen = first_match({name: param for name, param in specs.items() if param.trainable}, rules)
    fits = {
        name: len(specs[name].shape) - specs[name].stacked >= getattr(initializers[rule], "axes", 0)
        for name, rule in chosen.items()
    }
    of_use = {rule for name, rule in chosen.items() if fits[name]}
    return {name: initializers[rule] for name, rule in chosen.items() if fits[name] or rule not in of_use}
