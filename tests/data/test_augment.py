"""Augmentations: formulas, ranges, distributions; what they must not touch."""

from unittest import mock

import numpy as np
import pytest
from PIL import Image

from scanmax.data import augment, colour, policies, randaugment, transforms
from scanmax.data.config import AugmentConfig, DataConfig
from scanmax.data.source import Source
from scanmax.errors import UserError


def picture(size=16, channels=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (size, size, channels)).astype(np.uint8)


def test_boxes_lie_inside_and_have_the_drawn_share():
    rng = np.random.default_rng(0)
    for weight in (0.5, 0.75, 1.0):
        boxes = np.array([augment.random_box(rng, (40, 40), weight) for _ in range(300)])
        assert boxes.min() >= 0
        assert boxes.max() <= 40
        areas = (boxes[:, 1] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 2])
        side = int(40 * np.sqrt(1 - weight))
        assert areas.max() == side**2


def test_mix_draws_both_kinds_and_the_share():
    rng = np.random.default_rng(0)
    config = AugmentConfig(mixup=0.8, cutmix=1.0, mix_probability=0.5)
    draws = np.stack([augment.mix(rng, (6, 6), config) for _ in range(400)])
    untouched = (draws[:, :2] == 1).all(axis=1)
    blended = draws[:, 0] < 1
    np.testing.assert_array_equal(draws[blended, 0], draws[blended, 1])
    assert not draws[blended, 2:].any()
    top, bottom, left, right = draws[~blended & ~untouched, 2:].T
    np.testing.assert_allclose(
        draws[~blended & ~untouched, 1], 1 - (bottom - top) * (right - left) / 36, rtol=1e-6
    )
    # A box of no area is a cut that changes nothing.
    assert 0.42 < untouched.mean() < 0.62
    assert 0.17 < blended.mean() < 0.33


def test_erasing_draws_a_rectangle_and_a_seed():
    rng = np.random.default_rng(0)
    boxes = np.stack([augment.random_erasing(rng, (32, 24), 0.25) for _ in range(800)])
    assert boxes.dtype == np.int32
    hit = boxes[boxes[:, 1] > 0]
    assert not boxes[boxes[:, 1] == 0].any()
    assert 0.18 < len(hit) / 800 < 0.32
    top, bottom, left, right, seeds = hit.T
    assert min(top.min(), left.min()) >= 0
    assert (bottom.max() <= 32) & (right.max() <= 24)
    shares = (bottom - top) * (right - left) / (32 * 24)
    assert 0.01 < shares.min() < shares.max() < 0.36
    assert len(set(seeds.tolist())) == len(hit)


def test_affine_without_ranges_changes_nothing():
    image = picture()
    assert augment.random_affine(np.random.default_rng(0), image) is image


def test_translation_alone_is_whole_pixels():
    rng = np.random.default_rng(0)
    image = picture(8, 1)
    seen = set()
    for _ in range(200):
        moved = augment.random_affine(rng, image, translate=1.0)
        shifts = [
            (down, right)
            for down in (-1, 0, 1)
            for right in (-1, 0, 1)
            if np.array_equal(moved, augment.shift(image, down, right))
        ]
        seen.update(shifts)
        assert shifts
    assert len(seen) == 9


def test_affine_turns_about_the_centre():
    # A point left of the centre goes up or down by a rotation, never far.
    image = np.zeros((21, 21, 1), np.uint8)
    image[10, 10] = 255
    rng = np.random.default_rng(0)
    for _ in range(20):
        moved = augment.random_affine(rng, image, rotate=30.0, shear=0.2, zoom=0.2)
        assert np.unravel_index(moved.argmax(), moved.shape)[:2] == (10, 10)


def test_shift_beyond_the_image_is_empty():
    assert not augment.shift(picture(4), 9, 0).any()


def test_resized_crop_stays_in_range():
    rng = np.random.default_rng(0)
    # Intensity tells the row, so the crop's extent can be read off its result.
    image = np.repeat(np.arange(0, 200, 2, dtype=np.uint8)[:, None, None], 100, 1)
    for _ in range(100):
        out = augment.random_resized_crop(rng, image, (20, 20), area=(0.25, 0.25), aspect=(1, 1))
        assert out.shape == (20, 20, 1)
        rows = int(out[-1, 0, 0]) - int(out[0, 0, 0])
        assert 80 < rows < 100


