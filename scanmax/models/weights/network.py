"""What names of PoolFormer's kin share: stages, and what stands between, in one list of modules."""

from collections.abc import Callable

from scanmax.models.weights.table import Row, Transform, linear

# (place of the stage, block), and the place of what stands before a stage.
BLOCK = r"network\.(\d)\.(\d+)\."
BETWEEN = r"network\.(\d)\."


def of_block(tail: str, collection: str = "params/") -> Callable[..., str]:
    """Path of a part of a block."""

    def path(place: int, index: int, *rest: int) -> str:
        return f"{collection}stage{place // 2}_block_{index:02d}/{tail.format(*rest)}"

    return path


def before_stage(tail: str, collection: str = "params/") -> Callable[..., str]:
    """Path of a part of what shrinks the map before a stage."""
    return lambda place: f"{collection}downsample{(place + 1) // 2}{tail}"


def shared(mlp: Transform) -> tuple[Row, ...]:
    """Rows of MLPs, which are `linear` or a `projection`, and of the head."""
    return (
        Row(BLOCK + r"mlp\.fc([12])\.weight", of_block("mlp/fc{0}/kernel"), mlp),
        Row(BLOCK + r"mlp\.fc([12])\.bias", of_block("mlp/fc{0}/bias")),
        Row(r"head\.weight", "params/head/kernel", linear),
        Row(r"head\.bias", "params/head/bias"),
    )
