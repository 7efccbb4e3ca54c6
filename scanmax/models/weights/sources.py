"""Where weights come from: files, folders and hub ids, all read into one flat dict of arrays."""

import json
import os
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from scanmax.checksum import damaged_arrays, describe_damage
from scanmax.errors import UserError

SUFFIXES = (".safetensors", ".npz", ".pth", ".pt", ".bin")
# Tensors of a training checkpoint may sit one level down, under one of these names.
TORCH_WRAPPERS = ("model_ema", "state_dict_ema", "model", "state_dict", "module")
HUB_FILES = ("model.safetensors", "pytorch_model.safetensors", "pytorch_model.bin")
HUB_ID = re.compile(r"(hf_hub:|hf-hub:|hf://)?(?P<id>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?")

Tensors = dict[str, np.ndarray]


def read_tensors(source: str | os.PathLike | Mapping[str, Any]) -> Tensors:
    """Reads every tensor of a source.

    Args:
      source: a .safetensors, .npz, .pth, .pt or .bin file; a folder of safetensors files or an
        orbax checkpoint; a hub id "owner/name", "owner/name@revision"; or a mapping of arrays.

    Returns:
      Name of each tensor and its array; names of nested trees are joined by "/".

    Raises:
      UserError: a source that does not exist, cannot be read, or needs a package that is missing.
    """
    if isinstance(source, Mapping):
        return flatten(source)
    path = pathlib.Path(source).expanduser()
    if path.is_dir():
        return _read_folder(path)
    if path.is_file():
        return _read_file(path)
    match = HUB_ID.fullmatch(str(source))
    if match and path.suffix not in SUFFIXES and not path.parent.is_dir():
        return _read_hub(match["id"], match["revision"])
    raise UserError(
        f"weights {str(source)!r}: no such file or folder, and not a hub id of the form owner/name."
    )


def flatten(tree: Mapping[str, Any], prefix: str = "") -> Tensors:
    """Flattens nested mappings of arrays; keys are joined by "/"."""
    flat = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{key}/"))
        elif value is not None:
            flat[f"{prefix}{key}"] = np.asarray(value)
    return flat


def _read_file(path: pathlib.Path) -> Tensors:
    if path.suffix not in SUFFIXES:
        raise UserError(f"weights {str(path)!r}: unknown kind of file; one of {SUFFIXES}.")
    if path.suffix not in (".safetensors", ".npz"):
        return _read_torch(path)
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as archive:
                return dict(archive)
        from safetensors.numpy import load_file

        return load_file(path)
    except Exception as error:
        raise UserError(f"weights {str(path)!r} cannot be read: {_line(error)}") from error


def _read_torch(path: pathlib.Path) -> Tensors:
    try:
        import torch
    except ImportError as error:
        raise UserError(
            f"weights {str(path)!r}: a {path.suffix} file needs torch (pip install torch), "
            "or convert it to .safetensors where torch is installed."
        ) from error
    try:
        # Nothing but tensors is unpickled: a checkpoint cannot run code.
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise UserError(f"weights {str(path)!r} cannot be read: {_line(error)}") from error
    for wrapper in TORCH_WRAPPERS:
        if isinstance(state, Mapping) and isinstance(state.get(wrapper), Mapping):
            state = state[wrapper]
    if not isinstance(state, Mapping):
        raise UserError(f"weights {str(path)!r}: holds {type(state).__name__}, not named tensors.")
    tensors = {name: value for name, value in state.items() if isinstance(value, torch.Tensor)}
    # numpy has no bfloat16 of its own; float32 holds every bfloat16 exactly.
    return {
        name: (value.float() if value.dtype == torch.bfloat16 else value).detach().numpy()
        for name, value in tensors.items()
    }


def _read_folder(path: pathlib.Path) -> Tensors:
    index = path / "model.safetensors.index.json"
    if index.is_file():
        names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        files = [path / name for name in names]
    else:
        files = [path / name for name in HUB_FILES if (path / name).is_file()][:1]
    if files:
        tensors: Tensors = {}
        for file in files:
            tensors.update(_read_file(file))
        return tensors
    return _read_orbax(path)


def _read_orbax(path: pathlib.Path) -> Tensors:
    import jax
    import orbax.checkpoint as ocp

    # A trainer's checkpoint keeps its arrays in this folder of a step.
    path = path / "state" if (path / "state").is_dir() else path
    try:
        with ocp.PyTreeCheckpointer() as checkpointer:
            # numpy arrays know no devices: a checkpoint of any mesh can be read.
            args = jax.tree.map(
                lambda _: ocp.RestoreArgs(restore_type=np.ndarray),
                checkpointer.metadata(path.resolve()).item_metadata.tree,
            )
            tree = checkpointer.restore(path.resolve(), restore_args=args)
        _verify(tree, path.parent / "meta" / "metadata")
    except Exception as error:
        raise UserError(
            f"weights {str(path)!r}: a folder with neither safetensors files nor an orbax "
            f"checkpoint that can be read: {_line(error)}"
        ) from error
    return flatten(tree)


def _verify(tree: Any, meta: pathlib.Path) -> None:
    """Holds arrays against the checksums that a trainer's checkpoint keeps beside them."""
    sums = json.loads(meta.read_text()).get("checksums") if meta.is_file() else None
    if sums:
        damaged = damaged_arrays(tree, sums)
        if damaged:
            raise ValueError(describe_damage(damaged))


def _read_hub(repository: str, revision: str | None) -> Tensors:
    try:
        import huggingface_hub
    except ImportError as error:
        raise UserError(
            f"weights {repository!r}: a hub id needs huggingface_hub (pip install "
            "huggingface_hub); a local file needs nothing."
        ) from error
    missing: Exception | None = None
    for name in ("model.safetensors.index.json", *HUB_FILES):
        try:
            path = huggingface_hub.hf_hub_download(repository, name, revision=revision)
            if name.endswith(".index.json"):
                for shard in set(json.loads(pathlib.Path(path).read_text())["weight_map"].values()):
                    huggingface_hub.hf_hub_download(repository, shard, revision=revision)
                return _read_folder(pathlib.Path(path).parent)
            return _read_file(pathlib.Path(path))
        except huggingface_hub.errors.LocalEntryNotFoundError as error:
            raise UserError(f"weights {repository!r}: the hub cannot be reached from here.") from (
                error
            )
        except huggingface_hub.errors.EntryNotFoundError as error:
            missing = error
        except UserError:
            raise
        except Exception as error:
            raise UserError(
                f"weights {repository!r} cannot be downloaded: {_line(error)}"
            ) from error
    raise UserError(f"weights {repository!r}: the repository has none of {HUB_FILES}.") from missing


def _line(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:300]
