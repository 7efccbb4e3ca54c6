"""ConvMixer: the suite of every model."""

from scanmax.testing import ModelCase, ModelSuite


class ConvMixerSuite(ModelSuite):
    family = "convmixer"
    small = (
        ModelCase(
            "convmixer_768_32",
            {"dim": 4, "depth": 2, "kernel_size": 3, "patch_size": 4, "num_classes": 5},
            input_size=(16, 16, 3),
            other_inputs=((24, 16, 3), (17, 22, 3)),
        ),
    )
