"""SpaRTAN: the names of the authors' checkpoints."""

from collections.abc import Callable

from scanmax.models.weights.table import KeyTable, Row, conv, linear, norm_rows, projection


def table(model) -> KeyTable:
    """The rows: the release counts blocks, and what shrinks the map behind a stage, on and on."""
    places: list[tuple[str, int, int]] = []
    for stage, depth in enumerate(model.depths):
        if stage:
            places.append(("downsample", stage, 0))
        places += [("block", stage, index) for index in range(depth)]

    def ours(kind: str, tail: str, collection: str = "params/") -> Callable[..., str]:
        def path(index: int, *rest: int | str) -> str:
            found, stage, block = places[index]
            if found != kind:
                # No path of the model: the row is about the others.
                return f"{collection}{found}{index}/{tail}"
            where = f"stage{stage}_block_{block:02d}" if kind == "block" else f"downsample{stage}"
            return f"{collection}{where}{tail.format(*rest)}"

        return path

    def block(tail: str) -> Callable[..., str]:
        return ours("block", f"/{tail}")

    def norms(pattern: str, kind: str, tail: str) -> tuple[Row, ...]:
        return norm_rows(pattern, ours(kind, tail, ""))

    layer = r"layers\.(\d+)\."
    spatial, waves = layer + r"smixer\.", layer + r"cmixer\."
    return KeyTable(
        rows=(
            Row(r"conv\.([01])\.conv\.weight", "params/stem{0}/conv/kernel", conv),
            *norm_rows(r"conv\.([01])\.norm", lambda index: f"stem{index}/norm"),
            Row(layer + r"conv\.weight", ours("downsample", "/conv/kernel"), conv),
            *norms(layer + "norm", "downsample", "/norm"),
            Row(layer + r"norm_([12])\.weight", block("norm{0}/scale")),
            Row(layer + r"norm_([12])\.bias", block("norm{0}/bias")),
            Row(layer + r"scale_([12])", block("layer_scale{0}/scale"), lead=1, trail=2),
            Row(spatial + r"gamma", block("mixer/contrast/scale"), lead=1, trail=2),
            Row(spatial + r"proj_(in|out)\.weight", block("mixer/{0}_proj/kernel"), projection),
            Row(spatial + r"proj_(in|out)\.bias", block("mixer/{0}_proj/bias")),
            Row(spatial + r"h_conv\.conv\.weight", block("mixer/near/conv/kernel"), conv),
            *norms(spatial + r"h_conv\.norm", "block", "/mixer/near/norm"),
            Row(spatial + r"l_conv\.([01])\.conv\.weight", block("mixer/far{0}/conv/kernel"), conv),
            *norms(spatial + r"l_conv\.([01])\.norm", "block", "/mixer/far{0}/norm"),
            *_gates(spatial + "h_attn", block, "mixer/near_gate/"),
            *_gates(spatial + "l_attn", block, "mixer/far_gate/"),
            Row(waves + r"theta\.weight", block("mlp/phase/kernel"), projection),
            Row(waves + r"theta\.bias", block("mlp/phase/bias")),
            Row(waves + r"proj\.weight", block("mlp/amplitude/kernel"), projection),
            Row(waves + r"proj\.bias", block("mlp/amplitude/bias")),
            Row(waves + r"complex", block("mlp/rotation"), lead=3),
            Row(waves + r"conv\.conv\.weight", block("mlp/conv/conv/kernel"), conv),
            *norms(waves + r"conv\.norm", "block", "/mlp/conv/norm"),
            *_gates(waves + "attn", block, "mlp/gate/"),
            Row(waves + r"proj_out\.weight", block("mlp/out/kernel"), projection),
            Row(waves + r"proj_out\.bias", block("mlp/out/bias")),
            Row(r"linear\.weight", "params/head/kernel", linear),
            Row(r"linear\.bias", "params/head/bias"),
        ),
        head=r"params/head/.*",
        layouts={"authors": "first"},
        stem=r"params/stem0/conv/kernel",
    )


def _gates(pattern: str, block: Callable[[str], Callable[..., str]], at: str) -> tuple[Row, ...]:
    return tuple(
        row
        for theirs, ours in (("squeeze", "squeeze"), ("expand", "excite"))
        for row in (
            Row(rf"{pattern}\.{theirs}\.weight", block(f"{at}{ours}"), projection),
            Row(rf"{pattern}\.{theirs}\.bias", block(f"{at}{ours}_bias")),
        )
    )
