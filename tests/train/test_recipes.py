"""Released recipes: each is a config that can run; steps trace on networks made small."""

import jax
import pytest

from scanmax.errors import UserError
from scanmax.fields import check_fields
from scanmax.models import model_info
from scanmax.models.shrink import shrink
from scanmax.train.build import build
from scanmax.train.config import check_config, resolve_durations
from scanmax.train.recipes import RECIPES, dry_run, find_recipe, recipe_config

# Of ImageNet-1k.
EXAMPLES = 1_281_167


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: next(iter(recipe.models)))
def test_its_config_can_run(recipe):
    for name, (drop_path, top1) in recipe.models.items():
        config = recipe_config(name)
        check_fields(config)
        check_config(config)
        durations = resolve_durations(config, EXAMPLES)
        epoch = EXAMPLES / recipe.batch
        assert durations.total == pytest.approx(recipe.epochs * epoch, abs=1)
        assert durations.warmup == pytest.approx(recipe.warmup * epoch, abs=1)
        if recipe.every:
            assert durations.step == pytest.approx(float(recipe.every.split()[0]) * epoch, abs=1)
        assert config.schedule.final * config.optim.lr == pytest.approx(recipe.min_lr)
        assert drop_path is None or 0 <= drop_path < 1
        assert top1 is None or 50 < top1 < 90
        assert config.data.image_size in (recipe.image_size, model_info(name).input_size[0])


def test_no_model_has_two():
    names = [name for recipe in RECIPES for name in recipe.models]
    assert len(names) == len(set(names))
    with pytest.raises(UserError, match="did you mean 'swin_tiny_patch4_window7_224'"):
        find_recipe("swin_tiny_patch4_window_224")


# Optimizers, schedules and losses that DeiT's has not.
@pytest.mark.parametrize("name", ["efficientnet_b2", "resnet50"])
def test_its_step_traces(name):
    config = dry_run(recipe_config(name))
    fields, size = shrink(name)
    config.model.kwargs = {**config.model.kwargs, **fields}
    config.data.image_size = config.data.kwargs["size"] = size
    run = build(config)
    state, metrics = jax.eval_shape(run.train_step, run.shapes, run.pipeline.train_spec, ())
    assert jax.tree.structure(state) == jax.tree.structure(run.shapes)
    assert metrics["loss"].shape == ()
