"""PVTv2: the names of timm and of the original release."""

from collections.abc import Callable

from scanmax.models.weights.table import KeyTable, Row, bias, conv, linear, linear_of_heads

# The release counts stages from 1, and a stage's patches to it.
BLOCK = r"(?:stages\.(\d)\.blocks|block(\d))\.(\d+)\."
_DOWN = r"(?:stages\.(\d)\.downsample|patch_embed([2-4]))\."


def _stage(ours: int | str, theirs: int | str) -> int:
    """Number of the stage; whichever of the two groups did not take part is empty."""
    return ours if theirs == "" else int(theirs) - 1


def of_block(tail: str) -> Callable[..., str]:
    def path(ours, theirs, index: int, *rest: int) -> str:
        return f"params/stage{_stage(ours, theirs)}_block_{index:02d}/{tail.format(*rest)}"

    return path


def _named(pattern: str) -> Callable[..., str]:
    return lambda ours, theirs: f"params/{pattern.format(_stage(ours, theirs))}"


TABLE = KeyTable(
    rows=(
        Row(r"patch_embed(?:|1)\.proj\.weight", "params/patch_embed/kernel", conv),
        Row(r"patch_embed(?:|1)\.proj\.bias", "params/patch_embed/bias"),
        Row(r"patch_embed(?:|1)\.norm\.weight", "params/patch_embed_norm/scale"),
        Row(r"patch_embed(?:|1)\.norm\.bias", "params/patch_embed_norm/bias"),
        Row(_DOWN + r"proj\.weight", _named("downsample{0}/kernel"), conv),
        Row(_DOWN + r"proj\.bias", _named("downsample{0}/bias")),
        Row(_DOWN + r"norm\.weight", _named("downsample{0}_norm/scale")),
        Row(_DOWN + r"norm\.bias", _named("downsample{0}_norm/bias")),
        Row(r"(?:stages\.(\d)\.norm|norm(\d))\.weight", _named("stage{0}_norm/scale")),
        Row(r"(?:stages\.(\d)\.norm|norm(\d))\.bias", _named("stage{0}_norm/bias")),
        Row(BLOCK + r"norm([12])\.weight", of_block("norm{0}/scale")),
        Row(BLOCK + r"norm([12])\.bias", of_block("norm{0}/bias")),
        Row(BLOCK + r"attn\.q\.weight", of_block("mixer/query/kernel"), linear),
        Row(BLOCK + r"attn\.q\.bias", of_block("mixer/query/bias"), bias),
        Row(BLOCK + r"attn\.kv\.weight", of_block("mixer/key_value/kernel"), linear),
        Row(BLOCK + r"attn\.kv\.bias", of_block("mixer/key_value/bias"), bias),
        Row(BLOCK + r"attn\.proj\.weight", of_block("mixer/out/kernel"), linear_of_heads),
        Row(BLOCK + r"attn\.proj\.bias", of_block("mixer/out/bias")),
        Row(BLOCK + r"attn\.sr\.weight", of_block("mixer/reduce/kernel"), conv),
        Row(BLOCK + r"attn\.sr\.bias", of_block("mixer/reduce/bias")),
        Row(BLOCK + r"attn\.norm\.weight", of_block("mixer/norm/scale")),
        Row(BLOCK + r"attn\.norm\.bias", of_block("mixer/norm/bias")),
        Row(BLOCK + r"mlp\.fc([12])\.weight", of_block("mlp/fc{0}/kernel"), linear),
        Row(BLOCK + r"mlp\.fc([12])\.bias", of_block("mlp/fc{0}/bias")),
        Row(BLOCK + r"mlp\.dwconv\.(?:|dwconv\.)weight", of_block("mlp/conv/kernel"), conv),
        Row(BLOCK + r"mlp\.dwconv\.(?:|dwconv\.)bias", of_block("mlp/conv/bias")),
        Row(r"head\.weight", "params/head/kernel", linear),
        Row(r"head\.bias", "params/head/bias"),
    ),
    head=r"params/head/.*",
    stem=r"params/patch_embed/kernel",
    layouts={"timm": "first", "authors": "last"},
)
