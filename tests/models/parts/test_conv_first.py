"""ConvFirst and MBConv against their equations, and their costs by hand and as XLA counts them."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import seeded

from scanmax.errors import UserError
from scanmax.models import roofline
from scanmax.models.analysis import count_multiply_adds
from scanmax.models.parts.conv_first import ConvFirst, MbConv
from scanmax.ops import reference
from scanmax.testing.model_suite import COMPILER_OPTIONS

FIELDS = {"group_width": 2, "expansion": 3}
# A GPU of 2020: half precision by tensor cores, and its memory.
DEVICE = {"peak": 142e12, "bandwidth": 936e9}


def layer(variables, name, x, groups=1, bend=True, **options):
    """Convolution, norm by the running averages, SiLU, in float64."""
    params, stats = variables["params"][name], variables["batch_stats"][name]["norm"]
    y = np.asarray(reference.conv2d(x, params["conv"]["kernel"], groups=groups, **options))
    y = (y - stats["mean"]) / np.sqrt(stats["variance"] + 1e-5)
    y = y * params["norm"]["scale"] + params["norm"]["bias"]
    return y / (1 + np.exp(-y)) if bend else y


@pytest.mark.parametrize("kind", [ConvFirst, MbConv])
@pytest.mark.parametrize(("features", "stride"), [(4, 1), (4, 2), (6, 1)])
def test_blocks_are_their_equations(kind, features, stride):
    module = kind(features, stride=stride, **FIELDS)
    variables = seeded.seeded_variables(module, (5, 4, 4))
    x = np.random.default_rng(0).normal(size=(2, 5, 4, 4)).astype(np.float32)
    conv = functools.partial(layer, variables, "conv", stride=stride, padding=((1, 1), (1, 1)))
    with jax.enable_x64(True):
        exact = x.astype(np.float64)
        if kind is ConvFirst:
            wide = layer(variables, "expand", conv(exact, groups=2, bend=False))
        else:
            wide = conv(layer(variables, "expand", exact), groups=6)
        expected = layer(variables, "project", wide, bend=False)
    expected = expected + (exact if (features, stride) == (4, 1) else 0)
    actual = jax.jit(module.apply, compiler_options=COMPILER_OPTIONS)(variables, x)
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)


def costs(kind, shape, group_width, expansion):
    """Of the three layers of a block, as kernels of their own."""
    dim, wide = shape[-1], expansion * shape[-1]
    on = (*shape[:-1], wide)
    pixelwise = {
        "expand": roofline.conv_cost(shape, wide, name="expand"),
        "project": roofline.conv_cost(on, dim, name="project"),
    }
    at, width = (shape, dim) if kind is ConvFirst else (on, wide)
    conv = roofline.conv_cost(at, width, kernel_size=3, groups=width // group_width, name="conv")
    expand, project = pixelwise["expand"], pixelwise["project"]
    return [conv, expand, project] if kind is ConvFirst else [expand, conv, project]


@pytest.mark.parametrize("kind", [ConvFirst, MbConv])
def test_costs_are_the_blocks(kind):
    shape = (2, 8, 6, 16)
    module = kind(16, group_width=8, expansion=4)
    example = jax.ShapeDtypeStruct(shape, jnp.float32)
    parts = costs(kind, shape, 8, 4)
    assert sum(part.multiply_adds for part in parts) == count_multiply_adds(module, example)
    shapes = nn.unbox(jax.eval_shape(module.init, jax.random.key(0), example))["params"]
    kernels = sum(shapes[part.name]["conv"]["kernel"].size for part in parts)
    assert sum(part.weights for part in parts) == 2 * kernels
    whole = roofline.fused(parts)
    assert whole.multiply_adds == sum(part.multiply_adds for part in parts)
    assert (whole.read, whole.written) == (2 * 2 * 8 * 6 * 16,) * 2


def test_the_more_channels_meet_the_more_operations_a_byte():
    shape = (32, 64, 64, 64)
    intensity = {
        width: roofline.operational_intensity(
            roofline.conv_cost(shape, 64, kernel_size=3, groups=64 // width)
        )
        for width in (1, 8, 64)
    }
    # Per number 9 width multiply-adds, and one read and one written; weights are next to nothing.
    for width, value in intensity.items():
        assert value == pytest.approx(2 * 9 * width / 4, rel=3e-3)
    ridge = DEVICE["peak"] / DEVICE["bandwidth"]
    assert intensity[1] < intensity[8] < ridge < intensity[64]


def test_a_fused_block_rises_above_the_waterline():
    parts = costs(ConvFirst, (32, 64, 64, 64), 8, 6)
    apart = roofline.waterline(parts, **DEVICE)
    together = roofline.waterline([roofline.fused(parts)], **DEVICE)
    assert apart.bounds == ("memory",) * 3
    assert together.bounds == ("compute",)
    assert together.efficiency == 1
    assert apart.total == pytest.approx(sum(part.bytes for part in parts) / DEVICE["bandwidth"])
    # A pixel and channel: 16 numbers of 2 bytes, against 840 multiply-adds, which hide 2 numbers.
    expected = (32 / DEVICE["bandwidth"]) / (2 * 840 / DEVICE["peak"])
    assert apart.total / together.total == pytest.approx(expected, rel=1e-3)
    assert expected > 2.8


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: roofline.fused([]), "nothing to fuse"),
        (
            lambda: roofline.fused(
                [roofline.conv_cost((1, 4, 4, 8), 8)] * 2
                + [roofline.conv_cost((1, 4, 4, 4), 8, name="narrow")]
            ),
            "narrow reads 128 bytes, conv before it writes 256",
        ),
        (lambda: roofline.conv_cost((1, 4, 4, 8), 8, groups=3), "groups=3 do not divide"),
        (lambda: roofline.waterline([], peak=1, bandwidth=1), "0 costs"),
        (
            lambda: jax.eval_shape(ConvFirst(12).init, jax.random.key(0), jnp.zeros((1, 4, 4, 12))),
            "group_width=8 does not divide 12",
        ),
    ],
)
def test_what_does_not_fit_together_is_refused(call, told):
    with pytest.raises(UserError, match=told):
        call()
