"""KAN layers, rational functions and maps over places, against torch, float32."""

import functools
import math

import jax.numpy as jnp
import numpy as np

from benchmarks.harness import benchmark
from benchmarks.passes import normal, op_rows
from scanmax import ops


def _kan(x, coefficients, knots):
    return ops.kan_linear(x, ops.bspline_basis(x, knots), coefficients)


def _torch_splines(x, coefficients, *, knots):
    """pykan's sums: the recursion over all knots, then one curve an edge, then their sum."""
    import torch

    t, y = torch.from_numpy(knots)[None], x[..., None]
    basis = ((y >= t[..., :-1]) & (y < t[..., 1:])).to(x.dtype)
    for k in range(1, 4):
        rising = (y - t[..., : -k - 1]) / (t[..., k:-1] - t[..., : -k - 1])
        falling = (t[..., k + 1 :] - y) / (t[..., k + 1 :] - t[..., 1:-k])
        basis = rising * basis[..., :-1] + falling * basis[..., 1:]
    return torch.einsum("bdn,dno->bdo", basis, coefficients).sum(1)


@benchmark("kan_linear")
def kan_linear(quick: bool):
    """ops.kan_linear over cubic splines of 5 intervals against pykan's sums in torch."""
    for batch, width in ((8, 4),) if quick else ((1024, 64), (1024, 256)):
        x, coefficients = normal((batch, width), (width, 8, width), scale=0.3)
        knots = np.tile(np.linspace(-2.2, 2.2, 12, dtype=np.float32), (width, 1))
        yield from op_rows(
            f"{batch} x {width}, 5 intervals",
            functools.partial(_kan, knots=knots),
            [x, coefficients],
            torch_peers={"pykan's sums": functools.partial(_torch_splines, knots=knots)},
        )


def _torch_rational(x, numerator, denominator):
    """KAT's sums without its kernel."""
    import torch

    groups = denominator.shape[0]
    y = x.unflatten(-1, (groups, -1))
    powers = torch.stack([y**i for i in range(6)], -1)
    top = (powers * numerator[:, None]).sum(-1)
    under = (powers[..., 1:5] * denominator[:, None]).sum(-1).abs()
    return (top / (1 + under)).flatten(-2)


@benchmark("group_rational")
def group_rational(quick: bool):
    """ops.group_rational at the hidden width of a small KAT against the same sums in torch."""
    for tokens, width in ((4, 16),) if quick else ((8 * 197, 1536),):
        arrays = normal((tokens, width), (1, 6), (8, 4), scale=0.5)
        yield from op_rows(
            f"{tokens} x {width}, 8 groups",
            ops.group_rational,
            arrays,
            torch_peers={"the sums in torch": _torch_rational},
            tolerance=1e-3,
        )


def _torch_block_mix(x, kernel, bias, *, size):
    """The released code's sums: blocks to the front, the map over the last axis, and back."""
    batch, rows, columns, channels = x.shape
    down, right = rows // size, columns // size
    z = x.reshape(batch, down, size, right, size, channels).permute(0, 1, 3, 5, 2, 4)
    z = (z.reshape(-1, size * size) @ kernel + bias).reshape(
        batch, down, right, channels, size, size
    )
    return z.permute(0, 1, 4, 2, 5, 3).reshape(x.shape)


@benchmark("block_mix")
def block_mix(quick: bool):
    """ops.block_mix at the finest scale of MAXIM's small network against the sums in torch."""
    for side, width, size in ((8, 4, 4),) if quick else ((256, 32, 16), (64, 128, 8)):
        arrays = normal((1, side, side, width), (size**2, size**2), (size**2,))
        yield from op_rows(
            f"{side} x {side} x {width}, blocks of {size}",
            functools.partial(ops.block_mix, block_size=(size, size)),
            arrays,
            torch_peers={"the sums in torch": functools.partial(_torch_block_mix, size=size)},
        )


