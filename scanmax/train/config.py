"""The config of a run: a tree of dataclasses, and durations in steps, epochs, examples or percent.

A config file builds one in `get_config(arg="")`; the command line overrides any field,
`--config.optim.lr=3e-4`. Annotations here are real types: config_flags reads them.
"""

import dataclasses
import fractions
import re
from typing import Any

from scanmax.cli import to_dict
from scanmax.data.config import DataConfig
from scanmax.errors import UserError, suggest
from scanmax.fields import check_fields, choice, ranged
from scanmax.train.loggers import make_loggers


@dataclasses.dataclass
class ModelConfig:
    """The model of a run.

    Attributes:
      name: A registered model, as `python -m scanmax.models list` shows.
      num_classes: Width of the head or size of the vocabulary; 0 is what the data has. Objectives
        that read no labels train no head.
      dtype: Type of the computation, "float32" or "bfloat16"; parameters stay float32.
      remat: What the backward pass keeps: "none", "full" (recompute each block) or the name of a
        policy of jax.checkpoint_policies.
      weights: What a new run starts from: the workdir of a run, one of its checkpoints
        ("runs/x/checkpoints/100"), or what scanmax.load_weights takes; "" draws them.
      adapt: What may differ from there, any of "head", "positions", "input_channels",
        "mixer", "prompts", "adapters" and "smaller" (docs/weights.md).
      weights_from: Of a run, "ema" (its moving average), "params", or "auto": the average where it
        keeps one.
      kwargs: Further fields of the model, such as {"mixer": "ssd", "depth": 6}.
    """

    name: str = "deit_tiny_patch16_224"
    num_classes: int = ranged(0, "[0, inf)")
    dtype: str = choice("float32", ("float32", "bfloat16"))
    remat: str = "none"
    weights: str = ""
    adapt: tuple[str, ...] = ()
    weights_from: str = choice("auto", ("auto", "ema", "params"))
    kwargs: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass
class ObjectiveConfig:
    """What a run minimises; docs/adding_an_objective.md.

    Attributes:
      name: "classification", "cosine_classification" (by angles with a vector of each class),
        "text_classification", "language_model", "sequence_labels", "regression", "augmix" (a label
        and one answer for three views, config.data.augment.views=3), or, without labels, "simclr"
        or "byol" (two views), and "clip", "siglip" or "max_margin" (images and texts);
        "dual_head" and "shared_vectors" learn from a teacher who knows classes by captions.
      loss: A loss of classes by its name, such as "softmax_cross_entropy", "binary_cross_entropy"
        or "focal"; docs/learning.md lists them.
      loss_kwargs: Its options, such as {"gamma": 2.0}; any takes "counts" (training examples of
        each class), "beta" (weights of classes by their effective number) and "defer" (share of the
        run before these count).
      label_smoothing: Share of the target spread evenly over the classes.
      weight: Weight of the objective's own loss beside the terms.
      terms: Further losses, pairs of a name and its options such as ("kd", {"weight": 0.5}): "hard"
        (the teacher's decision is a label), "kd" (its distribution), "dkd" (the same, the label's
        class and the others apart), "dist" (correlations of classes and of examples), "hint"
        (activations), "attention_transfer" (where they are large), "rkd" (distances and angles of
        examples), "similarity" (their products), "nd_loss_kd" (norm and direction of the
        features); docs/learning.md lists all. Each takes "weight", "schedule" (of the weight, over
        the run) and "teacher", an index or several.
      teachers: Models to learn from, pairs of a registered name and its options: "weights" (the
        workdir of a run, or what scanmax.load_weights takes), "step" (of that run, "last" or
        "best"), "kwargs" (fields of the model), "mean" and "std" (its own normalisation of images),
        "image_size", "stored" (a file: what it says of each training example unchanged is written
        there by the first run, its "top" 10 classes, and read by all others), "towers" (of images
        and texts: its "text" and "dim", as the objective's, and "bias").
      kwargs: Options of the objective itself, such as {"temperature": 0.2} of "simclr",
        {"relabel": "transmix"} of "classification", whose labels of mixed images then follow the
        model's attention, or {"fused": False} of "language_model", which then makes all logits of a
        wide vocabulary.
    """

    name: str = "classification"
    loss: str = "softmax_cross_entropy"
    loss_kwargs: dict[str, Any] = dataclasses.field(default_factory=dict)
    label_smoothing: float = ranged(0.0, "[0, 1)")
    weight: float = ranged(1.0, "[0, inf)")
    terms: tuple[Any, ...] = ()
    teachers: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass
