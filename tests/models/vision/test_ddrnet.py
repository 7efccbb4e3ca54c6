"""DDRNet: the suite of every model, published costs, and branches that hear each other."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scanmax.errors import UserError
from scanmax.models import create_model, model_info
from scanmax.testing import ModelCase, ModelSuite
from scanmax.testing.model_suite import COMPILER_OPTIONS

TINY = {
    "dim": 2,
    "depths": (1, 2),
    "strides": (2,),
    "coarse_depths": (1,),
    "fine_depths": (2,),
    "last_dim": 6,
    "num_classes": 5,
}


class DdrnetSuite(ModelSuite):
    family = "ddrnet"
    traces_scanned = False
    small = (
        ModelCase("ddrnet23", TINY, input_size=(32, 32, 3), other_inputs=((33, 50, 3), (16, 8, 3))),
    )
    # A norm takes away what a bias before it adds to the whole batch.
    vanishing = r"stem\d/conv/bias"


@pytest.mark.parametrize(
    ("name", "params"),
    [("ddrnet23_slim", 7_574_664), ("ddrnet23", 28_216_616), ("ddrnet39", 40_130_344)],
)
def test_parameters_are_those_of_the_authors_modules(name, params):
    """What the paper says of their cost could not be settled, and is not compared."""
    assert model_info(name).params == params


def test_either_branch_hears_the_other():
    """A fine pixel changes with one far away through the coarse branch alone."""
    fields = {**TINY, "coarse_depths": (3,), "num_classes": 0}
    model = create_model("ddrnet23", **fields)
    images = jnp.zeros((1, 96, 96, 3))
    jit = functools.partial(jax.jit, compiler_options=COMPILER_OPTIONS)
    variables = nn.unbox(jit(model.init)(jax.random.key(0), images))

    @jit
    def seen(variables):
        def corner(images):
            return jnp.sum(model.apply(variables, images, method="features")[1][0, 0, 0])

        return jax.grad(corner)(jax.random.normal(jax.random.key(1), images.shape))

    reach = [np.max(np.nonzero(seen(variables)[0])[0])]
    params = dict(variables["params"])
    params["enlarge0"] = jax.tree.map(jnp.zeros_like, params["enlarge0"])
    reach.append(np.max(np.nonzero(seen({**variables, "params": params})[0])[0]))
    assert reach[0] > reach[1] + 8


def test_steps_must_be_told_alike():
    model = create_model("ddrnet23", fine_depths=(2,))
    with pytest.raises(UserError, match="as many steps each"):
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
