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