class OptimConfig:
    """The optimizer. Regular expressions are searched for in paths like "block_00/mlp/fc1/kernel".

    Attributes:
      name: "adamw", "adam", "sgd", "rmsprop", "lion", "lamb", "adafactor" or "muon", which leaves
        embeddings, heads and what is no matrix to adamw.
      lr: Peak learning rate.
      b1: Decay of the first moment.
      b2: Decay of the second moment.
      eps: Added to the denominator.
      momentum: Momentum of sgd and rmsprop.
      nesterov: Whether sgd looks ahead.
      weight_decay: Decoupled weight decay, multiplied by the learning rate; sgd, adam and rmsprop
        add it to the gradient instead.
      no_decay: Parameters left out of weight decay, besides all that is no weight: biases, norm
        scales, rates, tokens, tables of positions, in any shape.
      clip_norm: Largest global norm of the gradient; 0 does not clip.
      perp_grad: Whether each gradient is made orthogonal to its weights first, its norm kept.
      accumulate: Parts that a batch is cut into, their gradients summed before one update.
      lr_multipliers: Pairs (regular expression, factor); the first that matches counts.
      layer_decay: Factor of the rate from each layer to the one below it: heads learn at the rate,
        the last block at layer_decay times it, the stem least; 1 is one rate for all. Fine-tuning
        takes 0.65 to 0.9.
      freeze: Parameters that never change.
      nonfinite: What a loss or gradient that is not finite does: "stop" the run, or "skip" the
        update of that step.
      max_skips: Skipped updates in a row after which the run stops all the same.
      gradient: How a step comes by its gradient: "plain", "sam" or "unrolled".
      gradient_kwargs: Options of that rule, such as {"rho": 0.05} of "sam".
      carry: Whether a new run that starts from another (config.model.weights) takes its optimizer's
        moments too, all of them where all fit, else none; the schedule begins anew.
      kwargs: Further arguments of the optax function.
    """

    name: str = "adamw"
    lr: float = ranged(1e-3, "[0, inf)")
    b1: float = ranged(0.9, "[0, 1)")
    b2: float = ranged(0.999, "[0, 1)")
    eps: float = ranged(1e-8, "[0, inf)")
    momentum: float = ranged(0.9, "[0, 1)")
    nesterov: bool = False
    weight_decay: float = ranged(0.0, "[0, inf)")
    no_decay: tuple[str, ...] = (r"cls_token", r"dist_token", r"pos_embed")
    clip_norm: float = ranged(0.0, "[0, inf)")
    perp_grad: bool = False
    accumulate: int = ranged(1, "[1, inf)")
    lr_multipliers: tuple[tuple[str, float], ...] = ranged((), "[0, inf)")
    layer_decay: float = ranged(1.0, "(0, 1]")
    freeze: tuple[str, ...] = ()
    nonfinite: str = choice("stop", ("stop", "skip"))
    max_skips: int = ranged(10, "[1, inf)")
    gradient: str = "plain"
    gradient_kwargs: dict[str, Any] = dataclasses.field(default_factory=dict)
    carry: bool = False
    kwargs: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass
class ScheduleConfig:
    """The learning rate over the run.

    Attributes:
      name: "cosine", "linear", "constant", "step" (drops), "rsqrt" or "wsd" (warm-up, stable,
        decay).
      warmup: Duration of the linear warm-up.
      cooldown: Duration of the final linear decay of "wsd" and "rsqrt".
      final: Share of the peak rate that is left at the end, and the least share of "step".
      step: Duration between the drops of "step", counted from the start of the run.
      factor: What a drop multiplies the rate by.
    """

    name: str = "cosine"
    warmup: str = "5%"
    cooldown: str = "20%"
    final: float = ranged(0.0, "[0, 1]")
    step: str = "33.4%"
    factor: float = ranged(0.1, "(0, 1]")


