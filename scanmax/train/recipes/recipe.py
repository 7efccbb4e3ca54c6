"""What a recipe says, and what several of them share."""

import dataclasses
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A released training recipe; the defaults are DeiT's, without repeats and moving average.

    Attributes:
      source: repository, and the file or command in it.
      models: of each registered name its rate of stochastic depth (None: the model has none) and
        the published top-1 accuracy in percent at `image_size` (None: not printed there).
      epochs: of the whole run.
      warmup: epochs of it.
      batch: examples per step, over all devices.
      lr: peak rate at that batch.
      min_lr: last rate.
      optimizer, eps, weight_decay: as config.optim.
      schedule, every, factor: as config.schedule's name, step and factor.
      clip: largest norm of the gradient; 0 does not clip.
      ema: decay of the moving average; 0 keeps none.
      loss: as config.objective.loss.
      smoothing: of labels.
      mixup, cutmix: their alphas.
      augment: policy in timm's notation.
      erase: probability of random erasing.
      repeats: how often an image appears in a batch.
      image_size: side; 0 is the model's own.
      dropout: before the head.
      eval_crop: share of the resized image's side that is judged.
      note: what the release does besides, which is not done here.
    """

    source: str
    models: Mapping[str, tuple[float | None, float | None]]
    epochs: int = 300
    warmup: int = 5
    batch: int = 1024
    lr: float = 1e-3
    min_lr: float = 1e-5
    optimizer: str = "adamw"
    eps: float = 1e-8
    weight_decay: float = 0.05
    schedule: str = "cosine"
    every: str = ""
    factor: float = 0.1
    clip: float = 0.0
    ema: float = 0.0
    loss: str = "softmax_cross_entropy"
    smoothing: float = 0.1
    mixup: float = 0.8
    cutmix: float = 1.0
    augment: str = "rand-m9-mstd0.5-inc1"
    erase: float = 0.25
    repeats: int = 1
    image_size: int = 0
    dropout: float = 0.0
    eval_crop: float = 0.875
    note: str = ""


# ConvNeXt's, which a whole line of networks of convolutions took over.
CONVNEXT = {"batch": 4096, "lr": 4e-3, "min_lr": 1e-6, "warmup": 20}
# Swin's: every example once, clipped, a longer warm-up.
SWIN = {"clip": 5.0, "warmup": 20}
DEIT = {"repeats": 3, "ema": 0.99996}
# torchvision's reference of its first networks.
TORCHVISION = {
    "epochs": 90,
    "warmup": 0,
    "batch": 256,
    "optimizer": "sgd",
    "weight_decay": 1e-4,
    "min_lr": 0.0,
    "schedule": "step",
    "every": "30 epochs",
    "smoothing": 0.0,
    "mixup": 0.0,
    "cutmix": 0.0,
    "augment": "",
    "erase": 0.0,
}
