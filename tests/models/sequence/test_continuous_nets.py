"""CKCNN, FlexNet and CCNN: the registry's checks, and what generated kernels promise."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.linen import unbox

from scanmax.errors import UserError
from scanmax.models import create_model
from scanmax.models.mixers import create_mixer
from scanmax.models.parts.kernels import (
    GaussianMask,
    ImplicitFilter,
    SampledKernel,
    centred_coordinates,
)
from scanmax.models.sequence.continuous_net import KernelConv
from scanmax.testing import ModelCase, ModelSuite
from scanmax.testing.model_suite import COMPILER_OPTIONS

SMALL = {"dims": (4, 6), "num_classes": 3}


def fast(function):
    return jax.jit(function, compiler_options=COMPILER_OPTIONS)


def kernel(generator, **fields):
    return {"generator": generator, "generator_options": {"hidden": 4, **fields}}


class CkcnnSuite(ModelSuite):
    family = "ckcnn"
    small = (
        ModelCase(
            "ckcnn_98k",
            {**SMALL, "kernel": kernel("siren", omega=3.0, weight_norm=False)},
            input_size=(4, 4, 1),
            other_inputs=((3, 5, 1),),
        ),
    )


class FlexNetSuite(ModelSuite):
    family = "flexnet"
    small = (
        ModelCase(
            "flexnet_16",
            {
                **SMALL,
                "stem_dim": 4,
                "kernel_size": 5,
                "kernel": {
                    **kernel("magnet", omega=1.0),
                    "mask": True,
                    "mask_options": {"sigma": 1.0, "threshold": 0.0},
                },
            },
            input_size=(5, 4, 2),
            other_inputs=((3, 6, 2),),
        ),
    )


class CcnnSuite(ModelSuite):
    family = "ccnn"
    small = (
        ModelCase(
            "ccnn_4_140_smnist",
            {
                **SMALL,
                "kernel": {
                    **kernel("magnet", omega=1.0, init="ccnn"),
                    "mask": True,
                    "mask_options": {"sigma": 1.0, "threshold": 0.0},
                },
            },
            input_size=(4, 4, 1),
            other_inputs=((3, 5, 1),),
        ),
    )


def test_volumes_take_the_same_layer():
    x = jnp.ones((1, 3, 4, 2, 2))
    conv = KernelConv(3, separable=True, kernel={"generator": "magnet"})
    y, _ = jax.eval_shape(conv.init_with_output, jax.random.key(0), x)
    assert y.shape == (1, 3, 4, 2, 3)


def test_permuted_pixels_are_read_in_another_order():
    images = jnp.asarray(np.random.default_rng(0).normal(size=(1, 4, 4, 1)), jnp.float32)
    fields = {**SMALL, "kernel": kernel("siren", omega=3.0)}
    plain, permuted = (create_model("ckcnn_98k", permuted=p, **fields) for p in (False, True))
    variables = fast(plain.init)(jax.random.key(0), images)
    order = np.random.default_rng(0).permutation(16)
    moved = images.reshape(1, 16, 1)[:, order].reshape(images.shape)
    np.testing.assert_allclose(
        fast(permuted.apply)(variables, images), fast(plain.apply)(variables, moved), rtol=1e-5
    )


def test_weight_norm_starts_at_the_norm_of_its_weights():
    module = SampledKernel(3, generator_options={"hidden": 4})
    places = centred_coordinates((5,), None)
    variables = fast(lambda key: module.init(key, *places))(jax.random.key(0))
    params = unbox(variables)["params"]["siren"]
    for layer in range(3):
        norms = np.linalg.norm(params[f"kernel{layer}"], axis=0)
        np.testing.assert_allclose(params[f"length{layer}"], norms, rtol=1e-5)


def test_generated_kernels_keep_the_variance():
    x = jax.random.normal(jax.random.key(0), (8, 24, 24, 16))
    for generator in ("siren", "magnet"):
        conv = KernelConv(16, kernel={"generator": generator})
        y, _ = fast(conv.init_with_output)(jax.random.key(1), x)
        assert 0.05 < float(y[:, 8:16, 8:16].std()) < 3


def test_frequencies_beyond_nyquist_are_punished():
    x = jax.random.normal(jax.random.key(0), (1, 6, 6, 2))
    low, high = (
        KernelConv(2, kernel_size=9, kernel={**kernel("magnet", omega=w), "nyquist": 0.5})
        for w in (1e-3, 100.0)
    )
    sown = [
        fast(lambda key, conv=conv: conv.init_with_output(key, x, mutable=True)[1]["losses"])(
            jax.random.key(1)
        )
        for conv in (low, high)
    ]
    low, high = (float(jax.tree.leaves(losses)[0]) for losses in sown)
    assert high > 100 * max(low, 1.0)
    with pytest.raises(UserError, match="only generator='magnet'"):
        KernelConv(2, kernel={"nyquist": 1.0}).init(jax.random.key(0), x)
    with pytest.raises(UserError, match="generator='sirens'"):
        KernelConv(2, kernel={"generator": "sirens"}).init(jax.random.key(0), x)


def test_a_kernel_is_the_same_function_at_twice_the_resolution():
    coarse = SampledKernel(2, generator_options={"hidden": 8, "omega": 2.0})
    fine = coarse.clone(resolution=2.0)
    places, twice = centred_coordinates((20, 20), 9), centred_coordinates((40, 40), 9, 2.0)
    assert places[1] == (9, 9)
    assert twice[1] == (17, 17)

    @fast
    def both(key):
        variables = coarse.init(key, *places)
        return coarse.apply(variables, *places), fine.apply(variables, *twice)

    expected, actual = both(jax.random.key(0))
    np.testing.assert_allclose(
        4 * actual[::2, ::2],
        expected,
        rtol=1e-4,
        atol=1e-6,
    )


def test_both_directions_of_a_channel_decay_alike():
    """Rates run over the channels once: the past is not slow where the future is fast."""
    with jax.enable_x64(True):
        dtypes = {"dtype": jnp.float64, "param_dtype": jnp.float64}
        both = ImplicitFilter(6, 2, hidden=4, **dtypes)
        variables = unbox(fast(lambda key: both.init(key, 5))(jax.random.key(0)))
        kernel = variables["params"]["out"]["kernel"]
        variables["params"]["out"]["kernel"] = jnp.concatenate([kernel[:, :3]] * 2, 1)
        y = fast(lambda variables: both.apply(variables, 5))(variables)
        np.testing.assert_array_equal(y[:, :3], y[:, 3:])
        variables["params"]["out"]["kernel"] = kernel[:, :3]
        one = ImplicitFilter(3, hidden=4, **dtypes)
        np.testing.assert_allclose(y[:, :3], fast(lambda v: one.apply(v, 5))(variables))
    for name in ("hyena", "base_conv"):
        mixer = create_mixer(name, heads=1)
        x = jnp.ones((1, 4, 3))
        found = []

        def note(function, args, kwargs, context, found=found):
            if isinstance(context.module, ImplicitFilter):
                found.append(context.module.ways)
            return function(*args, **kwargs)

        with nn.intercept_methods(note):
            jax.eval_shape(mixer.init, jax.random.key(0), x)
        assert found == [2], name


def test_a_mask_of_moved_mean_is_cropped_as_released():
    x = np.linspace(-1, 1, 9)[:, None]
    reach = 0.2 * np.sqrt(-2 * np.log(0.1))  # 0.429

    def mask(mean, **fields):
        module = GaussianMask(0.2, mean, learn_mean=False, dtype=jnp.float64, **fields)
        variables = {"params": {"sigma": jnp.array([0.2])}}
        return np.asarray(module.apply(variables, jnp.asarray(x))[0][:, 0])

    with jax.enable_x64(True):
        for mean in (0.0, 0.3):
            whole = np.exp(-0.5 * ((x[:, 0] - mean) / 0.2) ** 2)
            near, centred = np.abs(x[:, 0] - mean) <= reach, np.abs(x[:, 0]) < mean + reach
            for crop, kept in (("released", centred), ("threshold", near)):
                np.testing.assert_allclose(
                    mask(mean, crop=crop), np.where(kept, whole, 0), rtol=1e-12
                )
            assert (near == centred).all() == (mean == 0)
        # causal: only what lies before the first factor above the threshold goes
        whole = np.exp(-0.5 * ((x[:, 0] - 0.3) / 0.2) ** 2)
        causal = np.where(x[:, 0] > 0.3 - reach, whole, 0)
        np.testing.assert_allclose(mask(0.3, is_causal=True), causal, rtol=1e-12)
        # a kernel whose mask reaches beyond it is whole
        assert mask(0.7).all()
        assert mask(0.3, threshold=0.0).all()
    with pytest.raises(UserError, match="crop='paper' is not one of released, threshold"):
        mask(0.0, crop="paper")


@pytest.mark.parametrize("starts", [(0,), (0, 4, 5)])
def test_one_channel_of_hyena_is_its_matrix(starts):
    mixer = create_mixer("hyena", heads=3, is_causal=True, options={"filter_hidden": 4})
    x = jax.random.normal(jax.random.key(0), (2, 9, 3))
    variables = fast(mixer.init)(jax.random.key(1), x)
    ids = jnp.searchsorted(jnp.array(starts), jnp.arange(9), side="right")
    ids = None if len(starts) == 1 else jnp.broadcast_to(ids, (2, 9))

    @fast
    def run(variables):
        return mixer.apply(variables, x, segment_ids=ids, mutable=["intermediates"])

    y, state = run(variables)
    matrix = state["intermediates"]["attention"][0]
    params = jax.tree.map(np.asarray, unbox(variables)["params"])
    x, matrix = np.asarray(x), np.asarray(matrix)
    qkv = x @ params["in_proj"]["kernel"] + params["in_proj"]["bias"]
    filtered = []
    for first, end in zip(starts, (*starts[1:], 9)):
        padded = np.pad(qkv[:, first:end], ((0, 0), (2, 0), (0, 0)))
        taps = params["conv_kernel"]
        filtered.append(sum(padded[:, w : w + end - first] * taps[w] for w in range(3)))
    qkv = np.concatenate(filtered, 1)
    value = (qkv + params["conv_bias"])[..., 6:]
    mixed = np.einsum("bhts,bsh->bth", matrix, value)
    expected = mixed @ params["out_proj"]["kernel"] + params["out_proj"]["bias"]
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)
