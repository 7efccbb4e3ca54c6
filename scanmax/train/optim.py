"""Optimizers by name: clipping, the update rule, weight decay, rates per parameter, freezing.

Gradients may first be made orthogonal to their weights (`perp_grad`).
"""

import dataclasses
import math
import re
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import optax
import optax.contrib

from scanmax.errors import UserError, suggest
from scanmax.models.layers import NamedAxes
from scanmax.train.config import OptimConfig
from scanmax.train.layer_decay import layer_factors
from scanmax.train.schedules import Schedule


def param_path(path: tuple[Any, ...]) -> str:
    """Joins a key path of jax.tree_util by slashes: "block_00/mlp/fc1/kernel"."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _adam(config: OptimConfig, params: Any, axes: Any) -> optax.GradientTransformation:
    return optax.scale_by_adam(
        b1=config.b1, b2=config.b2, eps=config.eps, nesterov=config.nesterov, **config.kwargs
    )


def _lion(config: OptimConfig, params: Any, axes: Any) -> optax.GradientTransformation:
    return optax.scale_by_lion(b1=config.b1, b2=config.b2, **config.kwargs)


def _sgd(config: OptimConfig, params: Any, axes: Any) -> optax.GradientTransformation:
    if not config.momentum:
        return optax.identity()
    return optax.trace(config.momentum, nesterov=config.nesterov, **config.kwargs)


def _rmsprop(config: OptimConfig, params: Any, axes: Any) -> optax.GradientTransformation:
    """TensorFlow's, by which EfficientNet and Inception learn: eps in the root, squares from 1."""
    kwargs = {"decay": 0.9, "initial_scale": 1.0, "eps_in_sqrt": True, **config.kwargs}
    scaled = optax.scale_by_rms(eps=config.eps, **kwargs)
    if not config.momentum:
        return scaled
    return optax.chain(scaled, optax.trace(config.momentum, nesterov=config.nesterov))


def _adafactor(config: OptimConfig, params: Any, axes: Any) -> optax.GradientTransformation:
    rule = optax.chain(
        optax.scale_by_factored_rms(**config.kwargs), optax.clip_by_block_rms(threshold=1.0)
    )
    return _each_layer(rule, params, axes)


def _muon(config: OptimConfig, params: Any, axes: Any) -> optax.GradientTransformation:
    """Matrices of hidden layers by Muon, all else by Adam.

    An update of Muon has the root mean square 0.2, about that of Adam, so that one rate serves both
    (consistent_rms of optax; None scales by the matrix's shape instead, as Muon came out).
    """
    dimensions = {
        param_path(path): found
        for path, leaf, names in _named(params, axes)
        if (found := muon_dimensions(names, leaf.shape)) is not None
    }
    if not dimensions:
        raise UserError(
            "config.optim.name='muon': no parameter says that it is the matrix of a hidden layer "
            "(scanmax.models.layers.Parameter); 'adamw' takes any parameter"
        )
    kwargs = {"consistent_rms": 0.2, **config.kwargs}
    rms = kwargs.pop("consistent_rms")

    def dimensions_of(tree):
        return _map_paths(dimensions.get, tree)

    def scaled(updates, params=None):
        def scale(path, update):
            inputs, outputs = (
                math.prod(update.shape[axis] for axis in part)
                for part in dimensions[param_path(path)]
            )
            factor = max(1.0, outputs / inputs) if rms is None else rms**2 * max(inputs, outputs)
            return update * factor**0.5

        return jax.tree_util.tree_map_with_path(scale, updates)

    matrices = optax.contrib.scale_by_muon(weight_dimension_numbers=dimensions_of, **kwargs)
    rest = dataclasses.replace(config, kwargs={})
    return optax.partition(
        {
            "muon": optax.chain(matrices, optax.stateless(scaled)),
            "adam": _adam(rest, params, axes),
        },
        _map_paths(lambda path: "muon" if path in dimensions else "adam", params),
    )


# name -> (update rule, where weight decay enters it)
OPTIMIZERS: dict[str, tuple[Callable[..., optax.GradientTransformation], str]] = {
    "adafactor": (_adafactor, "after"),
    "adam": (_adam, "before"),
    "adamw": (_adam, "after"),
    "lamb": (_adam, "trust"),
    "lion": (_lion, "after"),
    "muon": (_muon, "after"),
    "rmsprop": (_rmsprop, "before"),
    "sgd": (_sgd, "before"),
}


