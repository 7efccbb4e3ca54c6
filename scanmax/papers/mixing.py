"""Mixing of examples."""

from scanmax.papers.paper import Paper

_PLACES = "tests/train/test_mixing_places.py"
_RELABELS = "tests/train/test_relabels.py"
_FOLLOW = "test_labels_follow_the_attention_of_the_same_pass_and_carry_no_gradient"

_AUTOMIX = "tests/train/test_automix.py"

LEDGER = (
    Paper(
        "adautomix",
        covers="learned masks of any number of images from a momentum teacher's maps, with the "
        "shares as a channel, misleading and helping steps in turn by the released code's sign of "
        "the cosines or its reverse, evenly mixed images beside plain ones, a head for each; "
        "AutoMix with its loss of the mean mask, and SAMix's masks of both images with their "
        "variance; a tap of any model; how many are mixed is fixed, not drawn; not SAMix without "
        "labels, or the tables",
        where=(
            "scanmax.train.objectives.automix.AdAutoMix",
            "scanmax.train.objectives.automix.AutoMix",
            "scanmax.train.objectives.automix.MixMasks",
            "scanmax.train.objectives.samix.SaMix",
        ),
        tests=(
            f"{_AUTOMIX}::AdAutoMixSuite",
            f"{_AUTOMIX}::AutoMixSuite",
            f"{_AUTOMIX}::SaMixSuite",
            f"{_AUTOMIX}::test_two_images_that_none_misleads_are_automix",
            f"{_AUTOMIX}::test_masks_help_and_mislead_in_turn",
            f"{_AUTOMIX}::test_masks_sum_to_one_and_hear_the_shares",
        ),
        reproduced="two images that none misleads are AutoMix; masks sum to one at every pixel; "
        "on 140 digits below AutoMix and mixup, though its mixtures are harder, as it says: "
        "`benchmarks claims few-digits-adautomix digits-adautomix-misleads`",
    ),
    Paper(
        "attentive-cutmix",
        covers="cells of any grid by the map of a teacher or of the model itself, labels by the "
        "share of the pixels; not its tables on CIFAR",
        where=("scanmax.train.mixing.attentive_cutmix.AttentiveCutMix",),
        tests=(
            "tests/train/test_mixing.py::test_pixels_and_labels_are_those_of_a_loop_over_rows",
            "tests/train/test_mixing.py::AttentiveSuite",
        ),
        reproduced="on 140 digits above CutMix and mixup by half a point and a point, about what "
        "seeds differ by, and above plain images by four: `benchmarks claims "
        "few-digits-attentive-cutmix`",
    ),
    Paper(
        "cutout",
        covers="holes of any size and number, cut at the border, on the device; not its tables",
        where=("scanmax.train.mixing.cutout.Cutout",),
        tests=(f"{_PLACES}::test_holes_are_squares_cut_at_the_border_as_often_as_they_should",),
        reproduced="the share of pixels that holes cover, in closed form; on 140 digits 94.1% "
        "where plain images come to 91.5%, with 4 x 4 pixels blank 83.5% for 54.2%: "
        "`benchmarks claims few-digits-cutout`",
    ),
    Paper(
        "mediaug",
        covers="its six augmentations, each a line of the config: mixup, CutMix, SnapMix, AugMix "
        "with its consistency, YOCO over all random changes of the host, and CropMix of any number "
        "of crops; not the medical images or the tables",
        where=(
            "scanmax.data.augment.by_halves",
            "scanmax.data.augment.crop_mix",
            "scanmax.train.mixing.mixup.Mixup",
            "scanmax.train.mixing.cutmix.CutMix",
            "scanmax.train.mixing.snapmix.SnapMix",
            "scanmax.train.objectives.augmix.AugMix",
        ),
        tests=(
            "tests/data/test_augment.py::test_halves_of_an_image_are_changed_each_by_itself",
            "tests/data/test_augment.py::test_a_view_by_halves_is_each_half_by_the_fields",
            "tests/data/test_augment.py::test_crops_of_all_scales_are_mixed_as_a_loop_over_pixels_says",
        ),
        reproduced="every pixel of an image by halves is that of its half changed alone; on 140 "
        "digits halves cost three points of what moves are worth, and crops mixed with crops add "
        "a third of a point to single ones: `benchmarks claims few-digits-halves-and-crops`",
    ),
    Paper(
        "mixpro",
        covers="MaskMix with cells of any number of patches, labels by attention and by trust in "
        "it, taken as a constant; not the training of the tables",
        where=(
            "scanmax.train.mixing.maskmix.MaskMix",
            "scanmax.train.relabels.mixpro.MixPro",
        ),
        tests=(
            f"{_PLACES}::test_cells_come_whole_from_one_image",
            f"{_RELABELS}::{_FOLLOW}",
            f"{_RELABELS}::test_limits_leave_the_label_of_the_area",
        ),
        reproduced="no patch holds two images; without trust the label is that of the area; on "
        "140 digits masks of patches come to 96.1%, CutMix to 95.2%, plain images to 91.5%; "
        "labels by attention add nothing to them: `benchmarks claims few-digits-mixpro`",
    ),
    Paper(
        "smmix",
        covers="the regions of least and most attention and the mixing, by the guide of any mix "
        "(the norm of the model's features); not the losses of regions and of consistency",
        where=("scanmax.train.mixing.smmix.SmMix",),
        tests=(
            f"{_PLACES}::test_the_least_square_gets_the_partners_best",
            f"{_PLACES}::test_squares_lie_within_a_map",
        ),
        reproduced="on 140 digits it is 3.3 points below CutMix, and no better than plain "
        "images: `benchmarks claims few-digits-smmix`",
    ),
    Paper(
        "tl-align",
        covers="labels of tokens carried through the attention of all blocks of an isotropic "
        "model, behind any mix; not windows or pyramids",
        where=("scanmax.train.relabels.tl_align.TlAlign",),
        tests=(f"{_RELABELS}::{_FOLLOW}", f"{_RELABELS}::test_limits_leave_the_label_of_the_area"),
        reproduced="uniform attention leaves the label of the area, and each token to itself "
        "does; on 140 digits 95.3%, as CutMix without it, 91.5% without either: `benchmarks "
        "claims few-digits-tl-align`",
    ),
)
