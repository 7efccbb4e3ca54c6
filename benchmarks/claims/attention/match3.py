"""Triple-wise detection: third-order attention solves Match3, softmax attention of its size not."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.claims import Finding, claim
from scanmax import ops
from scanmax.data.sequence_tasks import match3

LENGTH, MODULUS = 8, 37
WIDTH, FREQUENCIES = 16, 3


def circle(numbers, modulus: int, frequencies: int):
    """Each number as points on a circle: cosines, then sines, [..., 2 frequencies]."""
    angles = 2 * np.pi * numbers[..., None] / modulus * np.arange(1, frequencies + 1)
    return np.concatenate([np.cos(angles), np.sin(angles)], -1).astype(np.float32)


def by_construction(numbers: np.ndarray, modulus: int) -> np.ndarray:
    """Match3 by one head of width 5 and no training; the answer is the output above one half.

    The trilinear form of four products is cos(a + b + c) of the three angles. The fifth gives a
    null token, read as a pair with itself, a score between that of a match and of the best miss.
    """
    cos, sin = np.moveaxis(circle(numbers, modulus, 1), -1, 0)  # [B, T]
    zero, one = np.zeros_like(cos), np.ones_like(cos)
    query = np.stack([cos, -cos, -sin, -sin, one], -1)
    first = np.stack([cos, sin, cos, sin, zero], -1)
    second = np.stack([cos, sin, sin, cos, zero], -1)
    miss = np.cos(2 * np.pi / modulus)
    null = np.array([0, 0, 0, 0, 1], np.float32)
    arrays = [
        np.concatenate([np.broadcast_to(token, (len(x), 1, x.shape[-1])), x], 1)[:, :, None]
        for token, x in (
            (null, query),
            (null, first),
            (null * (1 + miss) / 2, second),
            (np.zeros(1), one[..., None]),
            (np.zeros(1), one[..., None]),
        )
    ]
    arrays = [jnp.asarray(x, jnp.float32) for x in arrays]
    return ops.tensor_attention(*arrays, scale=20 / (1 - miss))[:, 1:, 0, 0] > 0.5


def network(kind: str, hidden: int):
    """Parameters and logits of one layer of attention and an MLP that reads it and the token."""

    def init(key):
        shapes = {
            "embed": (2 * FREQUENCIES, WIDTH),
            "null": (1, WIDTH),
            "project": (WIDTH, 5 if kind == "tensor" else 3, 1, WIDTH),
            "out": (WIDTH, WIDTH),
            "fc1": (2 * WIDTH, hidden),
            "fc2": (hidden,),
        }
        keys = dict(zip(shapes, jax.random.split(key, len(shapes))))
        params = {
            name: jax.random.normal(keys[name], shape) / np.sqrt(shape[0])
            for name, shape in shapes.items()
        }
        return params | {"bias1": jnp.zeros(hidden), "bias2": jnp.zeros(())}

    def logits(params, points):
        x = points @ params["embed"]
        null = jnp.broadcast_to(params["null"][None], (x.shape[0], 1, WIDTH))
        arrays = jnp.einsum("btd,dnhk->nbthk", jnp.concatenate([null, x], 1), params["project"])
        if kind == "tensor":
            y = ops.tensor_attention(*arrays, scale=WIDTH**-0.5)
        else:
            y = ops.dot_product_attention(*arrays)
        read = jnp.concatenate([x, y[:, 1:, 0] @ params["out"]], -1)
        return jax.nn.relu(read @ params["fc1"] + params["bias1"]) @ params["fc2"] + params["bias2"]

    return init, logits


def train(kind: str, hidden: int, steps: int, seed: int) -> tuple[float, int]:
    """Accuracy on fresh sequences after training, and the number of parameters."""
    init, logits = network(kind, hidden)
    optimizer = optax.adam(optax.cosine_decay_schedule(1e-2, steps))

    def loss(params, points, labels):
        return optax.sigmoid_binary_cross_entropy(logits(params, points), labels).mean()

    @jax.jit
    def step(params, state, points, labels):
        gradients = jax.grad(loss)(params, points, labels)
        updates, state = optimizer.update(gradients, state)
        return optax.apply_updates(params, updates), state

    params = init(jax.random.key(seed))
    state, rng = optimizer.init(params), np.random.default_rng(seed)
    for _ in range(steps):
        numbers, labels = match3(rng, 128, LENGTH, MODULUS)
        points = circle(numbers, MODULUS, FREQUENCIES)
        params, state = step(params, state, points, labels.astype(np.float32))
    numbers, labels = match3(np.random.default_rng(10_000), 4096, LENGTH, MODULUS)
    found = jax.jit(logits)(params, circle(numbers, MODULUS, FREQUENCIES)) > 0
    return float(np.mean(found == labels)), sum(x.size for x in jax.tree.leaves(params))


@claim("match3-constructed", paper="tensor-attention")
def match3_constructed(quick):
    """One head of third-order attention can tell which tokens complete a triple to zero."""
    findings = []
    for length, modulus in ((8, 37), (24, 389)):
        numbers, labels = match3(np.random.default_rng(0), 64, length, modulus)
        right = float(np.mean(by_construction(numbers, modulus) == labels))
        findings.append(
            Finding(
                f"accuracy of one head of width 5, {length} numbers mod {modulus} "
                f"({labels.mean():.0%} complete one)",
                "1",
                f"{right:.4f}",
                right == 1,
            )
        )
    return findings


@claim("match3-trained", paper="tensor-attention", by_hand=True)
def match3_trained(quick):
    """A layer of tensor attention learns Match3 where softmax attention of equal size does not."""
    steps, seeds = (50, (0,)) if quick else (1500, (0, 1))
    _, labels = match3(np.random.default_rng(10_000), 4096, LENGTH, MODULUS)
    always = max(labels.mean(), 1 - labels.mean())
    results = {}
    # the softmax layer's MLP is wider, so that it has no fewer parameters
    for kind, hidden in (("tensor", 64), ("softmax", 80)):
        runs = [train(kind, hidden, steps, seed) for seed in seeds]
        results[kind] = [accuracy for accuracy, _ in runs], runs[0][1]
    task = f"{LENGTH} numbers mod {MODULUS}; always yes gives {always:.3f}"
    shown = {
        kind: f"{', '.join(f'{a:.4f}' for a in accuracies)} ({size} parameters)"
        for kind, (accuracies, size) in results.items()
    }
    tensor, softmax = results["tensor"][0], results["softmax"][0]
    return [
        Finding(f"accuracy of tensor attention, {task}", "1", shown["tensor"], min(tensor) > 0.99),
        Finding(
            "accuracy of softmax attention on the same",
            "below",
            shown["softmax"],
            max(softmax) < 0.9,
        ),
    ]
