"""docs/recipes.md: how each network was trained on ImageNet, from scanmax.train.recipes.

python docs/make_recipes.py > docs/recipes.md
"""

from scanmax.train.recipes import RECIPES
from scanmax.train.recipes.recipe import Recipe

HEAD = """# Recipes for ImageNet

The released training recipes of {models} networks, as configs of the trainer. A dry run of two
steps on made-up images needs no data.

```sh
python -m scanmax.train --config=imagenet:swin_tiny_patch4_window7_224,synthetic --workdir=runs/dry
python -m scanmax.data prepare imagenet2012
python -m scanmax.train --config=imagenet:swin_tiny_patch4_window7_224 --workdir=runs/swin
```

Top-1 is what the authors print for their own training; nothing of this was trained here. A rate
grows linearly through the warm-up and then follows the schedule down to the last rate. `python -m
scanmax.train --config=imagenet:NAME --help_config` prints every field, and any of them is set by
typing it. Written by `make docs`.
"""
COLUMNS = (
    "| models: stochastic depth, top-1 | run | rate | decay | images | from. What it does besides |"
)


def _number(value: float) -> str:
    return f"{value:g}"


def _row(recipe: Recipe) -> str:
    models = "<br>".join(
        f"`{name}`: "
        + ", ".join(("-" if rate is None else _number(rate), "-" if top is None else f"{top:g}%"))
        for name, (rate, top) in recipe.models.items()
    )
    run = [f"{recipe.epochs} epochs, {recipe.warmup} of them warm-up", f"{recipe.batch} a step"]
    if recipe.repeats > 1:
        run.append(f"each image {recipe.repeats} times")
    if recipe.ema:
        run.append(f"average {_number(recipe.ema)}")
    rate = [recipe.optimizer, f"{_number(recipe.lr)} to {_number(recipe.min_lr)}"]
    if recipe.every:
        rate.append(f"times {_number(recipe.factor)} every {recipe.every}")
    else:
        rate.append(recipe.schedule)
    if recipe.eps != 1e-8:
        rate.append(f"eps {_number(recipe.eps)}")
    if recipe.clip:
        rate.append(f"clipped at {_number(recipe.clip)}")
    images = [
        f"mixup {_number(recipe.mixup)}, cutmix {_number(recipe.cutmix)}"
        if recipe.mixup or recipe.cutmix
        else "not mixed",
        recipe.augment and f"`{recipe.augment}`",
        recipe.erase and f"erasing {_number(recipe.erase)}",
        recipe.dropout and f"dropout {_number(recipe.dropout)}",
        recipe.smoothing and f"smoothing {_number(recipe.smoothing)}",
        recipe.loss != Recipe.loss and recipe.loss,
        recipe.image_size and f"{recipe.image_size} pixels",
    ]
    source = recipe.source + (f". {recipe.note}" if recipe.note else "")
    cells = (models, *(", ".join(filter(None, part)) for part in (run, rate)))
    return (
        "| "
        + " | ".join(
            (*cells, _number(recipe.weight_decay), ", ".join(filter(None, images)), source)
        )
        + " |"
    )


def page() -> str:
    """The page: a row for each recipe."""
    models = sum(len(recipe.models) for recipe in RECIPES)
    rows = "\n".join(_row(recipe) for recipe in RECIPES)
    return f"{HEAD.format(models=models)}\n{COLUMNS}\n{'| --- ' * 6}|\n{rows}\n"


if __name__ == "__main__":
    print(page(), end="")
