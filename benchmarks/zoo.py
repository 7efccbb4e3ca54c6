"""Networks of images against timm in eager torch, forward pass and training step.

`python -m benchmarks zoo` measures all of NETWORKS, on two threads of both sides; each is a case of
its own as well, so that `python -m benchmarks resnet50` measures one and --keep keeps one by one.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

import scanmax
from benchmarks.harness import Contender, Row, benchmark, jax_contender, to_torch, torch_contender
from benchmarks.peers import import_peer
from scanmax.models.weights import load_weights
from scanmax.models.weights.load import key_table, named_leaves
from scanmax.models.weights.table import convert

BATCH, CLASSES = 4, 1000
RATE, DECAY = 1e-4, 0.05


@dataclasses.dataclass(frozen=True)
class Network:
    """A network that both sides have by one name.

    Attributes:
      name: of timm and of ours.
      both_layouts: timm's is timed with maps of either layout, contiguous and channels last.
      quick_size: side of the images of --quick; None is the network's own.
    """

    name: str
    both_layouts: bool = False
    quick_size: int | None = None


NETWORKS = {
    "deit_small": Network("deit_small_patch16_224"),
    "convnext_tiny": Network("convnext_tiny", True, 64),
    "resnet50": Network("resnet50", True, 64),
    "vgg16": Network("vgg16", True),
    "inception_v3": Network("inception_v3", True),
    "dpn68": Network("dpn68", True, 64),
    "convmixer_768_32": Network("convmixer_768_32", True, 56),
    "mixer_s16": Network("mixer_s16_224"),
    "crossvit_small": Network("crossvit_small_240"),
    "xcit_small_12": Network("xcit_small_12_p16_224", quick_size=64),
    "convit_tiny": Network("convit_tiny"),
    "nextvit_small": Network("nextvit_small", True, 64),
    "inception_next_tiny": Network("inception_next_tiny", True, 64),
    "swin_tiny": Network("swin_tiny_patch4_window7_224"),
    "pvt_v2_b2": Network("pvt_v2_b2", quick_size=64),
}


def _as_vector(arrays: Mapping[str, Any]) -> jax.Array:
    """Arrays by path as one vector, in the order of the paths."""
    return jnp.concatenate([jnp.ravel(arrays[path]) for path in sorted(arrays)])


def _our_step(model, variables, images, labels) -> Contender:
    """The training step as the trainer runs it: one program, its state donated."""
    optimizer = optax.adamw(RATE, weight_decay=DECAY)
    compiled = state = None

    def step(state, images, labels):
        params, moments, averages = state

        def loss(params):
            logits, moved = model.apply(
                {"params": params, **averages}, images, train=True, mutable=list(averages)
            )
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), moved

        (value, averages), gradients = jax.value_and_grad(loss, has_aux=True)(params)
        updates, moments = optimizer.update(gradients, moments, params)
        return (optax.apply_updates(params, updates), moments, averages), value

    def prepare():
        nonlocal compiled, state
        params = variables["params"]
        averages = {name: tree for name, tree in variables.items() if name != "params"}
        state = jax.tree.map(jnp.array, (params, optimizer.init(params), averages))
        compiled = jax.jit(step, donate_argnums=0).lower(state, images, labels).compile()

        def run():
            nonlocal state
            state, loss = compiled(state, images, labels)
            return jax.block_until_ready(loss)

        return run

    def result(loss):
        moments = optax.tree.get(state[1], "mu")
        return loss, _as_vector(dict(named_leaves({"params": moments})))

    def memory():
        return compiled.memory_analysis().temp_size_in_bytes

    return Contender("scanmax", prepare, result, memory, compiles=True)


def _torch_step(name, network, images, labels, as_ours) -> Contender:
    """The same step in eager torch, with its fused AdamW.

    After one step AdamW's first moments are a tenth of the gradient, on both sides.
    """
    import torch

    optimizer = torch.optim.AdamW(network.parameters(), RATE, weight_decay=DECAY, fused=True)

    def step():
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(network(images), labels)
        loss.backward()
        optimizer.step()
        return loss

    def result(loss):
        moments = {
            name: optimizer.state[value]["exp_avg"].contiguous().numpy()
            for name, value in network.named_parameters()
        }
        return loss, _as_vector(as_ours(moments))

    return torch_contender(name, step, result=result)


def _without_noise(network):
    """The network with no dropout and no dropped paths, some of which timm sets by itself."""
    import torch

    for module in network.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        if hasattr(module, "drop_prob"):
            module.drop_prob = 0.0
    return network


def rows(entry: Network, quick: bool, **own: Any):
    """Two rows: the forward pass, and a step of AdamW in float32.

    Args:
      entry: the network.
      quick: at its quick size.
      **own: fields that both sides have by one name, of a smaller network.
    """
    import torch

    timm, name = import_peer("timm"), entry.name
    size = scanmax.model_info(name).input_size[0]
    size = (quick and entry.quick_size) or size
    images = np.random.default_rng(0).normal(size=(BATCH, size, size, 3)).astype(np.float32)
    labels = np.arange(BATCH) * 7
    layouts = {"timm, contiguous": torch.contiguous_format}
    if entry.both_layouts:
        layouts["timm, channels last"] = torch.channels_last
    torch.manual_seed(0)
    networks = {}
    for layout, memory_format in layouts.items():
        network = _without_noise(timm.create_model(name, num_classes=CLASSES, **own))
        if networks:
            network.load_state_dict(next(iter(networks.values()))[0].state_dict())
        pixels = to_torch(images.transpose(0, 3, 1, 2))
        networks[layout] = (
            network.to(memory_format=memory_format),
            pixels.contiguous(memory_format=memory_format),
        )
    model = scanmax.create_model(name, num_classes=CLASSES, **own)
    first = next(iter(networks.values()))[0]
    weights = {key: value.clone().numpy() for key, value in first.state_dict().items()}
    variables = {
        collection: nn.unbox(tree)
        for collection, tree in load_weights(model, weights, images.shape[1:]).items()
    }
    shapes = {
        path: leaf.shape for path, leaf in named_leaves(variables) if path.startswith("params/")
    }

    def as_ours(tensors):
        # Every change of layout is linear: gradients travel by the table of the weights.
        arrays, problems = convert(tensors, key_table(model).rows, shapes)
        if problems:
            raise ValueError("; ".join(problems))
        return arrays

    def forward(network, pixels):
        def run():
            with torch.inference_mode():
                return network.eval()(pixels)

        return run

    yield Row(
        f"{name}, batch {BATCH} at {size}, forward",
        ours=jax_contender("scanmax", model.apply, variables, images),
        peers=[torch_contender(layout, forward(*pair)) for layout, pair in networks.items()],
    )
    for network, _ in networks.values():
        network.train()
    targets = to_torch(labels)
    yield Row(
        f"{name}, batch {BATCH} at {size}, training step",
        ours=_our_step(model, variables, images, labels.astype(np.int32)),
        peers=[
            _torch_step(layout, network, pixels, targets, as_ours)
            for layout, (network, pixels) in networks.items()
        ],
        # The statistics of four images make much of a rounding.
        tolerance=1e-2 if "batch_stats" in variables else 1e-3,
    )


def _register(case: str, entry: Network) -> None:
    layouts = " (both layouts)" if entry.both_layouts else ""
    generate = functools.partial(rows, entry)
    generate.__doc__ = f"{entry.name} against timm in eager torch{layouts}, forward and AdamW step."
    benchmark(case, group="zoo")(generate)


for _case, _entry in NETWORKS.items():
    _register(_case, _entry)
