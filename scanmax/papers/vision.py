"""Models of images that bring no operator of their own."""

from scanmax.papers.paper import Paper

LEDGER = (
    Paper(
        "convmixer",
        covers="the three published models, weights of timm; not the CIFAR sizes or the recipe",
        where=("scanmax.models.vision.convmixer.ConvMixer",),
        tests=(
            "tests/models/vision/test_convmixer.py::ConvMixerSuite",
            "tests/parity/test_convmixer_parity.py",
        ),
        reproduced="parameters of all three to the last one",
    ),
    Paper(
        "convnext",
        covers="the five sizes, feature maps, training at any image size, weights of timm and of "
        "the authors; not the isotropic variants or the roadmap from ResNet",
        where=("scanmax.models.vision.convnext.ConvNext", "scanmax.ops.depthwise_conv2d"),
        tests=(
            "tests/test_registry.py::ConvNextSuite",
            "tests/models/test_weights.py::test_golden",
            "tests/parity/test_convnext_parity.py",
            "tests/test_papers.py::test_published_multiply_adds",
        ),
        reproduced="parameters of T to XL to the last one; GFLOPs of T, S, B, L",
    ),
    Paper(
        "crossvit",
        covers="all nine models and the two at 408 pixels, weights of timm and of the release, any "
        "image of whole patches; not the recipe, or other fusions of the ablation",
        where=("scanmax.models.vision.crossvit.CrossVit",),
        tests=(
            "tests/models/vision/test_crossvit.py",
            "tests/parity/test_crossvit_parity.py",
        ),
        reproduced="parameters of all eleven to the last one; GFLOPs of Ti",
    ),
    Paper(
        "deit",
        covers="Ti, S and B, the distilled models with their token, 384 pixels; hard and soft "
        "distillation; the recipe as a config, not trained on ImageNet here; weights of timm",
        where=(
            "scanmax.models.vision.vit.VisionTransformer",
            "scanmax.train.losses.hard_distillation",
            "scanmax.train.losses.soft_distillation",
            "scanmax.configs.imagenet_deit_small",
        ),
        tests=(
            "tests/test_registry.py::VitSuite",
            "tests/models/test_weights.py::test_golden",
            "tests/parity/test_vit_parity.py",
            "tests/train/test_losses_metrics.py::test_distillation",
            "tests/train/test_configs.py",
            "tests/test_papers.py::test_published_multiply_adds",
        ),
        reproduced="parameters of all eight models to the last one; GFLOPs of Ti, S, B",
    ),
)