def test_resized_crop_of_an_extreme_image_is_its_centre():
    image = picture(4)[:1]
    out = augment.random_resized_crop(np.random.default_rng(0), image, (8, 8), area=(0.9, 1.0))
    assert out.shape == (8, 8, 3)


def test_central_crop_keeps_the_aspect():
    image = np.zeros((40, 80, 1), np.uint8)
    image[:, 20:60] = 200
    # The edge columns blend with what lies beyond the crop.
    assert (augment.central_crop(image, (20, 20))[:, 2:-2] == 200).all()
    assert augment.central_crop(image, (16, 16), keep=0.5).shape == (16, 16, 1)


@pytest.mark.parametrize(
    "policy",
    ["rand-m9-mstd0.5-inc1", "original-mstd0.5", "v0", "v0r", "originalr", "3a", "augmix-m5-w2",
     "ta_wide"],
)  # fmt: skip
def test_every_policy_runs_on_grey_and_colour(policy):
    rng = np.random.default_rng(0)
    for channels in (1, 3):
        image = picture(24, channels)
        changed = 0
        for _ in range(40):
            out = augment.apply_policy(rng, image, policy, (124, 116, 104))
            assert out.shape == image.shape
            assert out.dtype == np.uint8
            changed += not np.array_equal(out, image)
        assert changed > 10


@pytest.mark.parametrize(
    ("name", "level", "sign", "expected"),
    [
        ("rotate", 9, 1, 27.0),
        ("rotate", 9, -1, -27.0),
        ("shear_x", 5, 1, 0.15),
        ("translate_y", 10, -1, -0.45),
        ("color", 9, 1, 1.81),
        ("contrast", 9, -1, 0.19),
        ("brightness", 10, -1, 0.1),
        ("posterize", 9, 1, 1),
        ("solarize", 9, 1, 26),
        ("solarize_add", 9, 1, 99),
        ("invert", 9, 1, None),
    ],
)
def test_arguments_of_the_increasing_set(name, level, sign, expected):
    assert randaugment.argument(name, level, sign) == pytest.approx(expected)


def test_operations_on_known_pixels():
    image = Image.fromarray(np.array([[[0, 100, 200]] * 2] * 2, np.uint8))
    canvas = randaugment.Canvas((1, 2, 3), Image.Resampling.BILINEAR)

    def apply(name, value):
        return np.asarray(randaugment.OPERATIONS[name](image, value, canvas))[0, 0].tolist()

    assert apply("invert", None) == [255, 155, 55]
    assert apply("solarize", 128) == [0, 100, 55]
    assert apply("solarize_add", 30) == [30, 130, 200]
    assert apply("posterize", 1) == [0, 0, 128]
    assert apply("posterize", 0) == [0, 0, 0]
    assert apply("posterize", 8) == [0, 100, 200]
    assert apply("brightness", 0.5) == [0, 50, 100]
    assert apply("translate_x", 1.0) == [1, 2, 3]


def test_policy_applies_half_of_two_draws():
    policy = randaugment.parse("rand-m10-inc1")
    rng = np.random.default_rng(0)
    image = Image.fromarray(picture())
    untouched = sum(policy(rng, image, (0, 0, 0)) is image for _ in range(1000))
    assert 0.2 < untouched / 1000 < 0.3


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("augmux-m9", "did you mean 'augmix'"),
        ("rand-q3", "unknown section 'q3'; known: m, mstd"),
        ("rand-m", "unknown section 'm'"),
        ("rand-w0", "unknown section 'w0'"),
        ("original-m9", "unknown section 'm9'; known: mstd, each with a number"),
        ("augmix-w0", "w is at least 1"),
        ("ta_wide-n31", "unknown section 'n31'; known: none"),
    ],
)
def test_unknown_policies_are_user_errors(text, told):
    with pytest.raises(UserError, match=f"policy '{text}'.*{told}"):
        augment.parsed_policy(text)


