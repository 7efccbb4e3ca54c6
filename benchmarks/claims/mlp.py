"""Layers whose edges are functions: what their papers say of error and size."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.claims import Finding, claim
from scanmax import ops
from scanmax.models import create_model
from scanmax.models.layers import Mlp
from scanmax.models.mixers import create_mixer
from scanmax.models.parts.kan import KanDense, RationalMlp
from scanmax.models.parts.kan_pruning import edge_norms, edge_sparsity, prune_kan
from scanmax.models.parts.selectable_kan import POOL, SelectableKanDense, prune_selection


@claim("kan-grid-scaling", paper="kan")
def kan_grid_scaling(quick):
    """The error of a cubic spline falls with the fourth power of the intervals of its grid."""
    sizes = (10, 20, 40, 80)
    with jax.enable_x64(True):
        x = jnp.linspace(-1, 1, 801)[:, None]
        y, errors = jnp.exp(jnp.sin(jnp.pi * x)), []
        for size in sizes:
            knots = ops.extend_knots(jnp.linspace(-1.0, 1.0, size + 1)[None])
            fitted = ops.fit_bspline(x, y[..., None], knots, ridge=0.0)
            curve = jnp.einsum("sdn,dno->sd", ops.bspline_basis(x, knots), fitted)
            errors.append(float(jnp.sqrt(jnp.mean((curve - y) ** 2))))
    # The power is that of the limit: coarse grids, which miss whole bends, fall faster.
    slopes = [float(slope) for slope in np.diff(np.log(errors)) / np.log(2)]
    listed = ", ".join(f"{slope:.2f}" for slope in slopes)
    return [
        Finding(
            "exponent of the error of exp(sin(pi x)) from 10 to 20, to 40, to 80 intervals",
            "-4 in the end",
            listed,
            abs(slopes[-1] + 4) < 0.2 and sorted(slopes) == slopes,
        )
    ]


@claim("kat-parameters", paper="kat")
def kat_parameters(quick):
    """Rational functions in the place of the MLPs' activations add 76 parameters to a block."""

    def count(module, *args):
        shapes = jax.eval_shape(module.init, jax.random.key(0), *args)
        return sum(leaf.size for leaf in jax.tree.leaves(nn.unbox(shapes)))

    tokens = jnp.zeros((1, 2, 192))
    more = count(RationalMlp(768), tokens) - count(Mlp(768), tokens)
    images = jnp.zeros((1, 224, 224, 3))
    total = count(create_model("deit_tiny_patch16_224"), images) + 12 * more
    return [
        Finding("parameters of a block above those of its MLP", "76", str(more), more == 76),
        Finding("of a tiny ViT with them", "5718328", str(total), total == 5718328),
    ]


