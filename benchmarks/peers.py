"""The torch side of the benchmarks."""

import importlib
import os


def import_peer(module: str):
    """A module of timm or transformers, quiet, offline, and with a torchvision without operators.

    On a CPU-only torch the compiled half of torchvision may be missing; the peers need only its
    names, which are declared here.
    """
    import torch

    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    try:
        return importlib.import_module(module)
    except (RuntimeError, ImportError) as error:
        if "torchvision::" not in str(error):
            raise
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    # kept for as long as the declarations are needed
    import_peer.library = library
    return importlib.import_module(module)
