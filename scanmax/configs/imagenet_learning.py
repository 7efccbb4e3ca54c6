"""Ways of teaching a network on ImageNet-1k, at the settings that their authors released.

    python -m scanmax.train --config=imagenet_learning:dkd,resnet34.pth --workdir=bucket/dkd

What comes behind the config's name is the method, and behind it where the teacher's weights lie:
the workdir of a run, or a file of timm's, torchvision's or the authors' (two of "meal_v2", none of
the methods that need no teacher). "synthetic" behind them is a dry run of two steps of eight
made-up images:

    python -m scanmax.train --config=imagenet_learning:augmix,synthetic --workdir=DIR

| method | student, teacher | from | top-1 there |
| --- | --- | --- | --- |
| kd | ResNet-18, ResNet-34 | megvii-research/mdistiller configs/imagenet/r34_r18/kd.yaml | |
| dkd | the same | mdistiller configs/imagenet/r34_r18/dkd.yaml | |
| logit_standardization | the same | sunshangquan/logit-standardization-KD README.md | |
| dist | the same | hunto/DIST_KD README.md | 72.07 |
| ofa | ResNet-18, DeiT-Ti | Hao840/OFAKD configs/imagenet/cnn.yaml | |
| meal_v2 | ResNet-50, SENet-154 and ResNet-152 | szq0214/MEAL-V2 README.md | 80.67 |
| deit_distilled | DeiT-S with its token, a convolutional one | facebookresearch/deit | 81.2 |
| transmix | DeiT-S | Beckschen/TransMix configs/deit_s_transmix.yaml | |
| augmix | ResNet-50 | google-research/augmix imagenet.py | 77.53 after 180 epochs |

Where it differs: DIST's student begins at 0.1 for 256 images, which its README does not print; MEAL
V2's teachers are gluon's ResNet-152 v1s, whose deep stem resnet152s has, and the student starts
from weights of its own (config.model.weights); DeiT's teacher is a RegNetY-16GF, which is not here:
resnet152 stands for it. AugMix's chains are timm's, without the operations that it leaves out of
training.

Hardware: written for 8 accelerators. Time: 90 to 300 epochs; not run here.
Expected: the accuracies of the table, which their authors print.
"""

import dataclasses

from scanmax.errors import UserError, suggest
from scanmax.train.config import Config
from scanmax.train.recipes import config_of, dry_run
from scanmax.train.recipes.recipe import DEIT, TORCHVISION, Recipe

# mdistiller's solver of ImageNet.
_SOLVER = {**TORCHVISION, "epochs": 100, "batch": 512, "lr": 0.2}
_STAGES = tuple(f"stage{stage}_block_00/output" for stage in range(4))


@dataclasses.dataclass(frozen=True)
class Method:
    """A student's recipe and what it is held to.

    Attributes:
      student: registered name.
      recipe: how it is trained.
      teachers: registered names.
      terms: of the objective.
      weight: of the label's loss.
      objective: name of the objective.
      options: its options.
      views: policies of the views, where there are several.
    """

    student: str
    recipe: Recipe
    teachers: tuple[str, ...] = ()
    terms: tuple = ()
    weight: float = 1.0
    objective: str = "classification"
    options: dict = dataclasses.field(default_factory=dict)
    views: tuple = ()


def _resnet18(source: str, terms: tuple, *, weight: float = 1.0, **solver) -> Method:
    recipe = Recipe(source, {"resnet18": (0.0, None)}, **{**_SOLVER, **solver})
    return Method("resnet18", recipe, ("resnet34",), terms, weight)


METHODS = {
    "kd": _resnet18(
        "megvii-research/mdistiller", (("kd", {"temperature": 1.0, "weight": 0.5}),), weight=0.5
    ),
    "dkd": _resnet18(
        "megvii-research/mdistiller",
        (("dkd", {"alpha": 1.0, "beta": 0.5, "temperature": 1.0}),),
    ),
    "logit_standardization": _resnet18(
        "sunshangquan/logit-standardization-KD",
        (("kd", {"temperature": 2.0, "standardize": True, "weight": 9.0}),),
        weight=0.1,
    ),
    "dist": _resnet18(
        "hunto/DIST_KD",
        (("dist", {"beta": 1.0, "gamma": 1.0, "temperature": 1.0}),),
        batch=256,
        lr=0.1,
    ),
    "ofa": Method(
        "resnet18",
        Recipe(
            "Hao840/OFAKD",
            {"resnet18": (0.0, None)},
            **{**_SOLVER, "lr": 0.1, "warmup": 3, "smoothing": 0.1, "min_lr": 1e-6},
        ),
        ("deit_tiny_patch16_224",),
        (
            ("kd", {"temperature": 1.0}),
            ("ofa", {"taps": _STAGES, "gamma": 1.5, "form": "released"}),
        ),
    ),
    "meal_v2": Method(
        "resnet50",
        Recipe(
            "szq0214/MEAL-V2",
            {"resnet50": (0.0, 80.67)},
            **{
                **_SOLVER,
                "epochs": 180,
                "lr": 0.01,
                "weight_decay": 0.0,
                "every": "100 epochs",
            },
        ),
        ("senet154", "resnet152s"),
        (
            ("kd", {"teacher": (0, 1), "temperature": 1.0}),
            ("discriminator", {"teacher": (0, 1)}),
        ),
        weight=0.0,
    ),
    "deit_distilled": Method(
        "deit_small_distilled_patch16_224",
        Recipe("facebookresearch/deit", {"deit_small_distilled_patch16_224": (0.1, 81.2)}, **DEIT),
        ("resnet152",),
        (("hard", {"weight": 0.5}),),
        weight=0.5,
    ),
    "transmix": Method(
        "deit_small_patch16_224",
        Recipe(
            "Beckschen/TransMix",
            {"deit_small_patch16_224": (0.1, None)},
            batch=256,
            warmup=20,
            weight_decay=0.03,
            ema=0.99996,
        ),
        options={"relabel": "transmix"},
    ),
    "augmix": Method(
        "resnet50",
        Recipe(
            "google-research/augmix",
            {"resnet50": (0.0, None)},
            lr=0.1,
            **{**TORCHVISION, "warmup": 5},
        ),
        objective="augmix",
        options={"consistency": 12.0},
        views=({}, *({"auto_augment": "augmix-m3-w3"},) * 2),
    ),
}


def get_config(arg: str = "") -> Config:
    """The config of a method; `arg` is its name, its teachers' weights, "synthetic" or nothing."""
    name, *weights = (arg or "dkd,resnet34.pth").split(",")
    if name not in METHODS:
        raise UserError(f"imagenet_learning:{name}: {suggest(name, METHODS)}")
    method = METHODS[name]
    dry = weights[-1:] == ["synthetic"]
    weights = weights[:-1] if dry else weights
    if len(weights) != len(method.teachers):
        asked = ", ".join(method.teachers) or "nobody"
        raise UserError(
            f"imagenet_learning:{name} is taught by {asked}: behind the name stand as many weights "
            f"(a run's workdir, or a file) as teachers, {len(method.teachers)}, not {len(weights)}"
        )
    config = config_of(method.recipe, method.student)
    config.objective = dataclasses.replace(
        config.objective,
        name=method.objective,
        kwargs=dict(method.options),
        terms=method.terms,
        teachers=tuple(
            (teacher, {"weights": file}) for teacher, file in zip(method.teachers, weights)
        ),
        weight=method.weight,
    )
    if method.views:
        config.data.augment = dataclasses.replace(
            config.data.augment, views=len(method.views), view_policies=method.views
        )
    return dry_run(config) if dry else config
