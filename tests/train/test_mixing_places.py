"""What a mix takes from where: holes, cells, boxes and squares against loops over pixels."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scanmax.errors import UserError
from scanmax.testing import SmallImages, SmallMaps, SmallNet
from scanmax.train.build import build
from scanmax.train.config import Config
from scanmax.train.mixing import MIXES
from scanmax.train.mixing.base import random_cells
from scanmax.train.mixing.saliencymix import spectral_residual
from scanmax.train.mixing.smmix import least_square
from scanmax.train.mixing.tokenmix import block_cells

ROWS, SIDE, CLASSES = 6, 12, 3
RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=(ROWS, SIDE, SIDE, 2)).astype(np.float32)
LABELS = RNG.integers(0, CLASSES, ROWS).astype(np.int32)
GUIDE = RNG.uniform(size=(ROWS, 4, 4)).astype(np.float32)


@functools.cache
def mixed(name, per="element", **options):
    """(own, what is asked of the image, the batch that comes of it)."""
    mix = MIXES[name](classes=CLASSES, per=per, **options)
    given = {"image": jnp.asarray(IMAGES), "label": jnp.asarray(LABELS)}
    found = jax.jit(mix)(jax.random.key(5), given, jnp.asarray(GUIDE) if mix.guided else None)
    return jax.device_get(found)


def check(found, pasted, weight=None):
    """Pixels and labels of every row, given what is pasted over it."""
    own = found["mix_mask"]
    assert set(np.unique(own)) == {0, 1}
    expected = np.where(own[..., None] == 1, IMAGES, pasted)
    np.testing.assert_allclose(found["image"], expected, atol=1e-5)
    one_hot = np.eye(CLASSES)[LABELS]
    weight = own.mean((1, 2)) if weight is None else weight
    np.testing.assert_allclose(found["mix_weight"], weight, atol=1e-6)
    labels = weight[:, None] * one_hot + (1 - weight[:, None]) * one_hot[::-1]
    np.testing.assert_allclose(found["label"], labels, atol=1e-6)
    np.testing.assert_array_equal(found["mix_labels"], np.stack([one_hot, one_hot[::-1]], 1))


def box(own):
    """(top, left, height, width) of the zeros, which fill a box."""
    ys, xs = np.nonzero(own == 0)
    top, left = ys.min(), xs.min()
    height, width = ys.max() + 1 - top, xs.max() + 1 - left
    assert len(ys) == height * width
    return top, left, height, width


@pytest.mark.parametrize(
    ("name", "options", "cell"),
    [
        ("gridmix", {"grid": 4}, 3),
        ("maskmix", {"patch": 3, "patches": 2}, 6),
        ("maskmix", {"patch": 2, "patches": 4}, 8),
        ("tokenmix", {"patch": 3, "least": 0.2, "blocks": False}, 3),
        ("tokenmix", {"patch": 3, "least": 0.2}, 3),
    ],
)
def test_cells_come_whole_from_one_image(name, options, cell):
    found = mixed(name, **options)
    own, weight = found["mix_mask"], None
    for row in range(ROWS):
        for top in range(0, SIDE, cell):
            for left in range(0, SIDE, cell):
                assert len(np.unique(own[row, top : top + cell, left : left + cell])) == 1
    assert len(np.unique(own.mean((1, 2)))) > 1
    if name == "tokenmix":
        if not options.get("blocks", True):
            # A fifth of 16 patches at least: three whole ones.
            assert (own.mean((1, 2)) <= 13 / 16).all()
        weight = np.zeros(ROWS)
        for row in range(ROWS):
            kept, gained = 0.0, 0.0
            for y in range(SIDE):
                for x in range(SIDE):
                    share = own[row, y, x]
                    cells = y // 3, x // 3
                    kept += share * GUIDE[row][cells] / GUIDE[row].sum()
                    partner = GUIDE[ROWS - 1 - row]
                    gained += (1 - share) * partner[cells] / partner.sum()
            weight[row] = kept / (kept + gained)
    check(found, IMAGES[::-1], weight)


def test_so_many_cells_are_taken_each_as_likely():
    count = jnp.tile(jnp.arange(7), 500)
    taken = np.asarray(jax.jit(random_cells, static_argnums=2)(jax.random.key(0), count, (2, 3)))
    np.testing.assert_array_equal(taken.sum((1, 2)), count)
    np.testing.assert_allclose(taken.mean(0), 0.5, atol=0.03)


def test_blocks_take_almost_as_many_cells_and_lie_together():
    count = jnp.tile(jnp.arange(1, 48), 8)
    draw = jax.jit(lambda f, key: f(key, count, (7, 7)), static_argnums=0)
    edges = []
    for kind in (block_cells, random_cells):
        taken = np.asarray(draw(kind, jax.random.key(0)))
        assert (taken.sum((1, 2)) <= count).all()
        assert (taken.sum((1, 2)) >= count - 5).mean() > 0.95
        edges.append(
            (taken[:, 1:] != taken[:, :-1]).sum() + (taken[:, :, 1:] != taken[:, :, :-1]).sum()
        )
    assert edges[0] < 0.6 * edges[1]


@pytest.mark.parametrize("per", ["pair", "element"])
def test_the_whole_partner_is_resized_into_a_box(per):
    found = mixed("resizemix", per, scales=(0.3, 0.8))
    pasted, sizes = np.zeros_like(IMAGES), []
    for row in range(ROWS):
        top, left, height, width = box(found["mix_mask"][row])
        small = jax.image.resize(IMAGES[ROWS - 1 - row], (height, width, 2), "linear")
        pasted[row, top : top + height, left : left + width] = small
        sizes.append(height)
        assert height == width
        assert 3 <= height <= 9
    check(found, pasted)
    assert (sizes == sizes[::-1]) == (per == "pair")


def test_the_box_lies_around_what_is_salient():
    found = mixed("saliencymix")
    saliency = np.asarray(spectral_residual(jnp.asarray(IMAGES)))
    for row in range(ROWS):
        if (found["mix_mask"][row] == 1).all():
            continue
        peak = np.unravel_index(np.argmax(saliency[ROWS - 1 - row]), (SIDE, SIDE))
        top, left, height, width = box(found["mix_mask"][row])
        for start, length, middle in ((top, height, peak[0]), (left, width, peak[1])):
            ahead, behind = middle - start, start + length - middle
            # Around the peak, unless the border cuts it.
            assert 0 <= behind - ahead <= 1 or start == 0 or start + length == SIDE
            assert start <= middle < start + length
    check(found, IMAGES[::-1])
    # A spot on noisy ground is salient.
    spots = 0.1 * RNG.normal(size=(4, SIDE, SIDE, 1)).astype(np.float32)
    spots[:, 4:7, 8:11] += 1
    for saliency in np.asarray(spectral_residual(jnp.asarray(spots))):
        y, x = np.unravel_index(np.argmax(saliency), (SIDE, SIDE))
        assert abs(y - 5) <= 2
        assert abs(x - 9) <= 2


@pytest.mark.parametrize("per", ["batch", "element"])
def test_the_least_square_gets_the_partners_best(per):
    found = mixed("smmix", per, patch=3, sides=(0.25, 0.75))
    pasted, sides = IMAGES[::-1].copy(), []

    def squares(guide, side):
        starts = range(4 - side + 1)
        return {(y, x): guide[y : y + side, x : x + side].sum() for y in starts for x in starts}

    for row in range(ROWS):
        top, left, height, width = box(found["mix_mask"][row])
        assert height == width
        side = height // 3
        sides.append(side)
        least, other = squares(GUIDE[row], side), squares(GUIDE[ROWS - 1 - row], side)
        assert (top // 3, left // 3) == min(least, key=least.get)
        y, x = max(other, key=other.get)
        piece = IMAGES[ROWS - 1 - row, 3 * y : 3 * y + height, 3 * x : 3 * x + width]
        pasted[row, top : top + height, left : left + width] = piece
    check(found, pasted)
    assert set(sides) <= {1, 2, 3}
    assert len(set(sides)) == 1 or per == "element"


def test_squares_lie_within_a_map():
    maps, sides = RNG.normal(size=(4, 5, 6)).astype(np.float32), [1, 2, 4, 5]
    found = jax.jit(least_square)(jnp.asarray(maps), jnp.asarray(sides))
    for row, (place, side) in enumerate(zip(np.asarray(found), sides)):
        sums = {
            (y, x): maps[row, y : y + side, x : x + side].sum()
            for y in range(6 - side)
            for x in range(7 - side)
        }
        assert tuple(place) == min(sums, key=sums.get)


def test_holes_are_squares_cut_at_the_border_as_often_as_they_should():
    mix = MIXES["cutout"](classes=CLASSES, size=5)
    given = {"image": jnp.asarray(IMAGES) + 10, "label": jnp.asarray(LABELS)}
    found = jax.jit(mix)(jax.random.key(1), given)
    assert set(found) == set(given)
    np.testing.assert_array_equal(found["label"], LABELS)
    holes = np.asarray(found["image"] == 0).all(-1)
    np.testing.assert_array_equal(found["image"], np.where(holes[..., None], 0, given["image"]))
    for hole in holes:
        top, left, height, width = box(1 - hole)
        assert height == 5 or top == 0 or top + height == SIDE
        assert width == 5 or left == 0 or left + width == SIDE
    # The mean share of a side that a hole covers, over all middles.
    spans = [min(SIDE, middle + 3) - max(0, middle - 2) for middle in range(SIDE)]
    expected = (np.mean(spans) / SIDE) ** 2
    many = jax.jit(mix.cut, static_argnums=1)(jax.random.key(2), (3000, SIDE, SIDE))
    assert float(many.mean()) == pytest.approx(expected, rel=0.02)


def test_labels_follow_what_boxes_show_of_their_class():
    """Against loops: the pixels of a resized box, the shares of two maps."""
    options = {"tap": "map", "alpha": 1.0}
    found = mixed("snapmix", **options)
    mix = MIXES["snapmix"](classes=CLASSES, per="element", **options)
    keys = jax.random.split(jax.random.key(5), 3)
    (start, size), (from_start, from_size) = (
        [np.asarray(x) for x in mix.boxes(key, ROWS, [SIDE, SIDE])] for key in keys[:2]
    )
    maps = np.array(jax.image.resize(GUIDE, (ROWS, SIDE, SIDE), "linear"))
    maps -= maps.min((1, 2), keepdims=True)
    maps /= maps.sum((1, 2), keepdims=True)
    pasted, weight = np.array(IMAGES), np.zeros(ROWS)
    for row in range(ROWS):
        other, kept, shown = ROWS - 1 - row, 1.0, 0.0
        for y in range(size[row, 0]):
            for x in range(size[row, 1]):
                here = start[row, 0] + y, start[row, 1] + x
                kept -= maps[row][here]
                ends, shares = [], []
                for axis, place in enumerate((y, x)):
                    ratio = from_size[row, axis] / size[row, axis]
                    source = np.clip((place + 0.5) * ratio - 0.5, 0, from_size[row, axis] - 1)
                    low = int(source)
                    ends.append([from_start[row, axis] + low, low + from_start[row, axis] + 1])
                    shares.append([1 - (source - low), source - low])
                pasted[row][here] = sum(
                    shares[0][i] * shares[1][j] * IMAGES[other, ends[0][i], ends[1][j]]
                    for i in (0, 1)
                    for j in (0, 1)
                    if shares[0][i] * shares[1][j]
                )
        top, left = from_start[row]
        height, width = from_size[row]
        shown = maps[other, top : top + height, left : left + width].sum()
        weight[row] = kept / (kept + shown)
        assert box(found["mix_mask"][row]) == (*start[row], *size[row])
    check(found, pasted, weight)


def test_the_map_of_a_class_is_the_heads_row_times_the_last_map():
    model, images = SmallMaps(), jnp.asarray(RNG.normal(size=(3, 4, 4, 1)), jnp.float32)
    variables = model.init(jax.random.key(0), images)
    mix = MIXES["snapmix"](classes=4, tap="output")
    labels = jnp.array([2, 0, 3])
    found = mix.guide(model, variables, images, labels)
    _, sown = model.apply(variables, images, mutable=["intermediates"])
    rows = variables["params"]["head"]["kernel"].value.T[labels]
    expected = jnp.einsum("btc,bc->bt", sown["intermediates"]["output"][0], rows) / 4
    np.testing.assert_allclose(found.reshape(3, 4), expected, rtol=1e-4, atol=1e-6)
    # And through the step, where the model itself is asked.
    config = Config(mix=(("snapmix", {"tap": "output"}),), batch_size=16)
    run = build(config, pipeline=SmallImages(), model=model)
    jax.eval_shape(run.train_step, run.shapes, run.pipeline.train_spec, ())


def test_rows_that_do_not_count_reach_no_other_when_moved():
    given = {"image": jnp.asarray(IMAGES).at[1].set(jnp.nan), "label": jnp.asarray(LABELS)}
    given["mask"] = jnp.ones(ROWS, bool).at[1].set(False)
    mix = MIXES["resizemix"](classes=CLASSES, per="element")
    found = jax.jit(mix)(jax.random.key(0), given)
    for row in (1, 4):
        np.testing.assert_array_equal(found["image"][row], given["image"][row])
        assert float(found["mix_weight"][row]) == 1
    assert np.isfinite(found["image"][np.asarray([0, 2, 3, 4, 5])]).all()


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"size": 0}, "size=0 must be at least 1"),
        ({"scales": (0.8, 0.1)}, "the smaller first"),
        ({"alpha": 1.0}, "it needs tap, the path of the last map"),
        ({"patch": 3}, "patch=3 does not divide images of 4 x 4"),
    ],
)
def test_mistakes_are_one_line(fields, expected):
    names = {"size": "cutout", "scales": "resizemix", "patch": "maskmix", "alpha": "snapmix"}
    name = names[next(iter(fields))]

    def trained():
        config = Config(mix=((name, fields),), batch_size=16)
        run = build(config, pipeline=SmallImages(), model=SmallNet())
        jax.eval_shape(run.train_step, run.shapes, run.pipeline.train_spec, ())

    with pytest.raises(UserError, match=expected):
        trained()