@dataclasses.dataclass
class ShardingConfig:
    """The device mesh and what lies where; docs/sharding.md.

    Attributes:
      preset: "replicated", "fsdp", "fsdp_tp", "fsdp_context" or "fsdp_expert".
      data: Size of the data axis; -1 takes the devices that are left, 0 is the preset's default.
      fsdp: Size of the fsdp axis.
      expert: Size of the expert axis.
      tensor: Size of the tensor axis.
      context: Size of the context axis.
      min_size: Parameters with fewer elements stay replicated.
      rules: Pairs (logical axis, mesh axis), tried before the preset's own; "" replicates,
        "expert+tensor" splits over both.
      max_replicated: Share of the parameters that may stay replicated although the preset shards.
    """

    preset: str = "replicated"
    data: int = ranged(0, "[-1, inf)")
    fsdp: int = ranged(0, "[-1, inf)")
    expert: int = ranged(0, "[-1, inf)")
    tensor: int = ranged(0, "[-1, inf)")
    context: int = ranged(0, "[-1, inf)")
    min_size: int = ranged(4096, "[0, inf)")
    rules: tuple[tuple[str, str], ...] = ()
    max_replicated: float = ranged(0.1, "[0, 1]")


@dataclasses.dataclass
class EmaConfig:
    """An exponential moving average of the parameters, which evaluation then uses.

    Attributes:
      decay: Share of the average kept per step; 0 keeps no average.
      warmup: Whether the decay grows as (1 + step) / (10 + step) until it reaches `decay`.
    """

    decay: float = ranged(0.0, "[0, 1)")
    warmup: bool = False


@dataclasses.dataclass
class CheckpointConfig:
    """What is kept.

    Attributes:
      every: Duration between checkpoints; "" saves at the end only.
      keep: Newest checkpoints kept.
      keep_best: Best checkpoints kept besides, by the metric; 0 is none. With some, an evaluation
        better than all before saves as well.
      keep_every: Checkpoints at multiples of this duration are never removed; "" is none.
      metric: Metric of the held-out part that "best" means; "" is none, with keep_best=0.
      mode: "max" or "min"; "" is what the metric itself says, "max" of an accuracy.
    """

    every: str = "10%"
    keep: int = ranged(2, "[1, inf)")
    keep_best: int = ranged(1, "[0, inf)")
    keep_every: str = ""
    metric: str = "loss"
    mode: str = choice("", ("", "max", "min"))


@dataclasses.dataclass
class LogConfig:
    """Where a run tells its numbers beside `metrics.jsonl`, which holds every row.

    Attributes:
      to: Loggers, names or pairs of a name and its options: "tensorboard", "wandb" and "mlflow"
        (extras of these names), "jsonl" (always written), "module:Class" of one's own.
      report: Whether a run that ends writes `report.html` and its pictures.
    """

    to: tuple[Any, ...] = ("tensorboard",)
    report: bool = True