def test_steps_of_a_table_have_their_probabilities():
    step = policies.Step("invert", 0.3, 5)
    policy = policies.AutoAugment(((step,), ()))
    rng = np.random.default_rng(0)
    image = Image.fromarray(picture())
    applied = sum(policy(rng, image, (0, 0, 0)) is not image for _ in range(1000))
    assert 0.12 < applied / 1000 < 0.18


def test_variants_of_operations_on_known_pixels():
    image = Image.fromarray(np.full((40, 40, 3), (0, 100, 200), np.uint8))
    canvas = randaugment.Canvas((1, 2, 3), Image.Resampling.BILINEAR)
    rng = np.random.default_rng(0)

    def apply(name, level):
        return np.asarray(policies.apply(rng, image, name, level, canvas))[20, 20].tolist()

    # The research posterisation keeps 4 - 2 bits, the published 4 + 2, EfficientNet's 2.
    assert apply("posterize_increasing", 5) == [0, 64, 192]
    assert apply("posterize_original", 5) == [0, 100, 200]
    assert len(set(apply("desaturate", 10))) == 1
    assert apply("gaussian_blur_rand", 10) == [0, 100, 200]


def test_a_mix_of_chains_is_their_weighted_sum():
    image, *chains = (Image.fromarray(np.full((4, 4, 3), v, np.uint8)) for v in (100, 20, 60))
    mixed = policies.mix_chains(image, chains, np.array([0.25, 0.75]), 0.5)
    assert np.unique(np.asarray(mixed)).tolist() == [75]


def test_augmix_draws_chains_below_its_level():
    policy = policies.parse("augmix-m4-w1-d1-a0.5")
    assert policy == policies.AugMix(4.0, 1, 1, 0.5)
    rng = np.random.default_rng(0)
    levels = [policy.level(rng) for _ in range(500)]
    assert 0 <= min(levels) < 0.1 < 3.9 < max(levels) <= 4
    assert policies.parse("augmix-mstd0").level(rng) == 3


def test_trivial_augment_draws_each_operation_and_both_directions():
    image = Image.fromarray(picture(48))
    seen = []
    rng = np.random.default_rng(0)
    with mock.patch.object(
        policies, "apply_wide", lambda image, name, value, canvas: seen.append((name, value))
    ):
        for _ in range(1000):
            policies.TrivialAugment()(rng, image, (0, 0, 0))
    assert {name for name, _ in seen} == set(policies.WIDE)
    turns = [value for name, value in seen if name == "rotate"]
    assert min(turns) < -100 < 100 < max(turns)
    assert {value for name, value in seen if name == "posterize"} == {2, 3, 4, 5, 6, 7, 8}


def test_jitter_stays_in_its_range_and_leaves_grey_grey():
    rng = np.random.default_rng(0)
    flat = np.full((4, 4, 3), 100, np.uint8)
    brightness = [int(colour.color_jitter(rng, flat, (0.4, 0, 0))[0, 0, 0]) for _ in range(200)]
    assert 59 <= min(brightness) < 65
    assert 135 < max(brightness) <= 140
    red = np.full((4, 4, 3), (200, 0, 0), np.uint8)
    hues = {tuple(colour.color_jitter(rng, red, (0, 0, 0, 0.5))[0, 0]) for _ in range(50)}
    assert len(hues) > 30
    assert all(max(hue) == 200 for hue in hues)
    grey = picture(8, 1)
    assert colour.color_jitter(rng, grey, (0.4, 0.4, 0.4, 0.1)).shape == grey.shape


def test_a_blur_keeps_what_is_flat_and_spreads_a_point():
    flat = np.full((9, 7, 3), 77, np.uint8)
    np.testing.assert_array_equal(colour.gaussian_blur(flat, 2.0), flat)
    point = np.zeros((41, 41, 1), np.uint8)
    point[20, 20] = 255
    blurred = colour.gaussian_blur(point, 1.0)[..., 0]
    assert blurred[20, 20] == round(255 / (2 * np.pi))
    np.testing.assert_array_equal(blurred, blurred.T)


def test_grey_and_solarised_pixels():
    image = np.full((2, 2, 3), (0, 100, 200), np.uint8)
    assert colour.grayscale(image)[0, 0].tolist() == [round(0.587 * 100 + 0.114 * 200)] * 3
    assert colour.solarize(image)[0, 0].tolist() == [0, 100, 55]


