"""What a run reads and how training examples are changed; plain dataclasses."""

import dataclasses
from typing import Any

from scanmax.fields import choice, pair, ranged

RESIZE = ("bicubic", "bilinear", "nearest")


@dataclasses.dataclass
class AugmentConfig:
    """Random changes of training examples. Everything is off by default.

    Label smoothing is no augmentation here: it commutes with mixing, so the loss does it.

    Attributes:
      translate: Largest shift along each axis, in pixels.
      rotate: Largest rotation, in degrees.
      zoom: Largest relative change of size; 0.1 draws from 1/1.1 to 1.1.
      shear: Largest shear along the x axis, as a slope.
      crop_area: Random resized crop: smallest and largest share of the image's area; () is off.
      crop_aspect: Random resized crop: smallest and largest width over height.
      crops: How many random crops of an image, their areas from as many equal parts of crop_area,
        are mixed into one (CropMix).
      crops_mix: How these are mixed: "mixup", or "cutmix".
      crops_alpha: Of mixup among them, from Beta(crops_alpha / crops, crops_alpha / crops).
      crops_permute: Whether the channels of the one that counts less come in any order.
      resize: Interpolation of what is cropped at random or moved by a policy. "random" draws
        bilinear or bicubic each time, and leaves images without a random crop to `data.resize`.
      flip: Probability of mirroring left and right.
      randaugment: RandAugment in timm's notation, such as "rand-m9-mstd0.5-inc1"; "" is off.
      auto_augment: Another policy in timm's notation: AutoAugment's "original", "originalr", "v0",
        "v0r" or "3a", each with a section such as "-mstd0.5", AugMix as "augmix-m5-w4-d2", or
        TrivialAugment as torchvision's "ta_wide"; "" is off.
      color_jitter: Largest relative change of (brightness, contrast, saturation) or of these and
        hue, which is at most 0.5, a half turn; () is off.
      color_jitter_prob: Probability of the colour jitter.
      grayscale_prob: Probability of making the image grey.
      gaussian_blur_prob: Probability of a Gaussian blur of 23 pixels, its deviation from 0.1 to 2.
      solarize_prob: Probability of inverting what is brighter than the middle.
      yoco: Probability of cutting the image in two behind its crop, along height or width: all
        other changes above are then drawn for each half by itself.
      erase: Probability of replacing a random rectangle by noise, after normalisation.
      mixup: Parameter alpha of mixup's Beta(alpha, alpha).
      cutmix: Parameter alpha of CutMix's Beta(alpha, alpha).
      mix_probability: Share of batches that are mixed.
      cutmix_probability: Share of CutMix among mixed batches where both are on.
      repeats: How often an image appears in a batch, each time augmented anew.
      views: Views of each image that a training batch holds, each drawn anew; from two on "image"
        is [B, V, Y, X, C].
      view_policies: For each view a dict of fields above, up to `erase`, that replace the common
        ones, such as ({"flip": 0.5}, {"erase": 0.2}); () is the same policy for all.
      local_views: Small views beside them, in "local_image" [B, L, y, x, C].
      local_size: Side y = x of the small views.
      local_policy: Fields that replace the common ones in the small views.
    """

    translate: float = ranged(0.0, "[0, inf)")
    rotate: float = ranged(0.0, "[0, 180]")
    zoom: float = ranged(0.0, "[0, inf)")
    shear: float = ranged(0.0, "[0, inf)")
    crop_area: tuple[float, ...] = pair((), "(0, 1]")
    crop_aspect: tuple[float, ...] = pair((3 / 4, 4 / 3), "(0, inf)")
    crops: int = ranged(1, "[1, inf)")
    crops_mix: str = choice("mixup", ("mixup", "cutmix"))
    crops_alpha: float = ranged(0.4, "(0, inf)")
    crops_permute: bool = False
    resize: str = choice("random", ("random", *RESIZE))
    flip: float = ranged(0.0, "[0, 1]")
    randaugment: str = ""
    auto_augment: str = ""
    color_jitter: tuple[float, ...] = ranged((), "[0, inf)")
    color_jitter_prob: float = ranged(1.0, "[0, 1]")
    grayscale_prob: float = ranged(0.0, "[0, 1]")
    gaussian_blur_prob: float = ranged(0.0, "[0, 1]")
    solarize_prob: float = ranged(0.0, "[0, 1]")
    yoco: float = ranged(0.0, "[0, 1]")
    erase: float = ranged(0.0, "[0, 1]")
    mixup: float = ranged(0.0, "[0, inf)")
    cutmix: float = ranged(0.0, "[0, inf)")
    mix_probability: float = ranged(1.0, "[0, 1]")
    cutmix_probability: float = ranged(0.5, "[0, 1]")
    repeats: int = ranged(1, "[1, inf)")
    views: int = ranged(1, "[1, inf)")
    view_policies: tuple[Any, ...] = ()
    local_views: int = ranged(0, "[0, inf)")
    local_size: int = ranged(0, "[0, inf)")
    local_policy: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass
