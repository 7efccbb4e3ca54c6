"""Packaging of scanmax. Tool settings live in pyproject.toml, dependencies here."""

import pathlib
import re

from setuptools import find_packages, setup

ROOT = pathlib.Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (ROOT / "scanmax/version.py").read_text()).group(1)

# The lower bounds are the versions of .ci/oldest.txt, at which `make oldest` runs the suite. There
# are no upper ones: `make newest` runs it at the newest release. With Python 3.13 and JAX 0.12.0
# all of it has run, in two parts with a day of changes between them.
BASE = [
    "absl-py>=2.3.1",
    "chex>=0.1.91",
    # jax.export serialises with it and does not say so.
    "flatbuffers>=24.3.25",
    "flax>=0.12.2",
    "fsspec>=2024.9.0",
    "grain>=0.2.15",
    # tensorflow-datasets 4.9.10 imports it without saying so.
    "importlib_resources>=6.5.2",
    "jax>=0.9.0",
    "jaxtyping>=0.3.3",
    "matplotlib>=3.9.4",
    "ml_collections>=1.1.0",
    "numpy>=2.0.2",
    "optax>=0.2.6",
    "orbax-checkpoint>=0.11.32",
    "pillow>=11.1",
    "safetensors>=0.5.3",
    "scikit-learn>=1.6.1",
    "tensorboardX>=2.6.2.2",
    "tensorflow-datasets>=4.9.10",
    "tqdm>=4.66.6",
]
# What workdirs in buckets are written with, besides fsspec.
GCS = ["gcsfs>=2024.9"]
S3 = ["s3fs>=2024.9"]
# What data.kwargs.tokenizer reads files with.
TEXT = ["tokenizers>=0.21"]
# What config.log.to names.
MLFLOW = ["mlflow-skinny>=3.1"]
WANDB = ["wandb>=0.19.10"]
# What data.name="hf:NAME" reads sets with.
HF = ["datasets>=4.4"]
# What scanmax.train.export writes other formats with.
ONNX = ["jax2onnx>=0.17"]
TENSORFLOW = ["tensorflow>=2.21"]
TEST = [
    "pytest>=8.3.5",
    "pytest-xdist>=3.6",
    "nbclient>=0.10",
    "ipykernel>=6.29",
    "beartype>=0.20",
    "mypy>=1.13",
    *TEXT,
    *HF,
]
# torch is pinned to the release the golden files were checked with.
PARITY = [
    "torch==2.13.0",
    "timm>=1.0.20",
    "transformers>=5.0",
    "pytorch-metric-learning>=2.8",
    "torchdistill>=1.1.5",
    *MLFLOW,
    *WANDB,
]
LINT = ["ruff>=0.14"]
# What `make site` builds the site with.
DOCS = ["mkdocs-material>=9.6", "mkdocstrings[python]>=0.29"]

setup(
    name="scanmax",
    version=VERSION,
    description="Token mixers in JAX: attention, state-space scans and softmax variants, "
    "with Flax models and a sharded trainer over them.",
    long_description=(ROOT / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["scanmax", "scanmax.*"]),
    # Type checkers read the annotations of packages that hold this file.
    package_data={"scanmax": ["py.typed"], "scanmax.ops.native": ["*.cc", "*.h"]},
    install_requires=BASE,
    extras_require={
        "cuda": ["jax[cuda12]>=0.9.0"],
        "tpu": ["jax[tpu]>=0.9.0"],
        "tpu-compile": ["libtpu>=0.0.34"],
        "text": TEXT,
        "mlflow": MLFLOW,
        "wandb": WANDB,
        "hf": HF,
        "gcs": GCS,
        "s3": S3,
        "onnx": ONNX,
        "tensorflow": TENSORFLOW,
        "docs": DOCS,
        "test": TEST,
        "parity": TEST + PARITY,
        "dev": TEST + PARITY + LINT,
    },
    entry_points={
        "console_scripts": [
            "scanmax-data=scanmax.data.__main__:run",
            "scanmax-evaluate=scanmax.train.evaluate:run",
            "scanmax-export=scanmax.train.export:run",
            "scanmax-generate=scanmax.train.generate:run",
            "scanmax-models=scanmax.models.__main__:run",
            "scanmax-predict=scanmax.train.predict:run",
            "scanmax-report=scanmax.train.report:run",
            "scanmax-sweep=scanmax.train.sweep:run",
            "scanmax-train=scanmax.train.__main__:run",
        ]
    },
)
