"""Writes NAME.npz beside this file: outputs and gradients of small models with seeded weights.

    python tests/golden/make_authors.py [NAME ...]

The weights are drawn anew from their seed by whoever reads a file (`seeded.py`). When it was made,
the authors' public code gave these logits and gradients too, with the same weights.
"""

import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np

import scanmax

HERE = pathlib.Path(__file__).parent
# Arrays in a file, whose names would be most of it.
MANY = 300
GATED = {"dims": (8, 16), "depths": (1, 1), "heads": (1, 2), "mlp_ratio": 2.0, "projection": 12}
AGGREGATED = {
    "mixer": ("aggregated", "cosine"),
    "mixer_options": {"aggregated": {"bias_hidden": 6}, "cosine": {"bias_hidden": 6}},
    "reductions": (2, 1),
}
# File -> (registered name, fields that shrink it, side of its images).
MODELS = {
    "affnet": (
        "affnet_base",
        {
            "dims": (4, 8, 8, 8, 16),
            "depths": (1, 2, 2, 1, 1),
            "fuse": (True, True, False),
            "expansion": 2.0,
        },
        32,
    ),
    "vssd": (
        "vssd_micro",
        {
            "dims": (8, 16, 32, 64),
            "depths": (1, 1, 1, 1),
            "heads": (2, 2, 4, 4),
            "state_size": 8,
        },
        64,
    ),
    "t2t_vit": (
        "t2t_vit_7",
        {"dim": 16, "depth": 2, "heads": 2, "token_dim": 8, "img_size": 32},
        32,
    ),
    "t2t_vit_t": (
        "t2t_vit_t_14",
        {"dim": 16, "depth": 1, "heads": 2, "token_dim": 8, "img_size": 32},
        32,
    ),
    "context_cluster": (
        "coc_tiny",
        {
            "dims": (8, 12),
            "depths": (1, 1),
            "heads": (2, 3),
            "head_size": 4,
            "centers": (2, 3),
            "region_sizes": (4, None),
            "mlp_ratio": 2.0,
            "layer_scale": 0.5,
        },
        32,
    ),
    "spectformer": (
        "spectformer_s",
        {
            "img_size": 32,
            "dims": (8, 12),
            "depths": (1, 1),
            "heads": (2, 3),
            "mlp_ratio": 2.0,
            "mixer": ("global_filter", "spatial_reduction"),
            "stem_dim": 6,
        },
        32,
    ),
    **{
        name: (registered, {"dims": (8, 8, 16, 16), "depths": (1, 3, 1, 1), "stem_dims": (8,)}, 33)
        for name, registered in (("ibn_a", "resnet50_ibn_a"), ("ibn_b", "resnet18_ibn_b"))
    },
    "drwkv": (
        "drwkv_s_2",
        {
            "out_channels": 6,
            "img_size": 8,
            "dim": 8,
            "depth": 3,
            "heads": 2,
            "mlp_ratio": 2.0,
            "label_count": 3,
        },
        8,
    ),
    "unireplknet": (
        "unireplknet_t",
        {
            "dims": (8, 8, 8, 12),
            "depths": (1, 1, 2, 1),
            "kernel_sizes": ((3,), (3,), (7, 3), (3,)),
            "layer_scale": 0.5,
        },
        32,
    ),
    "hornet": (
        "hornet_tiny_gf",
        {
            "img_size": 32,
            "dims": (4, 8, 16, 32),
            "depths": (1, 1, 1, 1),
            "orders": (2, 3, 2, 2),
            "neighbourhoods": ("conv", "global_local", "global_local", "global_local"),
            "layer_scale": 0.5,
        },
        32,
    ),
    "lsnet": (
        "lsnet_t_distill",
        {
            "img_size": 72,
            "dims": (32, 32, 32, 32),
            "depths": (1, 1, 2, 2),
            "heads": (1, 1, 1, 2),
            "key_dim": 4,
        },
        72,
    ),
    "dhvt": (
        "dhvt_tiny_cifar_patch4",
        {"img_size": 16, "dim": 16, "depth": 2, "heads": 2, "mlp_ratio": 2.0},
        16,
    ),
    "ddrnet23_slim": ("ddrnet23_slim", {"dim": 4, "last_dim": 12}, 64),
    "ddrnet39": (
        "ddrnet39",
        {
            "dim": 4,
            "last_dim": 12,
            "depths": (2, 2),
            "coarse_depths": (2, 2, 2),
            "fine_depths": (2, 2, 2),
        },
        64,
    ),
    "fno2d": ("fno2d_small", {"dim": 6, "depth": 2, "modes": (6, 6), "out_channels": 2}, 9),
    "tfno2d": (
        "tfno2d_small",
        {
            "dim": 6,
            "depth": 2,
            "modes": (6, 6),
            "norm": "group",
            "preactivation": True,
            "out_channels": 2,
        },
        9,
    ),
    "glnet": (
        "glnet_16g",
        {
            "dims": (8, 8, 16, 16),
            "depths": (1, 1, 2, 1),
            "heads": (2, 2, 4, 4),
            "mlp_ratio": 2.0,
            "mixer": ("attention",) * 2 + ("slots", "attention"),
            "layer_scale": 0.5,
            "mixer_options": {"slots": {"slot_grid": 2}},
        },
        32,
    ),
    "glnet_stl": (
        "glnet_stl_paramslot",
        {
            "dims": (8, 8, 16, 16),
            "depths": (1, 1, 1, 1),
            "heads": (2, 2, 4, 4),
            "mlp_ratio": 2.0,
            "mixer_options": {"slots": {"slot_grid": 2, "slot_init": "param"}},
        },
        32,
    ),
    "rwkv_clip": (
        "rwkv_clip_b32",
        {"img_size": 32, "patch_size": 8, "dim": 16, "depth": 2, "heads": 2},
        32,
    ),
    "smpconv": (
        "smpconv_t",
        # The second map is smaller than its kernel.
        {"dims": (6, 10), "depths": (1, 1), "heads": (1, 1), "kernel_sizes": (7, 9)},
        24,
    ),
    "smt": (
        "smt_b",
        {
            "dims": (8, 8, 16, 16),
            "depths": (1, 1, 2, 1),
            "heads": (1, 2, 2, 4),
            # Kernels of 9 by 9 are slow to compile.
            "mixer": ("gated_attention",) * 2 + ("scale_aware", "gated_attention"),
            "mlp_ratio": 2.0,
            "layer_scale": 0.5,
        },
        32,
    ),
    "ms_mlp": (
        "ms_mlp_tiny_patch4_shift5_224",
        # Groups of 2, 2, 2, 2, 1 and of 4, 4, 4, 4, 2 channels.
        {
            "dims": (9, 18),
            "depths": (1, 2),
            "heads": (1, 1),
            "mlp_ratio": 2.0,
            "sizes": ((1, 1, 3, 3, 5), (1, 3, 3, 1, 5)),
            "layer_scale": 0.5,
        },
        24,
    ),
    "parcnetv2": (
        "parcnetv2_xt",
        {
            "dims": (6, 10),
            "depths": (1, 1),
            "heads": (1, 1),
            # Longer than the first map needs, and shorter.
            "global_sizes": (9, 3),
            "residual_scales": (None, 1.0),
        },
        16,
    ),
    "soft": (
        "soft_tiny",
        {
            "img_size": 32,
            "dims": (8, 12, 8, 8),
            "depths": (1, 1, 1, 1),
            "heads": (2, 3, 2, 2),
            "ratios": (4, 4, 2, 1),
        },
        32,
    ),
    "spanet": (
        "spanet_small",
        {
            "dims": (6, 10),
            "depths": (1, 1),
            "heads": (1, 1),
            "mlp_ratio": 2.0,
            "radii": (2, 1),
            "residual_scales": (None, 0.5),
        },
        32,
    ),
    "spartan": (
        "spartan_t",
        {
            "dims": (16, 16),
            "depths": (1, 2),
            "heads": (1, 1),
            "mlp_ratio": (4, 2),
            "layer_scale": 0.5,
            "dense_stages": 1,
        },
        16,
    ),
    "cas_vit": ("cas_vit_xs", {"dims": (8, 12), "depths": (1, 1), "heads": (1, 1)}, 24),
    "rmt": (
        "rmt_t",
        {
            "dims": (8, 16),
            "depths": (1, 1),
            "heads": (2, 4),
            "mlp_ratio": 2.0,
            "mixer": ("rmt_decomposed", "rmt"),
            "spans": (4.0, 6.0),
            "layer_scale": (None, 0.5),
            "projection": 12,
        },
        24,
    ),
    "illama": (
        "illama_tiny",
        {"img_size": 32, "dim": 16, "depth": 2, "heads": 2, "mlp_multiple": 8},
        32,
    ),
    "inline_deit": (
        "inline_deit_tiny",
        # Two blocks: the class token never reads the taps of the last.
        {"img_size": 32, "dim": 16, "depth": 2, "heads": 2, "mlp_ratio": 2.0},
        32,
    ),
    "kat": (
        "kat_tiny_patch16_224",
        {"img_size": 32, "dim": 16, "depth": 1, "heads": 2, "mlp_ratio": 2.0},
        32,
    ),
    "mlp_kan": (
        "mlp_kan_tiny_patch16_224",
        {"img_size": 32, "dim": 24, "depth": 2, "heads": 2, "mlp_ratio": 1.0},
        32,
    ),
    "mavit": ("mavit_t", {**GATED, "mixer": ("mala", "gated_attention")}, 24),
    "transnext": (
        "transnext_micro",
        {
            "img_size": 32,
            "dims": (8, 12),
            "depths": (1, 1),
            "heads": (2, 3),
            "mlp_ratio": 3.0,
            **AGGREGATED,
        },
        32,
    ),
    "maxim": (
        "maxim_s2",
        {
            "dims": (4, 8),
            "depth": 1,
            "bottlenecks": 1,
            "supervised_scales": 2,
            "block_sizes": (4, 4, 2),
            "grid_sizes": (2, 2, 2),
            "out_channels": 3,
        },
        16,
    ),
    "moat": (
        "tiny_moat0_pretrain_256_1k",
        {
            "dims": (8, 16),
            "depths": (1, 2),
            "stem_dim": 6,
            "head_size": 8,
            "mixer": ("", "window"),
            "window_size": (None, None),
            # The map is larger.
            "table_sizes": (2, 3),
        },
        32,
    ),
    "moh_vit": (
        "moh_transnext_small_75",
        {
            "img_size": 32,
            "dims": (8, 20),
            "depths": (1, 1),
            "heads": (2, 5),
            "mlp_ratio": 3.0,
            **AGGREGATED,
            "shared_heads": (2, 2),
            "routed_heads": (0, 2),
        },
        32,
    ),
    "uniformer": (
        "uniformer_base_ls",
        {
            "dims": (4, 8, 8, 12),
            "depths": (1, 1, 1, 1),
            "heads": (1, 2, 2, 3),
            "mlp_ratio": 2.0,
            "layer_scale": (None, None, 0.5, 0.5),
        },
        64,
    ),
    "simple_kagn": ("simple_kagn_4", {"dims": (4, 6, 8, 10), "groups": 1}, 9),
    "simple_wavkan": ("simple_wavkan_4", {"dims": (4, 6, 8, 10)}, 9),
    "vgg_kagn_bn": (
        "vgg_kagn_bn11_v4",
        # Random weights of the fifth polynomial are past float32's digits.
        {"dims": (20, 40, 40), "depths": (1, 1, 2), "options": {"degree": 3}},
        10,
    ),
    "reskagnetbn": ("reskagnetbn_18x32p", {"depths": (1, 2, 1, 1)}, 9),
    "vit_comer": (
        "vit_comer_small",
        {
            "img_size": 64,
            "dim": 12,
            "depths": (1, 1, 1, 1),
            "heads": 3,
            "mlp_ratio": 2.0,
            "stem_dim": 4,
            "deform_heads": 2,
            "deform_ratio": 0.5,
            "points": 2,
            "extra": 1,
            "interaction_scale": 0.5,
        },
        64,
    ),
    "vit_resnas": (
        "vit_resnas_tiny",
        {
            "img_size": 32,
            "patch_size": 8,
            "stem_dim": 4,
            "dims": (6, 10),
            "head_counts": ((1, 3), (2,)),
            "head_dims": (4, 6),
            "hidden_dims": ((8, 12), (10,)),
        },
        32,
    ),
    "scnet": ("scnet_t_x4", {"dim": 16, "depth": 2, "out_channels": 3}, 5),
    "scnet_ps": ("scnet_t_x3_ps", {"dim": 8, "depth": 1, "out_channels": 3}, 5),
    "wavemix": ("wavemix", {"dim": 8, "depth": 2}, 32),
    "wavemix_lite": ("wavemix_lite_144_7_cifar10", {"dim": 8, "depth": 1}, 8),
    "terminator": (
        "terminator_cifar10",
        {
            "dims": (6, 6, 12),
            "earlier": ((), (), (2,)),
            "groups": 3,
            "img_size": 8,
            "slow_hidden_dim": 5,
            "slow_layers": (2, 1, 1),
            "local_sizes": (3, 1, 5, 3),
            "local_hidden_dim": 4,
            "local_layers": 1,
            "channel_hidden_dim": 3,
            "gate_hidden_dims": (2, 4),
            "gate_layers": 1,
            "batch_alone": True,
        },
        8,
    ),
    "ravlt": ("ravlt_t", {**GATED, "mixer": ("rala", "gated_attention")}, 24),
}


