"""Mixers weigh what the networks they come from need, counted with all that stands around them.

These networks are not registered: their stems, norms, gate units and heads are numbers here, the
mixers are counted from their parameters.
"""

import itertools

import jax
import jax.numpy as jnp

from scanmax.models.mixers import create_mixer


def count(name, width, **options):
    """Parameters of a mixer for maps of 4 by 4."""
    mixer = create_mixer(name, heads=1, options=options)
    x = jax.ShapeDtypeStruct((1, 16, width), jnp.float32)
    params = jax.eval_shape(lambda key, x: mixer.init(key, x, (4, 4)), jax.random.key(0), x)
    return sum(leaf.size for leaf in jax.tree.leaves(params["params"]))


def conv(inputs, outputs, size):
    """A convolution with bias; a linear map at size 1."""
    return inputs * outputs * size**2 + outputs


def stages(widths, depths, mixers, around):
    """All blocks: the mixer of each stage and what `around(stage, width)` says of a block."""
    counted = zip(range(len(widths)), widths, depths, mixers)
    return sum(depth * (mixer + around(i, width)) for i, width, depth, mixer in counted)


def test_parcnetv2_tiny():
    widths, depths, taps = (64, 128, 320, 512), (3, 3, 12, 3), (111, 55, 27, 13)
    mixers = [count("oversized", c, global_size=size) for c, size in zip(widths, taps)]

    # Two norms without bias, the bifurcate gate unit, residual scales in the last two stages.
    def around(i, c):
        gate_unit = conv(c, 5 * c, 1) + 5 * c // 2 * c
        return 2 * c + gate_unit + (2 * c if i > 1 else 0)

    between = sum(c + conv(c, d, 3) for c, d in itertools.pairwise(widths))
    blocks = stages(widths, depths, mixers, around)
    assert conv(3, 64, 7) + 64 + between + blocks + 2 * 512 + conv(512, 1000, 1) == 24_935_144
