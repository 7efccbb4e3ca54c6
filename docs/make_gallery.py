"""Draws docs/gallery.md: what each mixer weighs, its formula, its cost, the line that builds it.

    python docs/make_gallery.py [NAME ...]

Every mixer of MIXERS that sows its matrix over tokens gets a picture: the weights that a query in
the middle of a 14 x 14 grid gives to every pixel, head by head, and, where the mixer has a causal
form, the whole matrix over 49 tokens. The parameters are those it starts with, the tokens those of
one handwritten digit; mixers whose projections start small get them enlarged, or all weights would
look alike. Without names all pictures are drawn, and the README's, which shows some of them side by
side; the page always lists all.
"""

import pathlib
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits

from scanmax import ops
from scanmax.models.mixers import MIXERS, create_mixer
from scanmax.papers import TITLES

FOLDER = pathlib.Path(__file__).resolve().parent
PAGE, PICTURES = FOLDER / "gallery.md", FOLDER / "figures" / "gallery"
GRID, DIM, HEADS, CAUSAL_TOKENS = (14, 14), 64, 4, 49
QUERY = (7, 7)
# Patterns made for thousands of tokens, at a size that shows on these few.
OPTIONS = {"per_head_window": {"windows": (7, 14, 28, 56), "sinks": 2}}
CAUSAL_OPTIONS = {
    "per_head_window": {"windows": (7,), "sinks": 2},
    "sparse_fixed": {"stride": 7, "summary": 2},
    "sparse_strided": {"stride": 7},
}
# Some of every kind, for the README: over the grid, and causal.
OVERVIEW = (
    ("attention", "window", "neighborhood", "rmt", "linear_attention", "nc_ssd"),
    ("alibi", "sparse_strided", "retention", "ssd", "gated_delta", "hyena"),
)
# Parameters that start so small that nothing shows.
PARAMETERS = {"slots": {"slot_scale": 16.0}}
# The projections of most mixers start with a deviation of 0.02, which makes logits of 0.03.
GAIN, GAINS = 8.0, {"mamba2": 1.0, "nc_ssd": 1.0, "ssd": 1.0}


def digit() -> np.ndarray:
    """A handwritten three on the grid, from 0 to 1."""
    image = jnp.asarray(load_digits().images[3], jnp.float32) / 16
    return np.asarray(jax.image.resize(image, GRID, "linear"))


def tokens() -> jax.Array:
    """[1, T, D]: each pixel as random Fourier features of its brightness and its place."""
    rng = np.random.default_rng(0)
    places = np.stack(np.mgrid[: GRID[0], : GRID[1]], -1) / GRID[0]
    points = np.concatenate([digit()[..., None] * 2, places * 2], -1).reshape(-1, 3)
    angles = points @ rng.normal(size=(3, DIM)) + rng.uniform(0, 2 * np.pi, size=DIM)
    return ops.layer_norm(jnp.asarray(np.cos(angles), jnp.float32), None, None)[None]


def matrix(name: str, **fields) -> np.ndarray | None:
    """The matrix [H, T, T] that the mixer sows as it starts; None where it has none."""
    grid = None if fields.get("is_causal") else GRID
    x = GAINS.get(name, GAIN) * (tokens()[:, :CAUSAL_TOKENS] if grid is None else tokens())
    options = (OPTIONS if grid else CAUSAL_OPTIONS).get(name)
    mixer = create_mixer(name, heads=HEADS, options=options, **fields)
    variables = nn.unbox(mixer.init(jax.random.key(1), x, grid=grid))
    for key, value in PARAMETERS.get(name, {}).items():
        variables["params"][key] = jnp.full_like(variables["params"][key], value)
    _, state = mixer.apply(variables, x, grid=grid, mutable=["intermediates"])
    sown = jax.tree.leaves(state.get("intermediates", {}).get("attention", ()))
    return np.asarray(sown[0], np.float32)[0] if sown else None


def causal_matrix(name: str) -> np.ndarray | None:
    """The same of the causal form over a line of tokens; None where there is none."""
    try:
        return matrix(name, is_causal=True)
    except ValueError as error:
        # the words by which every mixer without one says so (tests/models/mixers/test_mixers.py)
        if "no causal form" in str(error):
            return None
        raise


def show(axis, values: np.ndarray, colours: str | None = None):
    """Draws weights; those that may be negative about zero."""
    axis.set_xticks([]), axis.set_yticks([])
    if colours is None and values.min() < 0:
        # A few early rows of a causal matrix may be far larger than all others.
        limit = max(np.percentile(np.abs(values), 99), 1e-9)
        return axis.imshow(values, cmap="RdBu_r", vmin=-limit, vmax=limit)
    # The square root shows small weights beside large ones.
    scale = matplotlib.colors.PowerNorm(0.5, 0, max(values.max(), 1e-9))
    return axis.imshow(values, cmap=colours or "viridis", norm=scale)