@dataclasses.dataclass
class Config:
    """A run. Durations are strings: "500" or "500 steps", "30 epochs", "1e6 examples", "5%".

    Attributes:
      mix: Mixing of examples on the device, pairs of a name and its options, in order: "mixup",
        "cutmix", "mixup_cutmix" (per "batch", "pair" or "element"), "attentive_cutmix", "cutout",
        "gridmix", "maskmix", "resizemix", "saliencymix", "smmix", "snapmix" or "tokenmix".
      transforms: Changes of the parameters before use, pairs of a name and its options, in order:
        ("fake_quantize", {"match": ("model/.*kernel",), "bits": 8}).
      evaluators: Evaluations beside the objective's own, pairs of a name and its options: "knn"
        (knn_accuracy: k, temperature) and "linear_probe" (probe_accuracy: C, max_iter; at the end)
        on pooled features, "zero_shot" (by captions of classes) and "retrieval" (recall among "k")
        of two towers, "calibration" (calibration_error: bins), "clustering" (clustering_accuracy,
        of memberships: candidates), "path_ablation" (accuracy without each path of a ViT),
        "sharpness"; the option "final" says whether at the end alone.
      seed: Seeds parameters, dropout and the order of the data.
      batch_size: Examples per step, over all devices.
      eval_batch_size: Examples per evaluation step; 0 is batch_size.
      duration: Length of the run.
      log_every: Duration between rows of training metrics.
      eval_every: Duration between evaluations; "" evaluates at the end only.
      prefetch: Batches kept ready on the devices.
    """

    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    objective: ObjectiveConfig = dataclasses.field(default_factory=ObjectiveConfig)
    mix: tuple[Any, ...] = ()
    transforms: tuple[Any, ...] = ()
    evaluators: tuple[Any, ...] = ()
    optim: OptimConfig = dataclasses.field(default_factory=OptimConfig)
    schedule: ScheduleConfig = dataclasses.field(default_factory=ScheduleConfig)
    sharding: ShardingConfig = dataclasses.field(default_factory=ShardingConfig)
    ema: EmaConfig = dataclasses.field(default_factory=EmaConfig)
    checkpoint: CheckpointConfig = dataclasses.field(default_factory=CheckpointConfig)
    log: LogConfig = dataclasses.field(default_factory=LogConfig)
    seed: int = ranged(0, "[0, 4294967296)")
    batch_size: int = ranged(128, "[1, inf)")
    eval_batch_size: int = ranged(0, "[0, inf)")
    duration: str = "30 epochs"
    log_every: str = "1%"
    eval_every: str = "10%"
    prefetch: int = ranged(2, "[1, inf)")


_DURATION = re.compile(r"\s*([0-9.]+(?:e[0-9]{1,2})?)\s*(%|[a-z]*)\s*")
# A state counts its steps in int32.
_MOST_STEPS = 2**31 - 1
_UNITS = ("steps", "epochs", "examples", "percent")


def resolve_steps(
    duration: str, *, batch_size: int, num_examples: int, total_steps: int | None = None
) -> int:
    """Turns a duration into steps, at least one unless it says zero; "" is 0.

    Args:
      duration: A number and a unit: steps (the default), epochs, examples, percent or %.
      batch_size: Examples per step.
      num_examples: Examples per epoch.
      total_steps: What percents refer to; None forbids them.

    Raises:
      UserError: The duration cannot be read.

    >>> resolve_steps("2 epochs", batch_size=100, num_examples=1000)
    20
    >>> resolve_steps("5%", batch_size=100, num_examples=1000, total_steps=400)
    20
    """
    if not duration.strip():
        return 0
    match = _DURATION.fullmatch(duration.lower())
    if match is None:
        raise UserError(f"cannot read duration {duration!r}; write '500', '30 epochs' or '5%'")
    unit = {"": "steps", "%": "percent"}.get(match[2], match[2])
    unit = unit if unit.endswith("s") or unit == "percent" else unit + "s"
    if unit not in _UNITS:
        raise UserError(f"unit {match[2]!r} of duration {duration!r}: {suggest(unit, _UNITS)}")
    try:
        # Exact: 29% of 100 is 29, which a product of floats misses.
        number = fractions.Fraction(match[1])
    except ValueError:
        raise UserError(f"cannot read the number in duration {duration!r}") from None
    if unit == "percent":
        if total_steps is None:
            raise UserError(f"duration {duration!r} needs steps, epochs or examples, not percent")
        if number > 100:
            raise UserError(f"duration {duration!r} is more than the whole run")
        steps = number * total_steps / 100
    elif unit == "steps":
        steps = number
    else:
        steps = number * (num_examples if unit == "epochs" else 1) / batch_size
    if steps > _MOST_STEPS:
        raise UserError(f"duration {duration!r} is {float(steps):.3g} steps, more than 2**31")
    return max(1, int(steps)) if steps > 0 else 0


