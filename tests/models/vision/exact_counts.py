"""Parameters of every published size, of which each run of equal blocks is traced once."""

import jax

from scanmax.models import create_model, list_models, model_info


def assert_every_size_has_its_exact_count(family: str) -> None:
    names = list_models(family=family)
    assert names, f"family {family!r} has no variants"
    for name in names:
        model, info = create_model(name, scan_layers=True), model_info(name)
        variables = jax.eval_shape(model.init, jax.random.key(0), info.example())
        counted = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
        assert counted == info.params, f"{name} has {counted:,} parameters"
