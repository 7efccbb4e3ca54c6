"""The Terminator: the suite of every model, what its standardisation and its products do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scanmax import ops
from scanmax.errors import UserError
from scanmax.models import create_model
from scanmax.models.parts.hyper_kernels import (
    HyperKernel,
    gamma_waves,
    grouped_standardisation,
    slow_loss,
)
from scanmax.testing import ModelCase, ModelSuite

TINY = {
    "dims": (6,),
    "earlier": ((),),
    "groups": 2,
    "img_size": 6,
    "slow_hidden_dim": 4,
    "slow_layers": (1,),
    "local_hidden_dim": 3,
    "local_layers": 1,
    "local_sizes": (1, 3, 1, 1),
    "channel_hidden_dim": 3,
    "gate_hidden_dims": (2, 4),
    "gate_layers": 1,
    "num_classes": 3,
}


class TerminatorSuite(ModelSuite):
    family = "terminator"
    small = (ModelCase("terminator_cifar10", TINY, (6, 6, 3), other_inputs=((8, 5, 3),)),)
    # What statistics of the batch or of an image take away of what a bias adds to a channel; and a
    # kernel of one place has a sign alone to learn by.
    vanishing = (
        r"block_\d+/((mixer|(fast|slow)_unit/out|local\d/mixer|bottleneck)/bias"
        r"|local[023]/slow/((wave|phase|kernel|bias)\d|position_bias))"
    )


def test_features_have_mean_zero_behind_the_standardisation():
    x = 3 + 2 * jax.random.normal(jax.random.key(0), (4, 5, 5, 12))
    norm = grouped_standardisation(12, batch_alone=True)
    y = norm.apply(norm.init(jax.random.key(0), x), x)
    assert jnp.abs(y.mean((0, 1, 2))).max() < 1e-6
    np.testing.assert_allclose(y.std((0, 1, 2)), 1, atol=1e-3)
    # Every second channel is each image's own.
    own = jnp.abs(y.mean((1, 2))).max(0) < 1e-6
    assert own.tolist() == [False, True] * 6


def test_kernels_are_sampled_at_any_resolution():
    """Every second place of a kernel of twice the resolution is that of the coarse one."""
    kernel = HyperKernel(3, (5, 5), hidden=8)

    @jax.jit
    def run(key):
        variables = kernel.init(key, (5, 5))
        return tuple(kernel.apply(variables, (side, side)) for side in (5, 9))

    coarse, fine = run(jax.random.key(0))
    np.testing.assert_allclose(fine[::2, ::2], coarse, atol=1e-5)


def test_slow_networks_are_taught_to_resemble_each_other():
    """As the sum of squares, channel by channel, that the authors' code has."""
    rng = np.random.default_rng(0)
    kernels = [rng.normal(size=(2, 3, width)) for width in (1, 2, 6)]
    expected = 0.0
    for j, deeper in enumerate(kernels):
        for shallower in kernels[:j]:
            width, count = shallower.shape[-1], deeper.shape[-1]
            pairs = [(deeper[..., c], shallower[..., c % width]) for c in range(count)]
            expected += np.mean([np.square(own - other) for own, other in pairs])
    found = slow_loss([jnp.asarray(kernel, jnp.float32) for kernel in kernels])
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"dims": (9,)}, "must be a multiple of the 3 channels"),
        ({"slow_layers": (1, 1)}, "must name as many blocks"),
        ({"earlier": ((2,),)}, "block 0 has no output"),
    ],
)
def test_mistakes(fields, told):
    model = create_model("terminator_cifar10", **{**TINY, **fields})
    with pytest.raises(UserError, match=told):
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 6, 6, 3)))


def test_the_local_operator_is_one_convolution_of_the_batch():
    """No loop over examples: the kernel of all of them is that of their mean."""
    branch = {"hidden": 4, "layers": 1}
    kernel = HyperKernel(3, (3, 3), batch_alone=True, **branch)
    x = jax.random.normal(jax.random.key(1), (2, 6, 6, 3))

    @jax.jit
    def run(key):
        variables = kernel.init(key, (3, 3), x)
        pooled = ops.adaptive_avg_pool2d(x, (3, 3)).mean(0)
        given = (x, x.mean(0, keepdims=True), pooled[None] * 2)
        return tuple(kernel.apply(variables, (3, 3), z) for z in given)

    whole, mean, twice = run(jax.random.key(0))
    np.testing.assert_allclose(whole, mean, atol=1e-5)
    assert not np.allclose(whole, twice, atol=1e-3)


def test_waves_start_by_a_gamma_law():
    """Uniform numbers times those of Gamma(alpha, 1): fourth moments too."""
    alpha = 1.5
    waves = gamma_waves(alpha, 0.5)(jax.random.key(0), (4, 20_000), jnp.float32)
    waves = np.asarray(waves, np.float64) / (np.pi / 2)
    second, fourth = alpha * (alpha + 1), alpha * (alpha + 1) * (alpha + 2) * (alpha + 3)
    np.testing.assert_allclose(np.mean(waves**2), second / 3, rtol=0.05)
    np.testing.assert_allclose(np.mean(waves**4), fourth / 5, rtol=0.2)