@dataclasses.dataclass(frozen=True)
class Durations:
    """The durations of a config, in steps; 0 is never."""

    total: int
    warmup: int
    cooldown: int
    log: int
    eval: int
    checkpoint: int
    keep_every: int
    step: int = 0


def resolve_durations(config: Config, num_examples: int) -> Durations:
    """Resolves every duration of a config for data of so many training examples."""
    known = {"batch_size": config.batch_size, "num_examples": num_examples}
    total = resolve_steps(config.duration, **known)
    if total == 0:
        raise UserError(f"config.duration={config.duration!r} is no step at all")
    known["total_steps"] = total
    return Durations(
        total=total,
        warmup=resolve_steps(config.schedule.warmup, **known),
        cooldown=resolve_steps(config.schedule.cooldown, **known),
        step=resolve_steps(config.schedule.step, **known),
        log=max(1, resolve_steps(config.log_every, **known)),
        eval=resolve_steps(config.eval_every, **known),
        checkpoint=resolve_steps(config.checkpoint.every, **known),
        keep_every=resolve_steps(config.checkpoint.keep_every, **known),
    )


def check_config(config: Config) -> None:
    """Raises UserError for values that no run can have, before anything is built."""
    check_fields(config)
    make_loggers(config.log.to)
    own = config.model
    if not own.weights and (own.adapt or own.weights_from != "auto" or config.optim.carry):
        raise UserError(
            "config.model.adapt, config.model.weights_from and config.optim.carry say what is "
            "taken of config.model.weights, and it names nothing"
        )
    if config.batch_size % config.optim.accumulate:
        raise UserError(
            f"config.batch_size={config.batch_size} is not divisible by "
            f"config.optim.accumulate={config.optim.accumulate}"
        )


# Words in the names of metrics that say which way is better.
_BETTER = {
    "max": ("accuracy", "precision", "recall", "score"),
    "min": ("loss", "error", "perplexity", "bits"),
}


def best_mode(config: CheckpointConfig) -> str:
    """Whether the largest or the smallest value of config.metric is the best: "max" or "min".

    Raises:
      UserError: config.mode contradicts the metric, or is needed and missing.
    """
    known = [mode for mode, words in _BETTER.items() if any(w in config.metric for w in words)]
    if not config.mode and len(known) != 1:
        raise UserError(
            f"config.checkpoint.mode: say 'max' or 'min', the better of {config.metric!r}"
        )
    if config.mode and len(known) == 1 and config.mode != known[0]:
        raise UserError(
            f"config.checkpoint.mode={config.mode!r}: the best {config.metric!r} is its "
            f"{known[0]}; leave the mode out"
        )
    return config.mode or known[0]


# What may change between the runs that share a workdir; anything else would be another experiment.
RESUMABLE = (
    "sharding", "checkpoint", "duration", "log", "log_every", "eval_every", "eval_batch_size",
    "prefetch", "data.data_dir", "data.workers", "data.threads", "data.max_bad_records",
    "model.remat", "optim.lr", "optim.nonfinite", "optim.max_skips",
)  # fmt: skip


def changed_fields(old: dict[str, Any], new: dict[str, Any]) -> dict[str, str]:
    """Path -> "path: old -> new" of the fields in which two saved configs differ.

    A field that an older config does not have had its default.
    """
    defaults = flatten(to_dict(Config()))
    before, after = defaults | flatten(old), defaults | flatten(new)
    return {
        path: f"{path}: {before.get(path)!r} -> {after.get(path)!r}"
        for path in sorted({*before, *after})
        if before.get(path) != after.get(path)
    }


def may_change(path: str) -> bool:
    """Whether a field is one of RESUMABLE, or lies in one of its sections."""
    return any(path == free or path.startswith(free + ".") for free in RESUMABLE)


def flatten(tree: Any, path: str = "") -> dict[str, Any]:
    """Flattens nested dicts to {"a.b": value}; an empty dict vanishes."""
    if not isinstance(tree, dict):
        return {path: tree}
    pairs = {}
    for key, value in tree.items():
        pairs.update(flatten(value, f"{path}.{key}" if path else key))
    return pairs