def test_colours_leave_alpha_and_draw_nothing_where_they_are_off():
    image = picture(8, 4)
    rng = np.random.default_rng(0)
    before = rng.bit_generator.state
    np.testing.assert_array_equal(colour.change(rng, image, AugmentConfig()), image)
    assert rng.bit_generator.state == before
    every = AugmentConfig(
        color_jitter=(0.4, 0.4, 0.4, 0.1), grayscale_prob=1.0, gaussian_blur_prob=1.0,
        solarize_prob=1.0,
    )  # fmt: skip
    changed = colour.change(rng, image, every)
    np.testing.assert_array_equal(changed[..., 3], image[..., 3])
    assert not np.array_equal(changed[..., :3], image[..., :3])
    half = AugmentConfig(grayscale_prob=0.3)
    bare = image[..., :3]
    grey = sum(len(np.unique(colour.change(rng, bare[:1, :1], half))) == 1 for _ in range(500))
    assert 0.24 < grey / 500 < 0.36


def test_resizing_by_name():
    ramp = np.repeat(np.arange(0, 240, 30, dtype=np.uint8)[None, :, None], 8, 0)
    found = {
        name: augment.central_crop(ramp, (3, 3), method=method)
        for name, method in augment.RESIZE.items()
    }
    assert set(np.unique(found["nearest"])) <= set(ramp.ravel().tolist())
    assert len({values.tobytes() for values in found.values()}) == 3
    rng = np.random.default_rng(0)
    nearest = [
        augment.random_resized_crop(rng, ramp, (5, 5), methods=(augment.RESIZE["nearest"],))
        for _ in range(20)
    ]
    assert set(np.unique(nearest)) <= set(ramp.ravel().tolist())


