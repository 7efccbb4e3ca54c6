"""What a training step takes of a TPU, by its compiler: nothing is run, and no TPU is needed.

`python -m benchmarks pod [NAME ...]` compiles the plain data-parallel step (softmax cross-entropy,
adamw, state donated) around each network of STEPS for four chips and prints, for one of them, bytes
through HBM as the compiler counts them, scratch memory, and how much of the chip's peak a step
could use at most: computing over the longest of computing and memory. Batches are tried from the
largest on, and the first that fits its memory is the row. Peers were compiled the same way, beside;
their figures are kept here with the version they are of.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import scanmax
from scanmax.models.analysis import count_multiply_adds
from scanmax.train.pod import CHIPS, topology_devices

TOPOLOGY = "v5e:2x2"
BIG_VISION = "big_vision 0127fb6"


@dataclasses.dataclass(frozen=True)
class Step:
    """A network's training step.

    Attributes:
      model: its name.
      batches: examples a chip, from the first on until one fits.
      kwargs: of the model.
      length: tokens of an example; 0 for images.
      dtype: what it computes in.
      loops: its blocks run in a loop, whose body the compiler counts once: no peak is said.
      peer: a peer's version, GiB moved and MiB of scratch.
    """

    model: str
    batches: tuple[int, ...] = (256, 128, 64, 32, 16)
    kwargs: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    length: int = 0
    dtype: Any = jnp.bfloat16
    loops: bool = False
    peer: tuple[str, float, int] | None = None


MAMBA = {"model": "mamba2_130m", "batches": (4,), "kwargs": {"depth": 4}, "length": 2048}
STEPS = {
    "vit_s16": Step("deit_small_patch16_224", (64,), peer=(BIG_VISION, 27.2, 1774)),
    "vit_s16_scanned": Step("deit_small_patch16_224", (64,), {"scan_layers": True}, loops=True),
    "vit_s16_scanned_remat": Step(
        "deit_small_patch16_224",
        (64,),
        {"scan_layers": True, "remat": True},
        loops=True,
        peer=(BIG_VISION, 4.52, 517),
    ),
    "mamba2_4_blocks": Step(**MAMBA),
    "mamba2_4_blocks_float32": Step(**MAMBA, dtype=jnp.float32),
    "deit_small": Step("deit_small_patch16_224"),
    "convnext_tiny": Step("convnext_tiny"),
    "vssd_tiny": Step("vssd_tiny"),
    "mamba2_130m": Step("mamba2_130m", (16, 8, 4, 2, 1), length=2048),
    "xcit_small_12": Step("xcit_small_12_p16_224"),
    "swin_tiny": Step("swin_tiny_patch4_window7_224"),
}


@dataclasses.dataclass(frozen=True)
class Figures:
    """What one chip takes for one step.

    Attributes:
      batch: examples a chip.
      moved: bytes to and from HBM, as the compiler counts them.
      scratch: bytes beside arguments and results.
      peak: bytes at the step's peak.
      flops: operations of the matrix products and scans: three forward passes.
    """

    batch: int
    moved: float
    scratch: int
    peak: int
    flops: float

    @property
    def utilisation(self) -> float:
        """Computing over the longest of computing and memory, at the chip's peak rates."""
        chip = CHIPS[TOPOLOGY.split(":")[0]]
        computing = self.flops / chip.flops
        return computing / max(computing, self.moved / chip.memory_rate)


def compile_step(step: Step, batch: int) -> Figures:
    """Compiles the step for that many examples a chip."""
    mesh = Mesh(np.array(topology_devices(TOPOLOGY)), ("data",))
    rows, whole = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (("data",), ()))
    model = scanmax.create_model(step.model, dtype=step.dtype, **step.kwargs)
    example = scanmax.model_info(step.model).example()
    shape = (batch * mesh.size, *((step.length,) if step.length else example.shape[1:]))
    inputs = jax.ShapeDtypeStruct(shape, example.dtype, sharding=rows)
    labels = jax.ShapeDtypeStruct(shape[: 2 if step.length else 1], jnp.int32, sharding=rows)
    variables = nn.unbox(jax.eval_shape(model.init, jax.random.key(0), example))
    params = variables.pop("params")
    optimizer = optax.adamw(1e-3)

    def train(params, moments, averages, inputs, labels):
        def loss(params):
            logits, moved = model.apply(
                {"params": params, **averages},
                inputs,
                train=True,
                rngs={"dropout": jax.random.key(0)},
                mutable=list(averages),
            )
            logits = logits.astype(jnp.float32)
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), moved

        (value, moved), gradient = jax.value_and_grad(loss, has_aux=True)(params)
        update, moments = optimizer.update(gradient, moments, params)
        return optax.apply_updates(params, update), moments, {**averages, **moved}, value

    def placed(tree):
        return jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=whole), tree
        )

    state = (params, jax.eval_shape(optimizer.init, params), variables)
    with jax.set_mesh(mesh):
        compiled = jax.jit(train, donate_argnums=(0, 1, 2)).lower(*placed(state), inputs, labels)
        compiled = compiled.compile()
    memory = compiled.memory_analysis()
    one = jax.ShapeDtypeStruct((1, *shape[1:]), example.dtype)
    return Figures(
        batch=batch,
        moved=float(compiled.cost_analysis()["bytes accessed"]),
        scratch=memory.temp_size_in_bytes,
        peak=memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
        + memory.temp_size_in_bytes,
        flops=6.0 * batch * count_multiply_adds(model, one),
    )


def largest_that_fits(step: Step) -> Figures | None:
    """The figures at the first of its batches that fits a chip; None where none does."""
    for batch in step.batches:
        try:
            figures = compile_step(step, batch)
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            continue
        if figures.peak <= CHIPS[TOPOLOGY.split(":")[0]].memory:
            return figures
    return None


def rows(names: Iterable[str]) -> Iterable[str]:
    """The lines of the table, each as soon as it is compiled.

    Raises:
      UserError: there is no TPU compiler.
    """
    topology_devices(TOPOLOGY)
    yield "| step | batch a chip | GiB moved | MiB of scratch | of the peak, at most | peer |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for name in names:
        step = STEPS[name]
        figures = largest_that_fits(step)
        if figures is None:
            yield f"| `{name}` | does not fit | | | | |"
            continue
        peak = "-" if step.loops else f"{figures.utilisation:.0%}"
        peer = "{}: {:.1f}, {:,}".format(*step.peer) if step.peer else ""
        yield (
            f"| `{name}` | {figures.batch} | {figures.moved / 2**30:.2f} "
            f"| {figures.scratch / 2**20:,.0f} | {peak} | {peer} |"
        )