def make_optimizer(
    config: OptimConfig, schedule: Schedule, params: Any, axes: Any
) -> optax.GradientTransformation:
    """The optimizer of a config.

    Args:
      config: name, rates, decay, regular expressions.
      schedule: learning rate as a function of the step.
      params: the parameters' shapes (or the parameters).
      axes: the same tree, each leaf the tuple of logical axes of that parameter.

    Returns:
      A gradient transformation; its updates are added to the parameters.

    Raises:
      UserError: an unknown name or argument, or a regular expression that matches no parameter.
    """
    if config.name not in OPTIMIZERS:
        raise UserError(
            f"unknown config.optim.name={config.name!r}; {suggest(config.name, OPTIMIZERS)}"
        )
    rule, decay_enters = OPTIMIZERS[config.name]
    paths = [param_path(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    for field in ("freeze", "no_decay", "lr_multipliers"):
        # The default of no_decay names parameters that many models do not have.
        if field == "no_decay" and config.no_decay == OptimConfig().no_decay:
            continue
        for entry in getattr(config, field):
            pattern = entry if isinstance(entry, str) else entry[0]
            check_pattern(f"config.optim.{field}", pattern, paths)

    decay = optax.add_decayed_weights(
        config.weight_decay, mask=decay_mask(config.no_decay, params, axes)
    )
    try:
        parts = [rule(config, params, axes)]
    except TypeError as error:
        raise UserError(f"config.optim.kwargs={config.kwargs} of {config.name}: {error}") from error
    if config.weight_decay:
        parts = [decay, *parts] if decay_enters == "before" else [*parts, decay]
    if decay_enters == "trust":
        parts.append(_each_layer(optax.scale_by_trust_ratio(), params, axes))
    if config.clip_norm:
        parts.insert(0, optax.clip_by_global_norm(config.clip_norm))
    if config.perp_grad:
        parts.insert(0, perp_grad(_stacked(params, axes)))
    if config.lr_multipliers:
        parts.append(_multiply(config.lr_multipliers))
    if config.layer_decay != 1:
        parts.append(_by_depth(config.layer_decay, params, axes))
    parts.append(optax.scale_by_learning_rate(schedule))
    optimizer = optax.chain(*parts)
    if not config.freeze:
        return optimizer
    # A frozen parameter has no optimizer state and no part in the clipped norm.
    labels = _map_paths(
        lambda path: "frozen" if matches(config.freeze, path) else "trained", params
    )
    transforms = {"trained": optimizer, "frozen": optax.set_to_zero()}
    return optax.multi_transform(transforms, labels)


def decay_mask(no_decay: Iterable[str], params: Any, axes: Any) -> Any:
    """True where weight decay applies: to weights, unless a pattern names them.

    A weight is what its layer multiplies with the input and sums over (`layers.Parameter.inputs`):
    matrices, kernels, embeddings. A bias, scale, rate, token or table of positions is none in any
    shape. Parameters of modules that do not say so are weights where they have two axes or more, an
    axis of layers not counted.
    """
    no_decay = tuple(no_decay)

    def decays(path, leaf, names):
        if isinstance(names, NamedAxes):
            weight = bool(names.inputs)
        else:
            weight = (sum(name != "layers" for name in names) if names else leaf.ndim) > 1
        return weight and not matches(no_decay, param_path(path))

    return jax.tree_util.tree_map_with_path(decays, params, axes)


def muon_dimensions(
    names: Any, shape: tuple[int, ...]
) -> optax.contrib.MuonDimensionNumbers | None:
    """Which axes of a parameter are the rows and columns of what Muon makes orthogonal.

    Rows are what its layer sums over, columns what comes out; layers, experts, and query, key and
    value are matrices by themselves. None where it is none: embeddings of tokens and of patches,
    heads, depthwise kernels, everything without weight decay, and parameters that do not say.
    """
    if not isinstance(names, NamedAxes) or not (names.inputs and names.outputs):
        return None
    if "classes" in names or "vocab" in names or {"conv_in", "embed"} <= set(names):
        return None
    sides = (math.prod(shape[axis] for axis in part) for part in (names.inputs, names.outputs))
    if min(sides) < 2:
        return None
    return optax.contrib.MuonDimensionNumbers(names.inputs, names.outputs)


def _each_layer(
    rule: optax.GradientTransformation, params: Any, axes: Any
) -> optax.GradientTransformation:
    """The rule on each layer of stacked parameters by itself, as where layers are looped."""
    depths = {
        param_path(path): str(leaf.shape[0])
        for path, leaf, names in _named(params, axes)
        if names and names[0] == "layers"
    }
    if not depths:
        return rule
    stacked = optax.GradientTransformation(jax.vmap(rule.init), jax.vmap(rule.update))
    rules = {"whole": rule, **dict.fromkeys(depths.values(), stacked)}
    return optax.partition(rules, _map_paths(lambda path: depths.get(path, "whole"), params))


def perp_grad(stacked: Iterable[str] = ()) -> optax.GradientTransformation:
    """Takes from each gradient its part along its own weights, and keeps its norm.

        g <- g - (w.g / w.w) w,   then scaled to the norm it had

    Per tensor w, before the update rule. For a network homogeneous in its weights, the part taken
    away is what lowers the loss by growing the logits alone, naive loss minimisation; without it
    training groks in float32 where plain cross-entropy stalls. A tensor of one element, and a
    gradient parallel to its weights, have no orthogonal part: they are left as they are.

    Args:
      stacked: paths of tensors whose first axis counts layers; each layer is projected by itself.

    Returns:
      A gradient transformation; its update needs the parameters.

    Reference: stablemax-perpgrad
    """

    stacked = frozenset(stacked)

    def project(path, gradient, weights):
        layers = param_path(path) in stacked
        return (jax.vmap(_orthogonal) if layers else _orthogonal)(gradient, weights)

    def update(updates, params=None):
        if params is None:
            raise ValueError("perp_grad.update was given no params; it projects along them.")
        return jax.tree_util.tree_map_with_path(project, updates, params)

    return optax.stateless(update)


def _named(params: Any, axes: Any) -> list[tuple[Any, Any, Any]]:
    """(path, parameter, its logical axes) of every parameter."""
    paths = jax.tree_util.tree_map_with_path(lambda *entry: entry, params, axes)
    return jax.tree.leaves(paths, is_leaf=lambda entry: isinstance(entry, tuple))


def _stacked(params: Any, axes: Any) -> list[str]:
    """Paths of the parameters whose first logical axis is "layers"."""
    return [
        param_path(path)
        for path, _, names in _named(params, axes)
        if names and names[0] == "layers"
    ]


def _orthogonal(gradient: jax.Array, weights: jax.Array) -> jax.Array:
    if gradient.size <= 1:
        return gradient
    dtype = jnp.promote_types(gradient.dtype, jnp.float32)
    g, w = gradient.astype(dtype), weights.astype(dtype)
    squares = jnp.sum(w * w)
    along = jnp.sum(w * g) / jnp.where(squares > 0, squares, 1)
    rest = g - along * w
    norm, left = jnp.sqrt(jnp.sum(g * g)), jnp.sqrt(jnp.sum(rest * rest))
    # What is left of a parallel gradient is rounding, which must not be blown up.
    some = left > 10 * jnp.finfo(dtype).eps * norm
    rest = jnp.where(some, rest * (norm / jnp.where(some, left, 1)), g)
    return rest.astype(gradient.dtype)


def _multiply(pairs: tuple[tuple[str, float], ...]) -> optax.GradientTransformation:
    def factor(path: str) -> float:
        return next((float(value) for pattern, value in pairs if re.search(pattern, path)), 1.0)

    def update(updates, params=None):
        return jax.tree.map(
            lambda update, scale: update * scale, updates, _map_paths(factor, updates)
        )

    return optax.stateless(update)


def _by_depth(decay: float, params: Any, axes: Any) -> optax.GradientTransformation:
    """Scales the updates of each layer by its depth."""
    stacked = set(_stacked(params, axes))
    shapes = {
        param_path(path): leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(params)
    }
    layers = {path: shape[0] if path in stacked else 1 for path, shape in shapes.items()}
    factors = layer_factors(decay, layers)

    def scale(path, update):
        factor = jnp.asarray(factors[param_path(path)], update.dtype)
        return (
            update * factor.reshape(-1, *[1] * (update.ndim - 1))
            if len(factor) > 1
            else (update * factor[0])
        )

    return optax.stateless(
        lambda updates, params=None: jax.tree_util.tree_map_with_path(scale, updates)
    )


def _map_paths(function: Callable[[str], Any], tree: Any) -> Any:
    return jax.tree_util.tree_map_with_path(lambda path, _: function(param_path(path)), tree)


def matches(patterns: Iterable[str], path: str) -> bool:
    return any(re.search(pattern, path) for pattern in patterns)


def check_pattern(field: str, pattern: str, paths: list[str]) -> None:
    try:
        found = any(re.search(pattern, path) for path in paths)
    except re.error as error:
        raise UserError(f"{field}: {pattern!r} is no regular expression: {error}") from error
    if not found:
        raise UserError(f"{field}: {pattern!r} matches no parameter; {suggest(pattern, paths)}")