@pytest.mark.parametrize("shape", [(7, 4, 3), (1, 6, 1), (5, 1, 1), (1, 1, 1)])
def test_halves_of_an_image_are_changed_each_by_itself(shape):
    """Each pixel is that of its half, changed by what was drawn for that half."""
    image = np.random.default_rng(1).integers(0, 256, shape).astype(np.uint8)
    assert np.array_equal(augment.by_halves(np.random.default_rng(0), image, lambda _, x: x), image)
    cuts = set()
    for seed in range(20):
        added = []

        def change(rng, half, added=added):
            added.append((half.shape, int(rng.integers(1, 200))))
            return half[::-1, ::-1] + np.uint8(added[-1][1])

        found = augment.by_halves(np.random.default_rng(seed), image, change)
        expected, corner = np.zeros_like(image), np.zeros(2, int)
        for (height, width, _), number in added:
            top, left = corner
            for y in range(height):
                for x in range(width):
                    mirrored = image[top + height - 1 - y, left + width - 1 - x]
                    expected[top + y, left + x] = (mirrored.astype(int) + number) % 256
            corner += (0, width) if height == shape[0] and width < shape[1] else (height, 0)
        np.testing.assert_array_equal(found, expected)
        cuts.add(tuple(size for size, _ in added))
    tall, wide, depth = shape
    along = [((tall // 2, wide, depth), (tall - tall // 2, wide, depth))] if tall > 1 else []
    if wide > 1:
        along.append(((tall, wide // 2, depth), (tall, wide - wide // 2, depth)))
    assert cuts == set(along or [(shape,)])


@pytest.mark.parametrize("crops", [2, 3, 4])
@pytest.mark.parametrize("permute", [False, True])
def test_crops_of_all_scales_are_mixed_as_a_loop_over_pixels_says(crops, permute, monkeypatch):
    image = picture(12, 3)
    areas, views = [], []

    def crop(rng, image, size, *, area, aspect, methods):
        areas.append(tuple(area))
        views.append(np.random.default_rng(len(views)).integers(0, 256, (*size, 3)))
        return views[-1].astype(np.uint8)

    monkeypatch.setattr(augment, "random_resized_crop", crop)
    for seed in range(4):
        areas.clear()
        views.clear()
        options = {"crops": crops, "area": (0.2, 1.0), "permute": permute, "alpha": 0.8}
        found = augment.crop_mix(np.random.default_rng(seed), image, (6, 5), **options)
        rng = np.random.default_rng(seed)
        order = rng.permutation(crops)
        edges = [0.2 + 0.8 * part / crops for part in range(crops + 1)]
        np.testing.assert_allclose(areas, [(edges[part], edges[part + 1]) for part in order])
        mixed = views[0].astype(float)
        for view in views[1:]:
            weight = rng.beta(0.8 / crops, 0.8 / crops)
            channels = rng.permutation(3) if permute else np.arange(3)
            made = np.zeros_like(mixed)
            for y, x, c in np.ndindex(made.shape):
                # Whichever counts less has its channels moved.
                one, other = (c, channels[c]) if weight >= 0.5 else (channels[c], c)
                made[y, x, c] = weight * mixed[y, x, one] + (1 - weight) * view[y, x, other]
            mixed = made
        assert found.dtype == np.uint8
        assert np.abs(found - mixed).max() <= 0.501


def test_boxes_of_crops_come_whole_from_one_crop(monkeypatch):
    """Of two crops, either one lies below."""
    colours = iter(np.arange(1, 200))

    def crop(rng, image, size, *, area, aspect, methods):
        return np.full((*size, 3), (next(colours) * np.array([1, 0, 0])).astype(np.uint8))

    monkeypatch.setattr(augment, "random_resized_crop", crop)
    below = set()
    for seed in range(20):
        rng, first = np.random.default_rng(seed), 2 * seed + 1
        found = augment.crop_mix(rng, picture(12, 3), (9, 9), by="cutmix", permute=True)
        # Only the box has its channels in another order, the frame has them as they are.
        plain = found[..., 1:].sum(-1) == 0
        values = found.max(-1)
        assert set(np.unique(values)) <= {first, first + 1}
        outside = set(values[plain].tolist())
        inside = np.argwhere(values != (first if first in outside else first + 1))
        if len(inside) and plain.any() and len(outside) == 1:
            below.add(outside.pop() - first)
            (top, left), (bottom, right) = inside.min(0), inside.max(0)
            assert len(inside) == (bottom - top + 1) * (right - left + 1)
    assert below == {0, 1}


def test_crops_of_the_whole_image_are_the_image():
    image = picture(8, 3)
    for by in ("mixup", "cutmix"):
        whole = {"area": (1.0, 1.0), "aspect": (1.0, 1.0), "by": by, "crops": 3}
        found = augment.crop_mix(np.random.default_rng(0), image, (8, 8), **whole)
        np.testing.assert_array_equal(found, image)
    example = {"image": image, "label": 0}
    source = Source("image", [example], [example], image.shape, 2)
    fields = {"crop_area": (0.2, 1.0), "crops": 2}
    view = transforms.for_source(
        source, DataConfig(mean=(0.5,), std=(0.5,), augment=AugmentConfig(**fields))
    )
    found = view.train(example, np.random.default_rng(3))["image"]
    expected = augment.crop_mix(np.random.default_rng(3), image, (8, 8), area=(0.2, 1.0))
    np.testing.assert_array_equal(found, expected)


def test_a_view_by_halves_is_each_half_by_the_fields():
    """A mirror image of each half, in grey and colour, of bytes and of a policy."""
    for channels in (1, 3):
        image = picture(8, channels)
        example = {"image": image, "label": 0}
        source = Source("image", [example], [example], image.shape, 2)
        fields = {"flip": 1.0, "yoco": 1.0}
        view = transforms.for_source(
            source, DataConfig(mean=(0.5,), std=(0.5,), augment=AugmentConfig(**fields))
        )
        ways = {"tall": image[:, ::-1]}
        ways["wide"] = np.concatenate([image[:, 3::-1], image[:, :3:-1]], 1)
        seen = set()
        for seed in range(12):
            found = view.train(example, np.random.default_rng(seed))["image"]
            assert found.dtype == np.uint8
            (way,) = (name for name, kept in ways.items() if np.array_equal(found, kept))
            seen.add(way)
        assert seen == {"tall", "wide"}
        policy = AugmentConfig(auto_augment="ta_wide", yoco=1.0, crop_area=(0.5, 1.0))
        view = transforms.for_source(source, DataConfig(mean=(0.5,), std=(0.5,), augment=policy))
        assert view.train(example, np.random.default_rng(0))["image"].shape == image.shape
