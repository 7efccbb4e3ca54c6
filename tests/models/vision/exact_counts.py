"""Parameters of every published size, of which each run of equal blocks is traced once."""

from collections.abc import Sequence

import jax

from scanmax.models import create_model, list_models, model_info


def assert_every_size_has_its_exact_count(family: str, whole: Sequence[str]) -> None:
    """Of every size but those that the suite traces as a whole, and counts."""
    names = list_models(family=family)
    assert set(whole) <= set(names), f"{whole} are not of the family {family!r}"
    for name in sorted(set(names) - set(whole)):
        model, info = create_model(name, scan_layers=True), model_info(name)
        variables = jax.eval_shape(model.init, jax.random.key(0), info.example())
        counted = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
        assert counted == info.params, f"{name} has {counted:,} parameters"
