"""Writes deit.npz, deit_distilled.npz, convnext.npz, mamba.npz and mamba2.npz beside this file.

    python tests/golden/make_peers.py

Each holds a small model of timm or transformers with seeded weights: weights, inputs, logits, and
the gradients of sum(logits * cotangent). Needs the `parity` extra; numbers may differ in the last
digits between versions of torch, the tests' tolerance covers that.
"""

import pathlib
import sys

import numpy as np

HERE = pathlib.Path(__file__).parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE.parent / "parity")]


def main() -> None:
    import peers

    runs = {
        "deit": peers.deit(),
        "deit_distilled": peers.deit(distilled=True),
        "convnext": peers.convnext(),
        "mamba": peers.mamba(),
        "mamba2": peers.mamba2(groups=2),
    }
    for name, run in runs.items():
        arrays = {f"weights/{key}": value for key, value in run.weights.items()}
        arrays |= {f"grads/{key}": value for key, value in run.grads.items()}
        arrays |= {"inputs": run.inputs, "cotangent": run.cotangent, "logits": run.logits}
        if run.input_grad is not None:
            arrays["input_grad"] = run.input_grad
        np.savez_compressed(HERE / f"{name}.npz", **arrays)


if __name__ == "__main__":
    main()