def draw_overview() -> None:
    """Writes the README's picture: one head each, over the grid above and along a line below."""
    figure, axes = plt.subplots(2, len(OVERVIEW[0]), figsize=(9.6, 3.9), layout="constrained")
    for axis, name in zip(axes[0], OVERVIEW[0]):
        show(axis, matrix(name)[0, QUERY[0] * GRID[1] + QUERY[1]].reshape(GRID))
        axis.plot(QUERY[1], QUERY[0], "r+", markersize=7)
        axis.set_title(name, fontsize=9)
    for axis, name in zip(axes[1], OVERVIEW[1]):
        show(axis, causal_matrix(name)[0])
        axis.set_title(f"{name}, causal", fontsize=9)
    figure.savefig(FOLDER / "figures" / "mixers.png", dpi=90)
    plt.close(figure)


def draw(name: str) -> bool:
    """Writes the mixer's picture; False where it is no matrix over tokens."""
    weights, causal = matrix(name), causal_matrix(name)
    if weights is None and causal is None:
        return False
    panels = [("the tokens", digit(), "gray_r")]
    if weights is not None:
        rows = weights[:, QUERY[0] * GRID[1] + QUERY[1]].reshape(-1, *GRID)
        panels += [(f"head {head}", row, None) for head, row in enumerate(rows[:HEADS])]
    if causal is not None:
        panels.append(("causal, head 0", causal[0], None))
    figure, axes = plt.subplots(1, len(panels), figsize=(1.9 * len(panels), 2.2))
    for axis, (title, values, colours) in zip(np.atleast_1d(axes), panels):
        shown = show(axis, values, colours)
        if title.startswith("head"):
            axis.plot(QUERY[1], QUERY[0], "r+", markersize=7)
        if colours is None:
            bar = figure.colorbar(shown, ax=axis, fraction=0.046, pad=0.04)
            bar.ax.tick_params(labelsize=5)
        axis.set_title(title, fontsize=8)
    figure.suptitle(name, fontsize=9)
    PICTURES.mkdir(parents=True, exist_ok=True)
    figure.savefig(PICTURES / f"{name}.png", dpi=80, bbox_inches="tight")
    plt.close(figure)
    return True


def page() -> str:
    """The page's text, from the mixers' own words and the pictures that there are."""
    lines = [
        "# Gallery of mixers",
        "",
        "What each mixer weighs as it starts: for the query marked by a cross in the middle of a",
        "14 x 14 grid, the weight of every pixel, head by head; where the mixer has a causal form,",
        "its matrix over 49 tokens. Drawn by `python docs/make_gallery.py`.",
        "",
        "| mixer | cost in T tokens | formula |",
        "| --- | --- | --- |",
    ]
    for name, mixer in sorted(MIXERS.items()):
        formula = mixer.formula.replace("|", "\\|")
        lines.append(f"| [{name}](#{name}) | {mixer.cost} | `{formula}` |")
    for name, mixer in sorted(MIXERS.items()):
        lines += ["", f"## {name}", "", (mixer.__doc__ or "").strip().splitlines()[0], ""]
        lines += ["```text", mixer.formula, "```", "", f"Cost in T tokens: {mixer.cost}."]
        if mixer.papers:
            titles = "; ".join(f"{TITLES[paper]} (`{paper}`)" for paper in mixer.papers)
            lines += ["", f"From: {titles}."]
        lines += [
            "",
            "```python",
            "import scanmax",
            "",
            f'model = scanmax.create_model("vit_tiny_patch16_224", mixer="{name}")',
            "```",
            "",
        ]
        for where, options in (("the grid", OPTIONS), ("the causal matrix", CAUSAL_OPTIONS)):
            if name in options:
                fields = ", ".join(f"{key}={value}" for key, value in options[name].items())
                lines += [f"In the picture of {where}: `{fields}`.", ""]
        for key, value in PARAMETERS.get(name, {}).items():
            lines += [
                f"In the picture `{key}` is {value}; as it starts, all pixels weigh alike.",
                "",
            ]
        if (PICTURES / f"{name}.png").exists():
            lines.append(f"![weights of {name}](figures/gallery/{name}.png)")
        else:
            lines.append("No picture: it is no matrix over tokens.")
    return "\n".join(lines) + "\n"


def main(names) -> None:
    for name in names or sorted(MIXERS):
        print(f"{name}: {'drawn' if draw(name) else 'no matrix'}", flush=True)
    if not names:
        draw_overview()
    PAGE.write_text(page())


if __name__ == "__main__":
    main(sys.argv[1:])