def _torch_grid_mix(x, kernel, bias, *, size):
    """The released code's sums: cells to the front, the map over the last axis, and back."""
    batch, rows, columns, channels = x.shape
    down, right = rows // size, columns // size
    z = x.reshape(batch, size, down, size, right, channels).permute(0, 2, 4, 5, 1, 3)
    z = (z.reshape(-1, size * size) @ kernel + bias).reshape(
        batch, down, right, channels, size, size
    )
    return z.permute(0, 4, 1, 5, 2, 3).reshape(x.shape)


@benchmark("grid_mix")
def grid_mix(quick: bool):
    """ops.grid_mix at the finest scale of MAXIM's small network against the sums in torch."""
    for side, width, size in ((8, 4, 4),) if quick else ((256, 32, 16), (64, 128, 8)):
        arrays = normal((1, side, side, width), (size**2, size**2), (size**2,))
        yield from op_rows(
            f"{side} x {side} x {width}, grids of {size}",
            functools.partial(ops.grid_mix, grid_size=(size, size)),
            arrays,
            torch_peers={"the sums in torch": functools.partial(_torch_grid_mix, size=size)},
        )


def _torch_token_mlp(x, kernel, bias, out_kernel, out_bias):
    """timm's sums: tokens to the last axis, two linear maps, and back."""
    import torch

    hidden = torch.nn.functional.gelu(x.transpose(1, 2) @ kernel + bias)
    return (hidden @ out_kernel + out_bias).transpose(1, 2)


@benchmark("token_mlp")
def token_mlp(quick: bool):
    """ops.token_mlp at the sizes of Mixer-S/16 and B/16 against timm's sums in torch."""
    for batch, tokens, width, hidden in (
        ((1, 9, 8, 4),) if quick else ((8, 196, 512, 256), (8, 196, 768, 384))
    ):
        yield from op_rows(
            f"{batch} x {tokens} x {width}, {hidden} hidden",
            ops.token_mlp,
            normal(
                (batch, tokens, width), (tokens, hidden), (hidden,), (hidden, tokens), (tokens,)
            ),
            torch_peers={"timm's sums": _torch_token_mlp},
        )


def _torch_recurrence(x, *, kind):
    """Chebyshev's or Legendre's polynomials of the released code, up to the third."""
    import torch

    terms = [torch.ones_like(x), x]
    for m in (2, 3):
        if kind == "chebyshev":
            terms.append(2 * x * terms[-1] - terms[-2])
        else:
            terms.append(((2 * m - 1) * x * terms[-1] - (m - 1) * terms[-2]) / m)
    return torch.stack(terms, -1)


def _torch_bumps(x, centers):
    width = (centers[-1] - centers[0]) / (len(centers) - 1)
    return (-(((x[..., None] - centers) / width) ** 2)).exp()


def _torch_switches(x, centers):
    """FasterKAN's sums."""
    return 1 - ((x[..., None] - centers) / 0.33).tanh().square()


def _torch_hats(x, translation, scale):
    u = (x[..., None] - translation) / scale
    return 2 / (3**0.5 * math.pi**0.25) * (u**2 - 1) * (-(u**2) / 2).exp()


@benchmark("kan_bases")
def kan_bases(quick: bool):
    """The bases of KAN layers against the released code's equations in torch."""
    for batch, width in ((8, 4),) if quick else ((1024, 64), (1024, 256)):
        (x,) = normal((batch, width), scale=0.5)
        centers = np.linspace(-1, 1, 8, dtype=np.float32)
        for kind in ("chebyshev", "legendre"):
            yield from op_rows(
                f"polynomial_basis, {kind}, {batch} x {width}",
                functools.partial(ops.polynomial_basis, kind=kind),
                [x],
                torch_peers={"torch": functools.partial(_torch_recurrence, kind=kind)},
            )
        yield from op_rows(
            f"radial_basis, 8 bumps, {batch} x {width}",
            ops.radial_basis,
            [x, centers],
            torch_peers={"torch": _torch_bumps},
            tolerance=1e-3,
        )
        yield from op_rows(
            f"switch_basis, 8 bumps, {batch} x {width}",
            ops.switch_basis,
            [x, centers],
            torch_peers={"torch": _torch_switches},
            tolerance=1e-3,
        )
        places, widths = normal((width, 4), (width, 4))
        yield from op_rows(
            f"wavelet_basis, 4 hats, {batch} x {width}",
            ops.wavelet_basis,
            [x, places, 1 + np.abs(widths)],
            torch_peers={"torch": _torch_hats},
        )


