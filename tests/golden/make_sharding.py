"""Writes sharding/<preset>.txt beside this file: where every parameter of every family lies.

    python tests/golden/make_sharding.py

One model of each family, its smallest, and the model of each published config, on eight devices
under the preset's own mesh; of equal blocks, two. Nothing is compiled. A changed layout is a
changed line.
"""

import collections
import math
import os
import pathlib
import re
import sys

HERE = pathlib.Path(__file__).parent
FOLDER = HERE / "sharding"
CONFIGS = HERE.parents[1] / "scanmax" / "configs"


def models() -> dict[str, tuple]:
    """Title -> (module, example of its input)."""
    from scanmax import cli
    from scanmax.models import create_model, list_models, model_info
    from scanmax.train.build import make_model, model_input
    from scanmax.train.pod import shape_pipeline

    smallest = {}
    for name in list_models():
        info = model_info(name)
        if info.family not in smallest or info.params < smallest[info.family].params:
            smallest[info.family] = info
    found = {
        info.name: (create_model(info.name), info.example())
        for info in sorted(smallest.values(), key=lambda info: info.name)
    }
    experts = create_model("lm_tiny", moe={"num_experts": 8})
    found["lm_tiny of 8 experts"] = (experts, model_info("lm_tiny").example())
    for path in sorted(CONFIGS.glob("[a-z]*.py")):
        config = cli.load_config(str(path))
        if config.data.name == "image_folder":
            # The images are the user's; the model lies like any of its family.
            continue
        pipeline = shape_pipeline(config)
        found[f"configs/{path.name}"] = (make_model(config, pipeline), model_input(pipeline))
    return {title: (shortened(model), example) for title, (model, example) in found.items()}


def shortened(model):
    """The model with two blocks, where all are equal: the others would lie like them."""
    if hasattr(model, "scan_layers") and hasattr(model, "depth") and model.depth > 2:
        return model.clone(depth=2)
    return model


def layout(params, axes, mesh, config) -> list[str]:
    """A line per parameter; blocks that lie alike share theirs, those too small to split one."""
    import jax

    from scanmax.train.optim import param_path
    from scanmax.train.sharding import parameter_spec

    def is_names(leaf):
        return leaf is None or isinstance(leaf, tuple)

    groups, small = collections.defaultdict(list), 0
    for (path, leaf), names in zip(
        jax.tree_util.tree_leaves_with_path(params),
        jax.tree.leaves(axes, is_leaf=is_names),
        strict=True,
    ):
        spec = parameter_spec(leaf.shape, names, mesh, config)
        if math.prod(leaf.shape) < config.min_size and not any(spec):
            small += 1
            continue
        mesh_axes = (*spec, *(None,) * (len(leaf.shape) - len(spec)))
        sides = [
            f"{size}{'' if name is None else ' ' + name}{'' if axis is None else '@' + axis}"
            for size, name, axis in zip(leaf.shape, names or (None,) * leaf.ndim, mesh_axes)
        ]
        path = param_path(path)
        groups[re.sub(r"_\d\d\b", "_*", path), f"[{', '.join(sides)}]"].append(path)
    lines = [f"  {path} {lies}  x{len(paths)}" for (path, lies), paths in groups.items()]
    return [*lines, f"  (whole, below min_size={config.min_size})  x{small}"]


def describe() -> dict[str, str]:
    """Preset -> its text."""
    import jax

    from scanmax.train.config import ShardingConfig
    from scanmax.train.sharding import PRESETS, make_mesh
    from scanmax.train.state import abstract_params

    shapes = {
        title: abstract_params(model, 0, example)[:2]
        for title, (model, example) in models().items()
    }
    texts = {}
    for preset in PRESETS:
        config = ShardingConfig(preset=preset)
        mesh = make_mesh(config, jax.devices()[:8])
        sizes = ", ".join(f"{axis} {size}" for axis, size in mesh.shape.items() if size > 1)
        lines = [f"# {preset}: {sizes}; [size logical-axis@mesh-axis, ...] x how many lie so"]
        for title, (params, axes) in shapes.items():
            lines += ["", title, *layout(params, axes, mesh, config)]
        texts[preset] = "\n".join(lines) + "\n"
    return texts


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for preset, text in describe().items():
        (FOLDER / f"{preset}.txt").write_text(text)


if __name__ == "__main__":
    os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
    sys.path.insert(0, str(HERE.parents[1]))
    main()
