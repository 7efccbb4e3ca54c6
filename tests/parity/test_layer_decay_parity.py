"""Rates by depth against timm's groups of parameters, each parameter by its name there."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

import scanmax
from scanmax.train.layer_decay import layer_factors
from scanmax.train.optim import param_path


@pytest.mark.parity
@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "xcit_nano_12_p16_224"])
def test_every_parameter_has_the_rate_of_timm(name, peers, tmp_path):
    timm = peers.timm
    from timm.optim import param_groups_layer_decay

    peer = timm.create_model(name)
    model = scanmax.create_model(name)
    shapes = jax.eval_shape(model.init, jax.random.key(0), scanmax.model_info(name).example())
    shapes = nn.unbox(shapes)
    paths = [param_path(path) for path, _ in jax.tree_util.tree_leaves_with_path(shapes["params"])]
    factors = layer_factors(0.5, dict.fromkeys(paths, 1))
    # Every parameter is filled with its factor and goes by timm's names through a file.
    params = jax.tree_util.tree_map_with_path(
        lambda path, leaf: jnp.full(leaf.shape, factors[param_path(path)][0]), shapes["params"]
    )
    rest = {key: tree for key, tree in shapes.items() if key != "params"}
    rest = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), rest)
    file = tmp_path / "factors.safetensors"
    scanmax.save_weights({"params": params, **rest}, file, model=model, like=peer.state_dict())
    told = load_file(file)
    names = {id(parameter): key for key, parameter in peer.named_parameters()}
    for group in param_groups_layer_decay(peer, layer_decay=0.5):
        for parameter in group["params"]:
            key = names[id(parameter)]
            np.testing.assert_allclose(told[key].mean(), group["lr_scale"], rtol=1e-5, err_msg=key)