def _kan_conv(x, coefficients, kernel):
    basis = ops.polynomial_basis(jnp.tanh(x))
    convolve = getattr(ops, f"kan_conv{kernel.ndim - 2}d")
    return convolve(x, basis, coefficients, kernel)


def _torch_kan_conv(x, coefficients, kernel):
    """The released code's sums: all powers of a map side by side, convolved, beside the base."""
    import torch

    axes = kernel.ndim - 2
    convolution = getattr(torch.nn.functional, f"conv{axes}d")

    def convolve(x, kernel):
        return convolution(x, kernel.movedim((-1, -2), (0, 1)), padding=1)

    x = x.movedim(-1, 1)
    basis = _torch_recurrence(torch.tanh(x), kind="chebyshev").movedim(-1, 2).flatten(1, 2)
    y = convolve(basis, coefficients.flatten(axes, axes + 1))
    return (y + convolve(torch.nn.functional.silu(x), kernel)).movedim(1, -1)


@benchmark("kan_conv2d")
def kan_conv2d(quick: bool):
    """ops.kan_conv2d, 1d and 3d over Chebyshev's polynomials against the released code's sums."""
    sizes = (
        ((1, 6, 6, 4), (1, 7, 4), (1, 3, 3, 3, 2))
        if quick
        else ((4, 28, 28, 32), (4, 14, 14, 128), (4, 1024, 64), (2, 8, 16, 16, 16))
    )
    for size in sizes:
        width, taps = size[-1], (3,) * (len(size) - 2)
        yield from op_rows(
            f"{' x '.join(map(str, size))}, degree 3, {' x '.join(map(str, taps))} taps",
            _kan_conv,
            normal(size, (*taps, width, 4, width), (*taps, width, width), scale=0.3),
            torch_peers={"the sums in torch": _torch_kan_conv},
        )


def _bases_of_three(x, xp):
    """Chebyshev's polynomials, bumps and hats of the same x."""
    centers, places = np.linspace(-1, 1, 4, dtype=np.float32), np.zeros((x.shape[-1], 4), "float32")
    if xp is jnp:
        polynomials = ops.polynomial_basis(jnp.tanh(x))
        return polynomials, ops.radial_basis(x, centers), ops.wavelet_basis(x, places, places + 1)
    centers, places = xp.from_numpy(centers), xp.from_numpy(places)
    polynomials = _torch_recurrence(xp.tanh(x), kind="chebyshev")
    return polynomials, _torch_bumps(x, centers), _torch_hats(x, places, places + 1)


def _selectable_kan(x, scores, *coefficients):
    weights = ops.selection_weights(scores)
    basis = jnp.concatenate(_bases_of_three(x, jnp), -1)
    return ops.kan_linear(x, basis, ops.select_functions(coefficients, weights))


def _torch_selectable_kan(x, scores, *coefficients):
    """The paper's sum: every kind as its own layer, weighed input by input, then added."""
    import torch

    weights = scores.softmax(-1)[:, 0]
    parts = [
        torch.einsum("bdn,d,dno->bo", basis, weights[:, m], c)
        for m, (basis, c) in enumerate(zip(_bases_of_three(x, torch), coefficients))
    ]
    return sum(parts)


@benchmark("selectable_kan")
def selectable_kan(quick: bool):
    """A KAN layer of three kinds by scores, one product, against a layer of each kind in torch."""
    for batch, width in ((8, 4),) if quick else ((1024, 64), (1024, 256)):
        yield from op_rows(
            f"{batch} x {width}, three kinds of 4 functions, scores of inputs",
            _selectable_kan,
            normal((batch, width), (width, 1, 3), *((width, 4, width),) * 3, scale=0.3),
            torch_peers={"the sums in torch": _torch_selectable_kan},
        )


