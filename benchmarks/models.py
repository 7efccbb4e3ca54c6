"""Whole models against transformers in eager torch, and without a peer; timm's are in zoo.py."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

import scanmax
from benchmarks.harness import Row, benchmark, jax_contender, to_torch, torch_contender
from benchmarks.peers import import_peer
from scanmax import ops
from scanmax.models.weights import load_weights

BATCH, SIZE = 4, 224
RNG = np.random.default_rng(0)


@benchmark("vssd")
def vssd(quick: bool):
    """vssd_tiny at 224, which has no public peer that runs; its sums against their matrix."""
    name = "vssd_micro" if quick else "vssd_tiny"
    model = scanmax.create_model(name)
    size = 64 if quick else SIZE
    rng = np.random.default_rng(0)
    images = rng.normal(size=(BATCH, size, size, 3)).astype(np.float32)
    labels = np.arange(BATCH) * 7
    # Small numbers instead of the initial ones, which take long to compile.
    shapes = jax.eval_shape(model.init, jax.random.key(0), images[:1])
    variables = jax.tree.map(
        lambda leaf: jnp.asarray(0.02 * np.abs(rng.normal(size=leaf.shape)) + 0.01, leaf.dtype),
        nn.unbox({name: shapes[name] for name in ("params", "batch_stats")}),
    )

    def gradients(variables, images, labels):
        def loss(params):
            logits, _ = model.apply(
                {**variables, "params": params}, images, train=True, mutable=["batch_stats"]
            )
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        return jax.value_and_grad(loss)(variables["params"])

    title = f"{name}, batch {BATCH} at {size}"
    yield Row(f"{title}, forward", jax_contender("scanmax", model.apply, variables, images), [])
    step = jax_contender("scanmax", gradients, variables, images, labels)
    yield Row(f"{title}, loss and gradients", step, [])

    # The first stage's tokens: 56 x 56 at 224.
    tokens, heads, states = (size // 4) ** 2, 2, 64
    x = rng.normal(size=(1, tokens, heads, 64)).astype(np.float32)
    dt = np.abs(rng.normal(size=(1, tokens, heads))).astype(np.float32)
    B, C = (rng.normal(size=(1, tokens, 1, states)).astype(np.float32) for _ in range(2))
    A = -np.ones(heads, np.float32)

    def dense(x, dt, A, B, C):
        return jnp.einsum("bhts,bshp->bthp", ops.nc_ssd_matrix(dt, A, B, C), x)

    arrays = (x, dt, A, B, C)
    yield Row(
        f"nc_ssd, {tokens} tokens, {heads} heads of 64, {states} states, forward",
        jax_contender("scanmax nc_ssd", lambda *a: ops.nc_ssd(*a), *arrays),
        [jax_contender("its matrix times x", dense, *arrays)],
        tolerance=1e-3,
    )


def _language_model(family: str, network, model, length: int, title: str):
    """A row: logits and all gradients of one sequence, against transformers in eager torch."""
    import torch

    tokens = RNG.integers(0, 256, size=(1, length)).astype(np.int32)
    cotangent = RNG.normal(size=(1, length, 256)).astype(np.float32)
    weights = {key: value.detach().numpy() for key, value in network.state_dict().items()}

    def as_ours(tensors):
        return jax.tree.map(
            lambda leaf: leaf.unbox() if hasattr(leaf, "unbox") else leaf,
            load_weights(model, tensors, (length,)),
            is_leaf=lambda leaf: hasattr(leaf, "unbox"),
        )

    def step(variables, tokens, cotangent):
        def loss(variables):
            logits = model.apply(variables, tokens, train=True)
            return jnp.sum(logits * cotangent), logits

        gradients, logits = jax.grad(loss, has_aux=True)(variables)
        return logits, gradients

    inputs, weight = torch.as_tensor(tokens, dtype=torch.long), to_torch(cotangent)

    def peer():
        network.zero_grad()
        logits = network(inputs, use_cache=False).logits
        (logits * weight).sum().backward()
        return logits

    def result(logits):
        gradients = {name: value.grad.numpy() for name, value in network.named_parameters()}
        return logits.detach(), as_ours(gradients)

    return Row(
        title,
        jax_contender("scanmax", step, as_ours(weights), tokens, cotangent),
        [torch_contender(f"transformers {family}, eager torch", peer, result=result)],
        tolerance=1e-2,
    )


def _sizes(quick: bool):
    """Length and width, what both configurations share, what both of our models do."""
    length, dim = (32, 64) if quick else (1024, 768)
    common = {"vocab_size": 256, "hidden_size": dim, "num_hidden_layers": 2}
    return length, dim, common, {"vocab_size": 256, "dim": dim, "depth": 2}


@benchmark("mamba_training")
def mamba_training(quick: bool):
    """Two blocks of Mamba-1 130m, forward and backward, against transformers (minutes per call)."""
    mamba = import_peer("transformers.models.mamba.modeling_mamba")
    length, dim, common, fields = _sizes(quick)
    yield _language_model(
        "mamba",
        mamba.MambaForCausalLM(mamba.MambaConfig(**common)),
        scanmax.create_model("mamba_130m", **fields),
        length,
        f"Mamba-1, two blocks of width {dim}, T={length}, training",
    )


@benchmark("mamba2_training")
def mamba2_training(quick: bool):
    """Two blocks of Mamba-2 130m, forward and backward, against transformers."""
    mamba2 = import_peer("transformers.models.mamba2.modeling_mamba2")
    length, dim, common, fields = _sizes(quick)
    heads = {"num_heads": 2 * dim // 64, "head_dim": 64, "n_groups": 1}
    config = mamba2.Mamba2Config(**common, **heads, tie_word_embeddings=True)
    yield _language_model(
        "mamba2",
        mamba2.Mamba2ForCausalLM(config),
        scanmax.create_model("mamba2_130m", **fields, heads=2 * dim // 64),
        length,
        f"Mamba-2, two blocks of width {dim}, T={length}, training",
    )