def small_model(name, dtype=jnp.float32):
    """The model of a file."""
    registered, fields, _ = MODELS[name]
    own = {} if "out_channels" in fields else {"num_classes": 10}
    return scanmax.create_model(registered, **fields, **own, dtype=dtype, param_dtype=dtype)


def seeded_run(name, dtype=jnp.float32):
    """(model, variables, images, cotangent) of a file."""
    from golden import seeded

    model, size = small_model(name, dtype), MODELS[name][2]
    shape = (size, size, 3)
    variables = seeded.seeded_variables(model, shape, dtype)
    answer: tuple[int, ...] = (10,)
    if not hasattr(model, "num_classes"):
        side = size * getattr(model, "upscale", 1)
        answer = (side, side, model.out_channels)
    return model, variables, *seeded.seeded_images(shape, answer, dtype)


def main(*names: str) -> None:
    from golden import seeded

    for name in names or MODELS:
        with jax.enable_x64(True):
            found = seeded.outputs(*seeded_run(name, jnp.float64))
        found["input_grad"] = found["input_grad"].astype(np.float32)
        if len(found) > MANY:
            found = seeded.packed(found)
        np.savez_compressed(HERE / f"{name}.npz", **found)


if __name__ == "__main__":
    sys.path.insert(0, str(HERE.parent))
    main(*sys.argv[1:])