def _torch_mix_shift(x, *kernels, distances):
    """The released block's sums: channels first, rolled, grouped convolutions, both added."""
    import torch

    x, sides = x.permute(0, 3, 1, 2), []
    parts = torch.chunk(x, len(distances), 1)
    for axis, own in ((3, kernels[: len(distances)]), (2, kernels[len(distances) :])):
        convolved = [
            torch.nn.functional.conv2d(
                torch.roll(part, distance, axis),
                kernel.permute(3, 2, 0, 1),
                padding=kernel.shape[0] // 2,
                groups=part.shape[1],
            )
            for part, distance, kernel in zip(parts, distances, own)
        ]
        sides.append(torch.cat(convolved, 1))
    return (sides[0] + sides[1]).permute(0, 2, 3, 1)


@benchmark("mix_shift")
def mix_shift(quick: bool):
    """ops.mix_shift at the stages of MS-MLP-T against the released block's sums in torch."""
    distances = (-2, -1, 0, 1, 2)
    stages = ((8, 10, (1, 1, 3, 5, 7)),)
    if not quick:
        stages = ((56, 96, (1, 1, 3, 5, 7)), (14, 384, (1, 5, 5, 5, 7)))
    for side, width, sizes in stages:
        group = -(-width // 5)
        widths = [min(group, width - first) for first in range(0, width, group)]
        shapes = [(size, size, 1, channels) for size, channels in zip(sizes, widths)]
        yield from op_rows(
            f"{side} x {side} x {width}",
            lambda x, *kernels: ops.mix_shift(x, kernels[:5], kernels[5:], distances=distances),
            normal((8, side, side, width), *shapes, *shapes, scale=0.3),
            torch_peers={
                "the sums in torch": functools.partial(_torch_mix_shift, distances=distances)
            },
        )


def _random_features(x, kernel, *, projection, frequencies):
    return ops.universal_random_features(x, projection, frequencies) @ kernel


def _relu_features(x, kernel, *, projection):
    return ops.relu_random_features(x, projection) @ kernel


def _torch_random_features(x, kernel, *, projection, frequencies):
    """The released code's sums, in complex numbers."""
    import torch

    projection, frequencies = torch.from_numpy(projection), torch.from_numpy(frequencies)
    turns = 2j * math.pi * frequencies
    grown = x.to(torch.cfloat) @ (turns[:, None] * projection).T
    phi = torch.exp(grown - (x * x).sum(-1, keepdim=True) / 2 * turns**2) / len(turns) ** 0.5
    real, imaginary = kernel.chunk(2)
    return (phi @ torch.complex(real, -imaginary)).real


def _torch_relu_features(x, kernel, *, projection):
    import torch

    phi = torch.relu(x @ torch.from_numpy(projection).T) / len(projection) ** 0.5
    return phi @ kernel


@benchmark("random_features")
def random_features(quick: bool):
    """A dense layer of 4 widths over 64 random features of tokens, against the sums in torch."""
    for tokens, width in ((4, 16),) if quick else ((8 * 197, 384),):
        (projection,) = normal((64, width), seed=2)
        signs = np.where(np.arange(64) % 2, 1, -1)
        frequencies = (signs / (2 * math.pi)).astype(np.float32)
        x, psi, double = normal((tokens, width), (64, 4 * width), (128, 4 * width))
        x /= np.linalg.norm(x, axis=-1, keepdims=True)
        title, given = f"{tokens} x {width}", {"projection": projection}
        yield from op_rows(
            f"{title}, ReLU",
            functools.partial(_relu_features, **given),
            [x, psi],
            torch_peers={"the sums in torch": functools.partial(_torch_relu_features, **given)},
        )
        given["frequencies"] = frequencies
        yield from op_rows(
            f"{title}, cosine",
            functools.partial(_random_features, **given),
            [x, double],
            torch_peers={"the released sums": functools.partial(_torch_random_features, **given)},
        )
