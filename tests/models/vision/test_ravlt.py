"""Ravlt: the suite of every model; counts and costs are in test_rmt.py, of the same host."""

from scanmax.models import create_model
from scanmax.testing import ModelCase, ModelSuite


class RavltSuite(ModelSuite):
    family = "ravlt"
    # The others differ in widths and depths; all are counted beside RMT.
    names = ("ravlt_t",)
    small = (
        ModelCase(
            "ravlt_t",
            {
                # The other mixer, and stages, are of the host whose suite tries them.
                "dims": (8,),
                "depths": (1,),
                "heads": (1,),
                "mlp_ratio": 2.0,
                "mixer": "rala",
                "projection": 12,
                "num_classes": 5,
            },
            input_size=(16, 16, 3),
            other_inputs=((17, 22, 3),),
        ),
    )
    # Behind these stand batch norms, which take away what is the same everywhere.
    vanishing = r"(stem|downsample)\d/conv/bias|projection/bias"

    def pooled_channels(self, info):
        return create_model(info.name).projection
