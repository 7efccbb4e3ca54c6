"""Multi-head latent attention by its two forms, its cache, and Muon on a decoder of it."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.claims import Finding, claim
from scanmax import ops


def _draw(*shapes, seed=0):
    rng = np.random.default_rng(seed)
    return [jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes]


@claim("mla-absorbed", paper="muon-mla-moe")
def mla_absorbed(quick):
    """With its up-projections absorbed latent attention is the expanded one, on a narrow cache."""
    T, H, K, R, C = 32, 16, 32, 16, 128
    tokens = _draw((T, H, K), (T, H, R), (T, C), (T, R))
    ups = [x / math.sqrt(C) for x in _draw((C, H, K), (C, H, K), seed=1)]
    whole = ops.latent_attention(*tokens, *ups, is_causal=True, form="expanded")
    absorbed = ops.latent_attention(*tokens, *ups, is_causal=True, form="absorbed")
    state = ops.extend_latent_cache(
        ops.init_latent_cache((), T, C, R), *(x[:-1] for x in tokens[2:])
    )
    step, state = ops.latent_attention_step(state, *(x[-1] for x in tokens), *ups)
    scale = float(jnp.abs(whole).max())
    apart = [float(jnp.abs(x).max()) / scale for x in (absorbed - whole, step - whole[-1])]

    def held(heads, width, latent, rotary):
        """Bytes a token of the cache of latents, and of one of full keys and values."""
        latents = jax.eval_shape(lambda: ops.init_latent_cache((), 1, latent, rotary))
        full = jax.eval_shape(lambda: ops.init_kv_cache((), 1, heads, width))
        sizes = ((x.latent,) if hasattr(x, "latent") else x[:2] for x in (latents, full))
        return [sum(leaf.size * leaf.dtype.itemsize for leaf in leaves) for leaves in sizes]

    # DeepSeek-V2 and V3: 128 heads of 128, latents of 512 and a shared key of 64
    narrow, full = held(128, 128, 512, 64)
    return [
        Finding("whole sequence", "equal", f"{apart[0]:.0e} apart", apart[0] < 1e-5),
        Finding(
            "a step on the cache of latents", "equal", f"{apart[1]:.0e} apart", apart[1] < 1e-5
        ),
        Finding(
            "bytes a token and layer in float32, 128 heads of 128 and latents of 512 + 64",
            "(512 + 64) / (2 x 128 x 128) of full keys and values",
            f"{narrow} against {full}: 1 / {full / narrow:.1f}",
            narrow * 2 * 128 * 128 == full * (512 + 64),
        ),
    ]


@claim("muon-orthogonal", paper="muon-mla-moe")
def muon_orthogonal(quick):
    """Muon's update is nearly orthogonal: singular values about 1, in the directions of the SVD."""
    from scanmax.models.layers import NamedAxes
    from scanmax.train.config import OptimConfig
    from scanmax.train.optim import make_optimizer

    (gradient,) = _draw((64, 96))
    params = {"kernel": jnp.zeros_like(gradient)}
    axes = {"kernel": NamedAxes(("embed", "mlp"), (0,), (1,))}
    config = OptimConfig(name="muon", weight_decay=0.0, clip_norm=0.0)
    optimizer = make_optimizer(config, lambda step: 1.0, params, axes)
    update = optimizer.update({"kernel": gradient}, optimizer.init(params), params)[0]["kernel"]
    # of root mean square 0.2 as far as orthogonal, by a factor of the larger side
    found = -np.asarray(update, np.float64) / (0.2 * math.sqrt(96))
    left, _, right = np.linalg.svd(np.asarray(gradient, np.float64), full_matrices=False)
    values = np.linalg.svd(found, compute_uv=False)
    inside = left.T @ found @ right.T
    off = np.abs(inside - np.diag(np.diag(inside))).max()
    return [
        Finding(
            "singular values of the update of a random 64 x 96 gradient",
            "0.7 to 1.2",
            f"{values.min():.2f} to {values.max():.2f}",
            bool(values.min() > 0.65 and values.max() < 1.25),
        ),
        Finding(
            "largest part of it off the gradient's singular vectors",
            "0",
            f"{off:.0e}",
            bool(off < 1e-3),
        ),
    ]


@claim("muon-decoder", paper="muon-mla-moe", by_hand=True)
def muon_decoder(quick):
    """A small decoder with latent attention and experts reaches AdamW's loss sooner by Muon."""
    from benchmarks.claims.learning import curves, mean
    from scanmax.configs import bytes_mla

    found = {}
    for name, rate in bytes_mla.RATES.items():
        config = bytes_mla.get_config(name)
        if quick:
            config.duration, config.eval_every = "4 steps", "2 steps"
        # steps, and the held-out bits a byte of each seed at each
        found[name] = curves(config, f"muon-decoder-{name}-{rate}", "bits_per_byte")
    steps, ends = found["muon"][0], {}
    for name, (_, values) in found.items():
        ends[name] = [seed[-1] for seed in values]
    target = mean(ends["adamw"])
    curve = [mean(list(each)) for each in zip(*found["muon"][1])]
    reached = next((step for step, value in zip(steps, curve) if value <= target), None)
    told = {
        name: f"{mean(own):.3f} ({', '.join(f'{end:.3f}' for end in own)}) at a rate of "
        f"{bytes_mla.RATES[name]}"
        for name, own in ends.items()
    }
    return [
        Finding(
            f"held-out bits a byte after {steps[-1]} steps, seeds 0-2",
            "lower by Muon",
            f"Muon {told['muon']}, AdamW {told['adamw']}",
            all(own < other for own, other in zip(ends["muon"], ends["adamw"])),
        ),
        Finding(
            "steps until Muon's mean is at what AdamW's ends with",
            "48% to 52% of its compute",
            "never" if reached is None else f"{reached}, {reached / steps[-1]:.0%}",
            # evaluations are some steps apart
            reached is not None and reached <= 0.55 * steps[-1],
        ),
    ]
