"""How the networks of images were trained on ImageNet-1k, by their authors' released commands.

`python -m scanmax.train --config=imagenet:NAME` runs them, docs/recipes.md lists them. A recipe
says what differs from DeiT's, which most of them started from. Read in the repositories named;
where a release prints a top-1 accuracy, it is kept beside the model's name.
"""

from scanmax.data.config import AugmentConfig, DataConfig
from scanmax.errors import UserError, suggest
from scanmax.models import model_info
from scanmax.train.config import (
    CheckpointConfig,
    Config,
    EmaConfig,
    ModelConfig,
    ObjectiveConfig,
    OptimConfig,
    ScheduleConfig,
)
from scanmax.train.recipes import attention, convolution
from scanmax.train.recipes.recipe import Recipe

RECIPES: tuple[Recipe, ...] = attention.RECIPES + convolution.RECIPES


def find_recipe(name: str) -> Recipe:
    """The recipe by which a model was trained.

    Raises:
      UserError: none is written down; the message names near matches.

    Example:
      >>> recipe = find_recipe("swin_tiny_patch4_window7_224")
      >>> recipe.clip, recipe.models["swin_tiny_patch4_window7_224"]
      (5.0, (0.2, 81.2))
    """
    names = [known for recipe in RECIPES for known in recipe.models]
    for recipe in RECIPES:
        if name in recipe.models:
            return recipe
    raise UserError(
        f"no recipe for {name!r} on ImageNet is written down (scanmax.train.recipes); "
        f"{suggest(name, names)}"
    )


def recipe_config(name: str) -> Config:
    """The config of the recipe that is written down for a model.

    Raises:
      UserError: no recipe is written down for it.
    """
    return config_of(find_recipe(name), name)


def config_of(recipe: Recipe, name: str) -> Config:
    """The config by which a recipe trains one of its models, in bfloat16 on TFDS's images."""
    drop_path, _ = recipe.models[name]
    fields = {} if drop_path is None else {"drop_path_rate": drop_path}
    if recipe.dropout:
        fields["dropout_rate"] = recipe.dropout
    size = recipe.image_size or model_info(name).input_size[0]
    return Config(
        model=ModelConfig(
            name=name,
            dtype="bfloat16",
            kwargs=fields,
        ),
        data=DataConfig(
            name="imagenet2012",
            image_size=size,
            eval_crop=recipe.eval_crop,
            workers=16,
            # Of each worker, which then holds three batches at most.
            threads=1,
            augment=AugmentConfig(
                crop_area=(0.08, 1.0),
                flip=0.5,
                randaugment=recipe.augment,
                erase=recipe.erase,
                mixup=recipe.mixup,
                cutmix=recipe.cutmix,
                repeats=recipe.repeats,
            ),
        ),
        objective=ObjectiveConfig(loss=recipe.loss, label_smoothing=recipe.smoothing),
        optim=OptimConfig(
            name=recipe.optimizer,
            lr=recipe.lr,
            eps=recipe.eps,
            weight_decay=recipe.weight_decay,
            clip_norm=recipe.clip,
        ),
        schedule=ScheduleConfig(
            name=recipe.schedule,
            warmup=f"{recipe.warmup} epochs" if recipe.warmup else "0 steps",
            final=recipe.min_lr / recipe.lr,
            **({"step": recipe.every, "factor": recipe.factor} if recipe.every else {}),
        ),
        ema=EmaConfig(decay=recipe.ema),
        checkpoint=CheckpointConfig(every="5 epochs", metric="accuracy", mode="max"),
        batch_size=recipe.batch,
        duration=f"{recipe.epochs} epochs",
        log_every="50 steps",
        eval_every="5 epochs",
    )


def dry_run(config: Config) -> Config:
    """The same config for two small steps on made-up images: that it runs, without the data."""
    size = config.data.image_size
    config.data.name, config.data.workers, config.data.threads = "synthetic", 0, 2
    config.data.kwargs = {"classes": 1000, "examples": 64, "eval_examples": 8, "size": size}
    config.model.dtype = "float32"
    config.batch_size, config.duration = 8, "2 steps"
    config.schedule.warmup = "1 step"
    config.log_every = config.eval_every = config.checkpoint.every = "1 step"
    return config