class DataConfig:
    """The data of a run.

    Attributes:
      name: "digits", "bytes", "synthetic", your own "image_folder", "arrays", "webdataset",
        "parquet" or "text", images with captions as "pairs" or made up as "captioned_shapes",
        "hf:NAME" of the package `datasets` on this machine, an image set of TFDS by its TFDS name,
        or a task on sequences: "mqar", "selective_copying", "induction_heads", "copy_memory",
        "reversal", "reconstruction", "adding", "word_order".
      data_dir: Your own data; of TFDS, where prepared data lie, and "" is TFDS_DATA_DIR or
        ~/tensorflow_datasets.
      train_split: Training part in TFDS's notation, such as "train[:90%]"; "" is the source's own.
      eval_split: Held-out part in TFDS's notation; "" is the source's own.
      image_size: Side of the square images handed to the model; 0 keeps the source's size.
      resize: Interpolation by which images come to that size where nothing is random.
      decode: "full", or "scaled": a JPEG of the training part may be decoded at 1/2, 1/4 or 1/8 of
        its sides when what is cropped stays no smaller than the model reads. Faster for large
        photographs, other numbers (docs/data.md says by how much). Evaluation decodes in full.
      eval_crop: Share of the resized image's side that the central crop keeps in evaluation.
      mean: Mean subtracted per channel, for intensities in [0, 1]; () is the source's own.
      std: Deviation divided by per channel; () is the source's own.
      sequence_length: Tokens that a language model predicts per row; the length of a task.
      workers: Processes that decode and augment, a whole batch each; 0 works in threads of the
        main process. They end with it, however it ends.
      threads: Threads that read ahead, in each process that reads.
      max_bad_records: Training records that cannot be read and are passed over, the next one in
        their place; one more ends the run. Held-out records never are. Each process that reads
        counts those that it has met.
      kwargs: Options of the source itself, such as {"classes": 1000} of "synthetic".
      augment: Random changes of training examples.
    """

    name: str = "digits"
    data_dir: str = ""
    train_split: str = ""
    eval_split: str = ""
    image_size: int = ranged(0, "[0, inf)")
    resize: str = choice("bicubic", RESIZE)
    decode: str = choice("full", ("full", "scaled"))
    eval_crop: float = ranged(1.0, "(0, 1]")
    mean: tuple[float, ...] = ranged((), "(-inf, inf)")
    std: tuple[float, ...] = ranged((), "(0, inf)")
    sequence_length: int = ranged(256, "[1, inf)")
    workers: int = ranged(0, "[0, inf)")
    threads: int = ranged(2, "[1, inf)")
    max_bad_records: int = ranged(0, "[0, inf)")
    kwargs: dict[str, Any] = dataclasses.field(default_factory=dict)
    augment: AugmentConfig = dataclasses.field(default_factory=AugmentConfig)