@claim("maxim-reach", paper="maxim")
def maxim_reach(quick):
    """A block reaches a window and a grid; two reach all of a map of b g by b g pixels."""
    size, side = 4, 16
    mixer = create_mixer(
        "multi_axis", heads=1, options={"block_size": (size,) * 2, "grid_size": (size,) * 2}
    )
    x = jax.random.normal(jax.random.key(0), (1, side**2, 2))
    params = jax.jit(lambda key: mixer.init(key, x, grid=(side, side)))(jax.random.key(1))

    def blocks(x, depth):
        for _ in range(depth):
            x = x + mixer.apply(params, x, grid=(side, side))
        return x[0, 5 * side + 9, 0]

    row, column = np.mgrid[:side, :side]
    step = side // size
    window = (row // size == 5 // size) & (column // size == 9 // size)
    grid = (row % step == 5 % step) & (column % step == 9 % step)
    gradient = jax.jit(jax.grad(blocks), static_argnums=1)
    one, two = (np.asarray(gradient(x, depth))[0].any(-1) for depth in (1, 2))
    return [
        Finding(
            "pixels that one reads of a 16 x 16 map, with blocks and grids of 4 x 4",
            "its window and its grid",
            f"{one.sum()}",
            bool((one.reshape(side, side) == (window | grid)).all()),
        ),
        Finding(
            "pixels that it reads through two", "all", f"{two.sum()} of {side**2}", bool(two.all())
        ),
    ]


@claim("ms-mlp-reduction", paper="ms-mlp")
def ms_mlp_reduction(quick):
    """With kernels of one tap and no shift a block is its MLP; shifts take its reach further."""
    with jax.enable_x64(True):
        x = jax.random.normal(jax.random.key(0), (7, 7, 5), jnp.float64)
        one = [jnp.ones((1, 1, 1, 1), x.dtype)] * 5
        still = ops.mix_shift(x, one, one, distances=(0,) * 5)
        error = float(jnp.abs(still - 2 * x).max())
    kernels = [jnp.ones((size, size, 1, 1)) for size in (1, 1, 3, 5, 7)]
    reaches = []
    for distances in ((0,) * 5, (-2, -1, 0, 1, 2)):
        centre = jax.jit(
            jax.grad(lambda x, d: ops.mix_shift(x, kernels, kernels, distances=d)[7, 7].sum()),
            static_argnums=1,
        )(jnp.zeros((15, 15, 5)), distances)
        rows, columns, _ = np.nonzero(np.asarray(centre))
        reaches.append(int(max(abs(rows - 7).max(), abs(columns - 7).max())))
    return [
        Finding("difference from twice the input", "0", f"{error:.0e}", error == 0),
        Finding(
            "pixels to the farthest that is read, without shifts and with them",
            "further by the shift of the largest kernel, 2",
            f"{reaches[0]} and {reaches[1]}",
            reaches == [3, 5],
        ),
    ]


def _fit(layers, variables, x, y, *, penalty, steps=1000, rate=0.02):
    """Variables of layers behind one another after Adam on the square error and the sparsity."""
    optimizer = optax.adam(optax.cosine_decay_schedule(rate, steps))
    states = [own["batch_stats"] for own in variables]

    def loss(params):
        hidden, sparsity = x, 0.0
        for layer, own, state in zip(layers, params, states):
            whole = {"params": own, "batch_stats": state}
            sparsity += edge_sparsity(edge_norms(layer, whole, hidden))
            hidden = layer.apply(whole, hidden)
        error = jnp.mean((hidden - y) ** 2)
        return error + penalty * sparsity, error

    @jax.jit
    def train(params):
        def step(carry, _):
            params, state = carry
            gradient, error = jax.grad(loss, has_aux=True)(params)
            updates, state = optimizer.update(gradient, state, params)
            return (optax.apply_updates(params, updates), state), error

        return jax.lax.scan(step, (params, optimizer.init(params)), length=steps)

    (params, _), errors = train([own["params"] for own in variables])
    trained = [{"params": own, "batch_stats": state} for own, state in zip(params, states)]
    return trained, float(jnp.sqrt(errors[-1]) / jnp.std(y))


@claim("kan-pruning", paper="kan", by_hand=True)
def kan_pruning(quick):
    """With the penalty on its edges a KAN of five hidden nodes prunes to the one that it needs."""
    left, errors = {}, {}
    for penalty in (0.0, 0.03):
        for seed in (0,) if quick else (0, 1, 2):
            x = jax.random.uniform(jax.random.key(seed), (256, 2), minval=-1, maxval=1)
            y = jnp.exp(jnp.sin(jnp.pi * x[:, :1]) + x[:, 1:] ** 2)
            options = {"basis_options": {"grid_range": (-2, 2)}}
            layers = [KanDense(5, **options), KanDense(1, **options)]
            variables = [
                nn.unbox(layer.init(jax.random.key(10 * seed + i), jnp.zeros((1, inputs))))
                for i, (layer, inputs) in enumerate(zip(layers, (2, 5)))
            ]
            variables, _ = _fit(layers, variables, x, y, penalty=penalty)
            layers, variables = prune_kan(layers, variables, x, threshold=0.05)
            # the network that is left goes on without the penalty
            _, error = _fit(layers, variables, x, y, penalty=0.0)
            left.setdefault(penalty, []).append(layers[0].features)
            errors.setdefault(penalty, []).append(error)
    dense, sparse = (", ".join(str(n) for n in left[penalty]) for penalty in (0.0, 0.03))
    worst = max(errors[0.03])
    return [
        Finding(
            "nodes of 5 that pruning leaves of exp(sin(pi x) + y^2), penalised, by seed",
            "1",
            sparse,
            set(left[0.03]) == {1},
        ),
        Finding("the same without the penalty", "more", dense, min(left[0.0]) > 1),
        Finding(
            "error of the networks of one node, over the deviation of the target",
            "small: it is the function's own form",
            f"{worst:.4f}",
            worst < 0.02,
        ),
    ]


# Smooth, wavy, peaked, with kinks and with a step; of two numbers from -1 to 1.
SEVEN = {
    "exp(sin(pi x) + y^2)": lambda x, y: jnp.exp(jnp.sin(jnp.pi * x) + y**2),
    "x y": lambda x, y: x * y,
    "sin(4 pi x) + cos(3 pi y)": lambda x, y: jnp.sin(4 * jnp.pi * x) + jnp.cos(3 * jnp.pi * y),
    "|x| + |y|": lambda x, y: jnp.abs(x) + jnp.abs(y),
    "1 / (1 + 25 (x^2 + y^2))": lambda x, y: 1 / (1 + 25 * (x**2 + y**2)),
    "tanh(10 (x + y))": lambda x, y: jnp.tanh(10 * (x + y)),
    "sqrt(1 + x^2 + y^2 - 2 x y)": lambda x, y: jnp.sqrt(1 + x**2 + y**2 - 2 * x * y),
}


class _Row(nn.Module):
    """Layers one behind another, from two numbers to one."""

    layers: tuple[nn.Module, ...]

    @nn.compact
    def __call__(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


class _Tanh(nn.Module):
    """A dense layer and its tanh."""

    features: int

    @nn.compact
    def __call__(self, x):
        return nn.tanh(nn.Dense(self.features)(x))


# Eight functions of each kind; hidden numbers may leave the interval of the inputs.
_EIGHT = {
    "bspline": {"grid_size": 5, "grid_range": (-2.0, 2.0)},
    "radial": {"grid_size": 8, "grid_range": (-2.0, 2.0)},
    "chebyshev": {"degree": 7},
    "mexican_hat": {"grid_size": 8},
}
_WIDTHS = (5, 1)


def _selectable(**fields):
    layers = (SelectableKanDense(n, basis_options=_EIGHT, **fields) for n in _WIDTHS)
    return _Row(tuple(layers))


def _fit_seven(phases, seeds, steps):
    """Errors [seed, function] on new points over the deviation, and the last variables.

    Phases are (network, share of the steps, whether scores learn): one after another, of the same
    parameters. All functions and seeds are trained side by side.
    """
    targets = tuple(SEVEN.values())

    def sample(key, count):
        x = jax.random.uniform(key, (count, 2), minval=-1, maxval=1)
        return x, jnp.stack([f(x[:, 0], x[:, 1]) for f in targets])[..., None]

    def one(key, x, y, x_new, y_new):
        own = nn.unbox(phases[0][0].init(key, x))
        params, carried = own["params"], {k: v for k, v in own.items() if k != "params"}
        for network, share, scores_learn in phases:
            count = round(steps * share)
            optimizer = optax.adam(optax.cosine_decay_schedule(0.02, count))

            def loss(params, network=network):
                return jnp.mean((network.apply({**carried, "params": params}, x) - y) ** 2)

            def step(carry, _, loss=loss, optimizer=optimizer, learn=scores_learn):
                params, state = carry
                gradient = jax.grad(loss)(params)
                if not learn:
                    gradient = jax.tree_util.tree_map_with_path(
                        lambda path, g: g * 0 if path[-1].key == "scores" else g, gradient
                    )
                updates, state = optimizer.update(gradient, state)
                return (optax.apply_updates(params, updates), state), None

            (params, _), _ = jax.lax.scan(step, (params, optimizer.init(params)), length=count)
        own = {**carried, "params": params}
        return jnp.sqrt(jnp.mean((phases[-1][0].apply(own, x_new) - y_new) ** 2)), own

    @jax.jit
    def run(key):
        keys = jax.random.split(key, 3)
        (x, y), (x_new, y_new) = sample(keys[0], 512), sample(keys[1], 2048)
        size = jnp.std(y, axis=(1, 2), keepdims=True)
        mean = jnp.mean(y, axis=(1, 2), keepdims=True)
        fit = jax.vmap(one, (0, None, 0, None, 0))
        starts = jax.random.split(keys[2], len(targets))
        return fit(starts, x, (y - mean) / size, x_new, (y_new - mean) / size)

    found = [run(jax.random.key(seed)) for seed in seeds]
    errors = np.stack([np.asarray(error) for error, _ in found])
    return errors, [own for _, own in found]


@claim("s-kan-fitting", paper="s-kan", by_hand=True)
def s_kan_fitting(quick):
    """S-KAN fits seven functions better than KANs of one kind of functions, and than an MLP."""
    seeds, steps = ((0,), 200) if quick else ((0, 1, 2), 1500)
    networks = {
        name: _Row(tuple(KanDense(n, basis=name, basis_options=_EIGHT[name]) for n in _WIDTHS))
        for name in POOL
    }
    networks["MLP"] = _Row((_Tanh(14), _Tanh(14), nn.Dense(1)))
    errors, sizes = {}, {}
    for name, network in networks.items():
        errors[name], (own, *_) = _fit_seven([(network, 1.0, True)], seeds, steps)
        sizes[name] = sum(leaf[0].size for leaf in jax.tree.leaves(own["params"]))
    # All kinds, then those near the best, then that of every input alone, as pruning leaves it.
    phases = [
        (_selectable(), 0.4, True),
        (_selectable(selection="gated", threshold=0.8, temperature=0.5), 0.2, True),
        (_selectable(selection="hard"), 0.4, False),
    ]
    errors["S-KAN"], trained = _fit_seven(phases, seeds, steps)
    chosen, left = dict.fromkeys(POOL, 0), []
    for index in range(len(SEVEN)):
        for own in trained:
            for scores in (own["params"][f"layers_{n}"]["scores"] for n in range(len(_WIDTHS))):
                for kind in np.asarray(scores[index]).argmax(-1).flat:
                    chosen[POOL[kind]] += 1
        own = jax.tree.map(lambda leaf, index=index: np.asarray(leaf[index]), trained[0])
        parts = [
            {kind: tree[name] for kind, tree in own.items() if name in tree}
            for name in ("layers_0", "layers_1")
        ]
        layers = phases[-1][0].layers
        pruned = [prune_selection(layer, part) for layer, part in zip(layers, parts)]
        left.append(
            sum(leaf.size for _, rest in pruned for leaf in jax.tree.leaves(rest["params"]))
        )

    @jax.jit
    def both(x):
        y, small = x, x
        for layer, part, (less, rest) in zip(layers, parts, pruned):
            y, small = layer.apply(part, y), less.apply(rest, small)
        return jnp.abs(small - y).max() / jnp.abs(y).max()

    worst = float(both(jax.random.uniform(jax.random.key(9), (64, 2), minval=-1, maxval=1)))
    means = {name: float(np.exp(np.log(error).mean())) for name, error in errors.items()}
    others = [name for name in means if name != "S-KAN"]
    listed = ", ".join(f"{name} {means[name]:.4f}" for name in others)
    per_function = {name: np.exp(np.log(error).mean(0)) for name, error in errors.items()}
    best = [min(per_function, key=lambda name, i=i: per_function[name][i]) for i in range(7)]
    single = [min(per_function[name][i] for name in POOL) for i in range(7)]
    near = int(np.sum(per_function["S-KAN"] < 1.1 * np.array(single)))
    return [
        Finding(
            "geometric mean of the errors over the deviation, new points, S-KAN, against "
            "KANs of one kind and an MLP",
            "least",
            f"{means['S-KAN']:.4f}; {listed}",
            bool(means["S-KAN"] < min(means[name] for name in others)),
        ),
        Finding(
            "functions of 7 that S-KAN fits best",
            "7",
            f"{best.count('S-KAN')}; the best were {', '.join(best)}",
            best.count("S-KAN") == 7,
        ),
        Finding(
            "functions that it fits better than the best KAN of one kind, or within a tenth of it",
            "7",
            str(near),
            near == 7,
        ),
        Finding(
            "parameters after pruning; of a KAN of splines and one of wavelets; of the MLP",
            "the same level",
            f"{min(left)} to {max(left)}; {sizes['bspline']} and {sizes['mexican_hat']}; "
            f"{sizes['MLP']}",
            max(left) <= sizes["MLP"],
        ),
        Finding(
            "inputs of layers that chose " + ", ".join(POOL),
            "different ones",
            ", ".join(map(str, chosen.values())),
            sum(count > 0 for count in chosen.values()) > 1,
        ),
        Finding("difference that pruning makes", "0", f"{worst:.0e}", worst < 1e-5),
    ]
