"""Writes the golden files of timm and transformers, or those named, beside this file.

    python tests/golden/make_peers.py [NAME ...]

Each holds a small model of timm or transformers with seeded weights: weights, inputs, logits, and
the gradients of sum(logits * cotangent). Needs the `parity` extra; numbers may differ in the last
digits between versions of torch, the tests' tolerance covers that.
"""

import pathlib
import sys

import numpy as np

# As little as shows the places of pooling, norm and registers.
SMALLER = {"embed_dim": 16, "depth": 1, "img_size": 16}
HERE = pathlib.Path(__file__).parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE.parent / "parity")]


def main() -> None:
    import peers

    runs = {
        "deit": peers.deit,
        "deit_distilled": lambda: peers.deit(distilled=True),
        "deit_registers": lambda: peers.deit(
            global_pool="avg", reg_tokens=3, no_embed_class=True, **SMALLER
        ),
        "convnext": peers.convnext,
        "mamba": peers.mamba,
        "mamba2": lambda: peers.mamba2(groups=2),
        "mamba2_limited": lambda: peers.mamba2(length=11, time_step_limit=(0.02, 0.05)),
    }
    for name in sys.argv[1:] or runs:
        run = runs[name]()
        arrays = {f"weights/{key}": value for key, value in run.weights.items()}
        arrays |= {f"grads/{key}": value for key, value in run.grads.items()}
        arrays |= {"inputs": run.inputs, "cotangent": run.cotangent, "logits": run.logits}
        if run.input_grad is not None:
            arrays["input_grad"] = run.input_grad
        np.savez_compressed(HERE / f"{name}.npz", **arrays)


if __name__ == "__main__":
    main()
