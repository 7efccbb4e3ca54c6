"""Sources, pipelines, transforms and TFDS builders; never imports models or train."""

from scanmax.data.config import AugmentConfig as AugmentConfig
from scanmax.data.config import DataConfig as DataConfig
from scanmax.data.pipeline import Pipeline as Pipeline
from scanmax.data.pipeline import load as load
from scanmax.public import shown

__all__ = shown(globals())


def __dir__() -> list[str]:
    return __all__
