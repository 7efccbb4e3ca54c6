"""SCNet: the names of the authors' checkpoints."""

from scanmax.models.weights.table import KeyTable, Row, projection


def table(model) -> KeyTable:
    """The rows; the layers of an enlarging step are numbered as its kind has them."""
    before, behind = (0, 3) if model.upsampler == "pixel_shuffle" else (1, 4)
    places = {
        r"conv_first": "embed",
        r"body\.(\d+)\.conv1": "block_{0:02d}/mixer/in_proj",
        r"body\.(\d+)\.conv2": "block_{0:02d}/mixer/out_proj",
        rf"upconv([123])\.up_layer\.{before}": ("in_proj",),
        rf"upconv([123])\.up_layer\.{behind}": ("out_proj",),
        r"conv_hr": "last",
        r"conv_last": "head",
    }

    def path(place, leaf: str):
        if isinstance(place, tuple):
            return lambda number: f"params/up{number - 1}/{place[0]}/{leaf}"
        return f"params/{place}/{leaf}"

    return KeyTable(
        rows=(
            *(
                Row(rf"{name}\.weight", path(place, "kernel"), projection)
                for name, place in places.items()
            ),
            *(Row(rf"{name}\.bias", path(place, "bias")) for name, place in places.items()),
        ),
        layouts={"authors": "first"},
    )
