"""The isotropic vision host, and on it ViT and DeiT (Touvron et al., 2021), 36 blocks deep too.

An image becomes a sequence of patches behind its prefix tokens (class, distillation), and every
block has one width. `mixer=` exchanges attention for any other mixer, in all blocks or in each.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax import ops
from scanmax.errors import UserError
from scanmax.models.adapters import adapted
from scanmax.models.blocks import (
    Block,
    ParallelBlock,
    apply_blocks,
    create_norm,
    names_per_block,
)
from scanmax.models.layers import (
    Dense,
    PatchEmbed,
    constrain_last,
    drop_path_rates,
    normal_init,
    partitioned,
)
from scanmax.models.parts.patchout import Patchout
from scanmax.models.parts.positions import FourierPositions, axis_positions, learned_positions
from scanmax.models.parts.stems import DualPatchNorm, HmlpStem, OverlappingStem
from scanmax.models.prompts import prompted, with_prompts, without_prompts
from scanmax.models.registry import Feature, Variant, register_family
from scanmax.models.taps import tap
from scanmax.models.vision.map_host import quarter_blocks, quarter_features
from scanmax.models.vision.path_ensemble import EnsembleBlock, Paths, entering_paths
from scanmax.models.vision.token_reduction import ReducingBlock, TokenReduction

POOLS = ("token", "avg")
POSITIONS = ("learned", "sincos", "sinusoid", "fourier", "axes", "none")
STEMS = ("patches", "hmlp", "hmlp_layer_norm", "overlapping", "dual_patchnorm")


class VisionTransformer(nn.Module):
    """Patches, prefix tokens, positions, `depth` equal blocks, a norm, a head.

    Attributes:
      num_classes: width of the head; 0 gives the pooled features [B, D].
      img_size: side of the images that the position table fits, or (Y, X); at other sizes the table
        is resampled.
      patch_size: side of a patch.
      stem: "patches", one linear map of each, or "hmlp", several convolutions inside each patch,
        of a power of two on a side, with batch norms; "hmlp_layer_norm" normalises places alone;
        "overlapping", strided convolutions with batch norms, as in DHVT; "dual_patchnorm", a layer
        norm of the patch's pixels before the map and one of its channels behind.
      frozen_statistics: the batch norms of the stem keep their averages, in training too.
      parallel: mixers side by side in a block, and MLPs behind them, each with its own norm.
      mixer: a name of MIXERS, or one per block.
      mixer_options: for any mixer's name, fields of its module.
      class_token: a learned token in front, which the head reads.
      distilled: a distillation token behind it, with its own head; training returns both heads'
        logits, evaluation their mean.
      reg_tokens: learned tokens (registers) between the class token and the patches, which nothing
        reads at the end.
      prompts: learned tokens behind the prefix and ahead of the patches, without positions, which
        steer a trained model whose other parameters are frozen.
      prompt_depth: how many blocks have them, each its own.
      adapter: fields of an `SnnkAdapter`, such as {"num_features": 16}: one behind each mixer and
        each MLP, learned while all else is frozen; None leaves them out.
      pool: what the head reads: "token" (the class token) or "avg" (the mean patch).
      fc_norm: the last norm behind the pooling instead of in front of it, as timm has it; None is
        timm's rule, behind a mean and in front of a token. The names of the two differ, `fc_norm`
        and `norm`. Maps of `features` are normalised by the one in front only.
      positions: "learned" (prefix included), "sincos" (fixed, patches only), "sinusoid" (fixed, of
        all tokens in a row), "fourier" (a Fourier code of the grid and a learned projection, as
        XCiT has it, patches only), "axes" (learned, a row's plus a column's) or "none".
      no_embed_class: "learned" is of the patches only.
      moe: fields of an `ExpertMlp`, such as {"num_experts": 8, "top_k": 2}: every MLP becomes a
        mixture of experts; None keeps the MLPs.
      layer_scale: initial value of the scale of each branch; None leaves it out.
      ln_placement: where blocks have their norms: "pre", "post" or "sandwich", as `Block` says.
      channel_attention: a gate of each mixer's branch, "se", "eca" or "cbam"; None leaves it out.
      ensemble_scale: initial value of learned scales of each branch's channels in the sum that the
        last norm reads, and not in what later blocks read; None leaves them out.
      pruned_paths: branches left out of that sum; 2 l is the mixer of block l, 2 l + 1 its MLP.
      token_reduction: fields of a `TokenReduction`, by which blocks drop or merge tokens, with the
        parameters of the plain model; None keeps all.
      patchout: fields of a `Patchout`, such as {"rows": 4, "columns": 40}: patches that training
        leaves out behind the positions; `features` and paths are of all.
      remat: recompute activations backwards; a string names a jax.checkpoint_policies entry.
      scan_layers: compile one block for all; parameters are stacked (blocks.stack_blocks).
    """

    num_classes: int = 1000
    img_size: int | tuple[int, int] = 224
    patch_size: int = 16
    stem: str = "patches"
    frozen_statistics: bool = False
    dim: int = 768
    depth: int = 12
    parallel: int = 1
    heads: int = 12
    mlp_ratio: float = 4.0
    mixer: str | tuple[str, ...] = "attention"
    mixer_options: Mapping[str, Mapping[str, Any]] | None = None
    class_token: bool = True
    distilled: bool = False
    reg_tokens: int = 0
    prompts: int = 0
    prompt_depth: int = 1
    adapter: Mapping[str, Any] | None = None
    pool: str = "token"
    fc_norm: bool | None = None
    positions: str = "learned"
    no_embed_class: bool = False
    norm: str = "layer_norm"
    norm_epsilon: float = 1e-6
    activation: str = "gelu"
    use_bias: bool = True
    moe: Mapping[str, Any] | None = None
    layer_scale: float | None = None
    ln_placement: str = "pre"
    channel_attention: str | None = None
    ensemble_scale: float | None = None
    pruned_paths: tuple[int, ...] = ()
    token_reduction: Mapping[str, Any] | None = None
    patchout: Mapping[str, Any] | None = None
    drop_path_rate: float = 0.0
    dropout_rate: float = 0.0
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32
    remat: bool | str = False
    scan_layers: bool = False

    def __call__(self, images: Float[Array, "B Yi Xi C"], train: bool = False):
        """Logits [B, classes], or pooled features [B, D] without a head.

        A distilled model in training returns (class logits, distillation logits).
        """
        return self.forward(images, train)

    def features(
        self, images: Float[Array, "B Yi Xi C"], train: bool = False
    ) -> tuple[Float[Array, "B Y X D"], ...]:
        """Normalised maps after each quarter of the depth, all of one stride."""
        return self.forward(images, train, as_maps=True)

    def path_outputs(
        self, images: Float[Array, "B Yi Xi C"], train: bool = False
    ) -> Float[Array, "P B T D"]:
        """The tokens that blocks begin with, and what each branch adds for the head.

        Their sum is what the last norm reads, `from_sum` what the head says of it: [1 + 2 L, B, T,
        D], two branches a block in order, of which those that are pruned are 0.
        """
        return self.forward(images, train, as_paths=True)

    def from_sum(self, total: Float[Array, "B T D"], train: bool = False):
        """What the last norm and the head make of a sum of paths, as calling makes of all."""
        return self.forward(None, train, total=total)

    @nn.compact
    def forward(self, images, train, as_maps=False, as_paths=False, total=None):
        if total is not None:
            return self.classify(self.normed_last(total), train)
        maps = self.embed_patches(images, train)
        grid = maps.shape[1:3]
        x = jax.lax.collapse(maps, 1, 3)
        x = self.add_positions(self.add_prefix(x), grid, train)
        place = self.prefix_tokens
        if self.patchout is not None and train and not (as_maps or as_paths):
            leave_out = Patchout(**self.patchout)
            left, grid = leave_out(self.make_rng("dropout"), x[:, place:], grid)
            x = jnp.concatenate([x[:, :place], left], axis=1)
        x = nn.Dropout(self.dropout_rate, deterministic=not train)(x)
        if self.prompts:
            x = with_prompts(self, x[:, :place], x[:, place:], self.prompts)
        x = constrain_last(x)
        x = tap(self, "stem", x)
        ensembles = as_paths or self.ensembles
        reduces = self.token_reduction is not None
        if reduces:
            self.check_reduction(as_maps)
        fields, block = self.block_fields(), self.block_type
        if ensembles:
            fields, block = self.ensemble_fields(fields), EnsembleBlock
            branches = jnp.zeros((2, *x.shape), x.dtype) if as_paths else None
            start, x = x, Paths(x, x, branches)
        fields, block = prompted(fields, block, self.prompts, self.prompt_depth, place)
        fields, block = adapted(fields, block, self.adapter)
        x, kept, _ = apply_blocks(
            fields,
            (x, None) if reduces else x,
            drop_path_rates(self.drop_path_rate, self.depth),
            grid=grid,
            train=train,
            remat=self.remat,
            scan_layers=self.scan_layers,
            block=block,
            keep=self.feature_blocks() if as_maps else range(self.depth) if as_paths else (),
        )
        if as_paths:
            return jnp.concatenate([start[None], *(paths.branches for paths in kept)])
        if ensembles:
            x, kept = x.total, [paths.total for paths in kept]
        x = x[0] if reduces else without_prompts(x, self.prompts, place)
        if as_maps:
            norm = (lambda x: x) if self.norms_pooled else self.last_norm("norm")
            patches = [norm(y)[:, place + self.prompts :] for y in kept]
            return tuple(y.reshape(y.shape[0], *grid, self.dim) for y in patches)
        return self.classify(self.normed_last(x), train)

    @nn.nowrap
    def normed_last(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        """x behind the last norm, where that stands in front of the pooling."""
        return x if self.norms_pooled else self.last_norm("norm")(x)

    @property
    def ensembles(self) -> bool:
        """Whether the head reads another sum of the branches than the stream."""
        return self.ensemble_scale is not None or bool(self.pruned_paths)

    @nn.nowrap
    def ensemble_fields(self, fields: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The fields of blocks whose branches enter a sum by themselves."""
        if self.block_type is not Block or self.prompts:
            raise UserError(
                "paths are of plain blocks: without parallel, token_reduction, prompts and blocks "
                "of other kinds"
            )
        entering = entering_paths(self.depth, self.pruned_paths)
        scale = {"ensemble_scale": self.ensemble_scale}
        return [own | scale | {"entering": both} for own, both in zip(fields, entering)]

    @nn.nowrap
    def embed_patches(self, images: Float[Array, "B Yi Xi C"], train: bool):
        """The map of patches [B, Y, X, D]."""
        if self.stem not in STEMS:
            raise UserError(f"stem={self.stem!r} is not one of {', '.join(STEMS)}")
        fields = {"name": "patch_embed", "dtype": self.dtype, "param_dtype": self.param_dtype}
        if self.stem == "patches":
            return PatchEmbed(self.dim, self.patch_size, **fields)(images)
        if self.stem == "dual_patchnorm":
            return DualPatchNorm(self.dim, self.patch_size, **fields)(images)
        fields |= {"frozen_statistics": self.frozen_statistics}
        if self.stem == "overlapping":
            return OverlappingStem(self.dim, self.patch_size, **fields)(images, train)
        fields |= {"norm": "batch_norm" if self.stem == "hmlp" else "layer_norm"}
        return HmlpStem(self.dim, self.patch_size, **fields)(images, train)

    @property
    def block_type(self) -> type[nn.Module]:
        """Module of the blocks."""
        if self.token_reduction is not None:
            return ReducingBlock
        return ParallelBlock if self.parallel > 1 else Block

    @property
    def norms_pooled(self) -> bool:
        """Whether the last norm stands behind the pooling."""
        return self.pool == "avg" if self.fc_norm is None else self.fc_norm

    @nn.nowrap
    def last_norm(self, name: str) -> nn.Module:
        """The norm after the last block."""
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        return create_norm(self.norm, epsilon=self.norm_epsilon, name=name, **dtypes)

    @nn.nowrap
    def add_prefix(self, x: Float[Array, "B N D"]) -> Float[Array, "B T D"]:
        """Puts the class token, the distillation token and the registers in front."""
        prefix = []
        counts = {
            "cls_token": int(self.class_token),
            "dist_token": int(self.distilled),
            "reg_token": self.reg_tokens,
        }
        for name, count in counts.items():
            if count:
                init = partitioned(normal_init, (None, "embed"))
                token = self.param(name, init, (count, self.dim), self.param_dtype)
                shape = (x.shape[0], count, self.dim)
                prefix.append(jnp.broadcast_to(token.astype(x.dtype)[None], shape))
        return jnp.concatenate([*prefix, x], axis=1) if prefix else x

    @nn.nowrap
    def add_positions(self, x: Float[Array, "B T D"], grid: tuple[int, int], train: bool = False):
        """Adds the position table, resampled where the image is not of the table's size."""
        if self.positions not in POSITIONS:
            raise UserError(f"positions={self.positions!r} is not one of {', '.join(POSITIONS)}")
        if self.positions == "none":
            return x
        if self.positions == "sincos":
            table = ops.sincos_2d(grid, self.dim)
            table = jnp.pad(table, ((self.prefix_tokens, 0), (0, 0)))
        elif self.positions == "fourier":
            dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
            project = FourierPositions(self.dim, (None, "embed"), name="pos_projection", **dtypes)
            table = jnp.pad(project(grid), ((self.prefix_tokens, 0), (0, 0)))
        elif self.positions == "axes":
            sizes = {"prefix_tokens": self.prefix_tokens, "train": train}
            table = axis_positions(self, self.dim, self.fitted_grid, grid, **sizes)
        elif self.positions == "sinusoid":
            length = self.prefix_tokens + self.fitted_grid[0] * self.fitted_grid[1]
            table = ops.sincos_1d(length, self.dim, layout="interleaved", dtype=self.param_dtype)
            sizes = {"prefix_tokens": self.prefix_tokens}
            table = ops.resample_positions(table, self.fitted_grid, grid, **sizes)
        else:
            fitted = self.fitted_grid
            prefix = 0 if self.no_embed_class else self.prefix_tokens
            table = learned_positions(self, self.dim, fitted, grid, prefix_tokens=prefix)
            table = jnp.pad(table, ((self.prefix_tokens - prefix, 0), (0, 0)))
        return x + table.astype(x.dtype)[None]

    @property
    def fitted_grid(self) -> tuple[int, int]:
        """Rows and columns of patches that the positions are made for."""
        size = self.img_size
        rows, columns = (size, size) if isinstance(size, int) else size
        return rows // self.patch_size, columns // self.patch_size

    @nn.nowrap
    def classify(self, x: Float[Array, "B T D"], train: bool):
        """Pools the tokens, normalises what is not yet, and classifies."""
        if self.pool not in POOLS:
            raise UserError(f"pool={self.pool!r} is not one of {', '.join(POOLS)}")
        if self.pool == "token" and not self.class_token:
            raise UserError("pool='token' needs class_token=True; pool='avg' does without")
        if self.distilled and (self.pool != "token" or self.norms_pooled):
            raise UserError("distilled=True reads its two tokens: pool='token', fc_norm=False")
        if self.distilled and self.reg_tokens:
            raise UserError("distilled=True has no registers: reg_tokens=0")
        if self.distilled:
            pooled = (x[:, 0], x[:, 1])
        elif self.pool == "token":
            pooled = (x[:, 0],)
        else:
            pooled = (jnp.mean(x[:, self.prefix_tokens :], axis=1),)
        if self.norms_pooled:
            pooled = (self.last_norm("fc_norm")(pooled[0]),)
        mean = sum(pooled) / len(pooled)
        mean = tap(self, "pre_logits", mean)
        if not self.num_classes:
            return mean
        logits = [
            Dense(
                self.num_classes,
                ("embed", "classes"),
                dtype=self.dtype,
                param_dtype=self.param_dtype,
                name=name,
            )(token)
            for name, token in zip(("head", "head_dist"), pooled)
        ]
        if self.distilled and train:
            return tuple(logits)
        return sum(logits) / len(logits) if self.distilled else logits[0]

    @property
    def prefix_tokens(self) -> int:
        """How many tokens stand before the patches."""
        return int(self.class_token) + int(self.distilled) + self.reg_tokens

    @nn.nowrap
    def block_fields(self) -> list[dict[str, Any]]:
        """The fields of each block."""
        fields = self.plain_block_fields()
        if self.parallel > 1:
            fields = [own | {"parallel": self.parallel} for own in fields]
        if self.token_reduction is None:
            return fields
        reduction = TokenReduction(**self.token_reduction)
        acting = reduction.acting_blocks(self.depth)
        return [
            own | {"reduction": reduction, "reduces": index in acting}
            for index, own in enumerate(fields)
        ]

    @nn.nowrap
    def check_reduction(self, as_maps: bool) -> None:
        """Refuses what needs the tokens that a reduction removes."""
        if as_maps:
            raise UserError("features() needs every token: it does without token_reduction")
        if self.scan_layers:
            raise UserError("token_reduction gives blocks their own lengths: scan_layers=False")
        if self.ln_placement != "pre":
            raise UserError("token_reduction stands behind a norm: ln_placement='pre'")
        if self.parallel > 1:
            raise UserError("token_reduction stands between one mixer and one MLP: parallel=1")
        if self.channel_attention is not None:
            raise UserError("token_reduction leaves no grid: it does without channel_attention")
        if not self.class_token and TokenReduction(**self.token_reduction).method == "evit":
            raise UserError("token_reduction by 'evit' reads the class token: class_token=True")

    @nn.nowrap
    def plain_block_fields(self) -> list[dict[str, Any]]:
        """The fields of each block, without a reduction of tokens."""
        return [
            {
                "mixer": mixer,
                "heads": self.heads,
                "mlp_hidden": round(self.dim * self.mlp_ratio),
                "moe": self.moe,
                "mixer_options": self.mixer_options,
                "norm": self.norm,
                "norm_epsilon": self.norm_epsilon,
                "activation": self.activation,
                "use_bias": self.use_bias,
                "layer_scale": self.layer_scale,
                "ln_placement": self.ln_placement,
                "channel_attention": self.channel_attention,
                "prefix_tokens": self.prefix_tokens + self.prompts,
                "dropout_rate": self.dropout_rate,
                "dtype": self.dtype,
                "param_dtype": self.param_dtype,
            }
            for mixer in names_per_block(self.mixer, self.depth)
        ]

    @nn.nowrap
    def feature_blocks(self) -> tuple[int, ...]:
        """The last block of each quarter of the depth."""
        return quarter_blocks(self.depth)

    @nn.nowrap
    def feature_info(self) -> tuple[Feature, ...]:
        """Name, stride and channels of the maps of `features`."""
        return quarter_features(self.depth, self.patch_size, self.dim)


