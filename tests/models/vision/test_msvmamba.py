"""MSVMamba: the suite of every model."""

from scanmax.testing import ModelCase, ModelSuite


class MsVMambaSuite(ModelSuite):
    family = "msvmamba"
    small = (
        ModelCase(
            "msvmamba_nano",
            {"num_classes": 5, "dims": (8, 16), "depths": (1, 2), "heads": (1, 1)},
            input_size=(16, 16, 3),
            other_inputs=((24, 16, 3), (40, 20, 3)),
        ),
    )