# Width, depth, heads, and the MLP's width over the model's.
_SIZES = {
    "tiny": (192, 12, 3, 4.0),
    "small": (384, 12, 6, 4.0),
    "base": (768, 12, 12, 4.0),
    "large": (1024, 24, 16, 4.0),
    "huge": (1280, 32, 16, 4.0),
    "giant": (1408, 40, 16, 48 / 11),
    "gigantic": (1664, 48, 16, 64 / 13),
}


# As deep as 36 blocks, in turn or side by side: branches start near nothing.
_DEEP = {"paper": "three-things-vit", "layer_scale": 1e-5}


def _variant(size: str, patch: int, image: int, params: int, *, paper: str = "", **config):
    dim, depth, heads, mlp_ratio = _SIZES[size]
    config = {
        "img_size": image,
        "patch_size": patch,
        "dim": dim,
        "depth": depth,
        "heads": heads,
        "mlp_ratio": mlp_ratio,
        **config,
    }
    return Variant(params, (image, image, 3), paper, config)


VARIANTS = {
    "deit_tiny_patch16_224": _variant("tiny", 16, 224, 5_717_416, paper="deit"),
    "deit_small_patch16_224": _variant("small", 16, 224, 22_050_664, paper="deit"),
    "deit_base_patch16_224": _variant("base", 16, 224, 86_567_656, paper="deit"),
    "deit_base_patch16_384": _variant("base", 16, 384, 86_859_496, paper="deit"),
    "deit_tiny_distilled_patch16_224": _variant(
        "tiny", 16, 224, 5_910_800, paper="deit", distilled=True
    ),
    "deit_small_distilled_patch16_224": _variant(
        "small", 16, 224, 22_436_432, paper="deit", distilled=True
    ),
    "deit_base_distilled_patch16_224": _variant(
        "base", 16, 224, 87_338_192, paper="deit", distilled=True
    ),
    "deit_base_distilled_patch16_384": _variant(
        "base", 16, 384, 87_630_032, paper="deit", distilled=True
    ),
    "vit_tiny_patch16_224": _variant("tiny", 16, 224, 5_717_416),
    "vit_tiny_patch16_384": _variant("tiny", 16, 384, 5_790_376),
    "vit_small_patch8_224": _variant("small", 8, 224, 22_055_272),
    "vit_small_patch16_224": _variant("small", 16, 224, 22_050_664),
    "vit_small_patch16_36x1_224": _variant("small", 16, 224, 64_665_448, depth=36, **_DEEP),
    "vit_small_patch16_18x2_224": _variant(
        "small", 16, 224, 64_665_448, depth=18, parallel=2, **_DEEP
    ),
    "vit_small_patch16_12x3_224": _variant(
        "small", 16, 224, 64_665_448, depth=12, parallel=3, **_DEEP
    ),
    "vit_small_patch16_384": _variant("small", 16, 384, 22_196_584),
    "vit_small_patch32_224": _variant("small", 32, 224, 22_878_952),
    "vit_small_patch32_384": _variant("small", 32, 384, 22_915_432),
    "vit_base_patch8_224": _variant("base", 8, 224, 86_576_872),
    "vit_base_patch16_224": _variant("base", 16, 224, 86_567_656),
    "vit_base_patch16_36x1_224": _variant("base", 16, 224, 256_731_880, depth=36, **_DEEP),
    "vit_base_patch16_18x2_224": _variant(
        "base", 16, 224, 256_731_880, depth=18, parallel=2, **_DEEP
    ),
    "vit_base_patch16_384": _variant("base", 16, 384, 86_859_496),
    "vit_base_patch32_224": _variant("base", 32, 224, 88_224_232),
    "vit_base_patch32_384": _variant("base", 32, 384, 88_297_192),
    "vit_large_patch14_224": _variant("large", 14, 224, 304_203_752),
    "vit_large_patch16_224": _variant("large", 16, 224, 304_326_632),
    "vit_large_patch16_384": _variant("large", 16, 384, 304_715_752),
    "vit_large_patch32_224": _variant("large", 32, 224, 306_535_400),
    "vit_large_patch32_384": _variant("large", 32, 384, 306_632_680),
    "vit_huge_patch14_224": _variant("huge", 14, 224, 632_045_800),
    "vit_giant_patch14_224": _variant("giant", 14, 224, 1_012_611_432),
    "vit_gigantic_patch14_224": _variant("gigantic", 14, 224, 1_844_440_680),
}

register_family("vit", VisionTransformer, VARIANTS)
