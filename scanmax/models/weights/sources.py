"""Where weights come from: files, folders and hub ids, all read into one flat dict of arrays."""

import argparse
import contextlib
import json
import logging
import os
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from scanmax.checksum import damaged_arrays, describe_damage
from scanmax.errors import UserError, suggest

# ".tar" is torch's too: timm and others write checkpoints as model_best.pth.tar.
SUFFIXES = (".safetensors", ".npz", ".pth", ".pt", ".bin", ".tar")
# Tensors of a training checkpoint may sit below one of these names, or several: the first counts.
WRAPPERS = ("model_ema", "state_dict_ema", "model", "state_dict", "module", "_orig_mod")
INDEX = "model.safetensors.index.json"
HUB_FILES = ("model.safetensors", "pytorch_model.safetensors", "pytorch_model.bin")
HUB_ID = re.compile(r"(hf_hub:|hf-hub:|hf://)?(?P<id>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?")

# What training scripts of timm and DeiT keep beside the weights: options, and figures of numpy's.
HARMLESS = (
    argparse.Namespace,
    pathlib.PosixPath,
    np.dtype,
    type(np.dtype(np.float64)),
    type(np.dtype(np.float32)),
    type(np.dtype(np.int64)),
    *(
        (np.float64(0).__reduce__()[0], f"numpy.{core}.multiarray.scalar")
        for core in ("core", "_core")
    ),
)
# Of torch's averages of models: how many there were.
COUNT = "n_averaged"

Tensors = dict[str, np.ndarray]
_log = logging.getLogger(__name__)


def read_tensors(
    source: str | os.PathLike | Mapping[str, Any], params_from: str | None = None
) -> Tensors:
    """Reads every tensor of a source.

    Args:
      source: a .safetensors, .npz, .pth, .pt or .bin file; a folder of safetensors files or an
        orbax checkpoint; a hub id "owner/name", "owner/name@revision"; or a mapping of arrays, of
        numpy, jax or torch.
      params_from: which of several trees of a torch checkpoint or a mapping holds the weights, as
        "model" or "model_ema"; None takes the moving average where there is one, and logs that.

    Returns:
      Name of each tensor and its array; names of nested trees are joined by "/".

    Raises:
      UserError: a source that does not exist, cannot be read, or needs a package that is missing.
    """
    if isinstance(source, Mapping):
        told = "weights (a mapping)"
        own = "params" in source
        return flatten(source if own else _unwrapped(source, told, params_from), told)
    if not isinstance(source, str | os.PathLike):
        raise UserError(
            f"weights: expected a path, a hub id or a mapping of arrays, not a "
            f"{type(source).__name__}; of a torch module give its state_dict()."
        )
    path = pathlib.Path(source).expanduser()
    if path.is_dir():
        return _read_folder(path)
    if path.is_file():
        return _read_file(path, params_from)
    match = HUB_ID.fullmatch(str(source))
    if match and path.suffix not in SUFFIXES and not path.parent.is_dir():
        return _read_hub(match["id"], match["revision"])
    if path.parent.is_dir():
        beside = [entry.name for entry in path.parent.iterdir()]
        near = f"; {suggest(path.name, beside)}" if beside else ""
        raise UserError(f"weights {str(source)!r}: no such file or folder{near}")
    raise UserError(
        f"weights {str(source)!r}: no such file or folder, and not a hub id of the form owner/name."
    )


def flatten(tree: Mapping[str, Any], told: str = "weights") -> Tensors:
    """Flattens nested mappings of arrays; keys are joined by "/".

    Raises:
      UserError: two entries of one name, or one that is no array.
    """
    flat: Tensors = {}

    def walk(tree: Mapping[str, Any], prefix: str) -> None:
        for key, value in tree.items():
            name = f"{prefix}{key}"
            if isinstance(value, Mapping):
                walk(value, f"{name}/")
            elif name in flat:
                raise UserError(f"{told}: two tensors have the name {name}.")
            elif value is not None:
                flat[name] = _array(value, name, told)

    walk(tree, "")
    return flat


def _array(value: Any, name: str, told: str) -> np.ndarray:
    """A numpy array of an array of numpy, jax or torch."""
    try:
        if type(value).__module__.partition(".")[0] == "torch":
            value = value.detach().cpu()
            # numpy has no bfloat16 of its own; float32 holds every bfloat16 exactly.
            value = (value.float() if str(value.dtype) == "torch.bfloat16" else value).numpy()
        return np.asarray(value)
    except Exception as error:
        raise UserError(f"{told}: {name} cannot be read: {_line(error)}") from error


def _unwrapped(state: Mapping[str, Any], told: str, params_from: str | None) -> Mapping[str, Any]:
    """The tree of tensors in a training checkpoint, below any nesting of containers."""
    while True:
        trees = {key: value for key, value in state.items() if isinstance(value, Mapping)}
        found = [name for name in WRAPPERS if trees.get(name)]
        if params_from in trees:
            chosen, params_from = params_from, None
        elif found and (params_from is None or len(found) == 1):
            chosen = found[0]
            if len(found) > 1:
                rest = ", ".join(repr(name) for name in found[1:])
                _log.warning("%s: took %r, not %s; params_from= names another.", told, chosen, rest)
        elif params_from is None and (
            not trees or any(hasattr(value, "shape") for value in state.values())
        ):
            return state
        else:
            wish = "" if params_from is None else f"no tree {params_from!r}; "
            listed = ", ".join(sorted(repr(name) for name in trees)) or "none"
            raise UserError(f"{told}: {wish}params_from= names one of its trees: {listed}.")
        state = state[chosen]


def _read_file(path: pathlib.Path, params_from: str | None = None) -> Tensors:
    if path.suffix not in SUFFIXES:
        raise UserError(f"weights {str(path)!r}: unknown kind of file; one of {SUFFIXES}.")
    if path.suffix not in (".safetensors", ".npz"):
        return _read_torch(path, params_from)
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as archive:
                if len(set(archive.files)) < len(archive.files):
                    raise ValueError("two arrays have one name")
                return dict(archive)
        from safetensors.numpy import load_file

        return load_file(path)
    except Exception as error:
        raise UserError(f"weights {str(path)!r} cannot be read: {_line(error)}") from error


def _read_torch(path: pathlib.Path, params_from: str | None) -> Tensors:
    try:
        import torch
    except ImportError as error:
        raise UserError(
            f"weights {str(path)!r}: a {path.suffix} file needs torch (pip install torch), "
            "or convert it to .safetensors where torch is installed."
        ) from error
    try:
        # Nothing but tensors, and what options and figures are kept as, is unpickled: a checkpoint
        # cannot run code.
        with _allowing(torch, *HARMLESS):
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise UserError(f"weights {str(path)!r} cannot be read: {_line(error)}") from error
    told = f"weights {str(path)!r}"
    if not isinstance(state, Mapping):
        raise UserError(f"{told}: holds {type(state).__name__}, not named tensors.")
    state = _unwrapped(state, told, params_from)
    # What a trainer keeps beside the weights (a step, options) is no tensor.
    kept = {k: v for k, v in state.items() if isinstance(v, torch.Tensor) and k != COUNT}
    return flatten(kept, told)


def _allowing(torch: Any, *types: Any) -> contextlib.AbstractContextManager:
    """Lets torch unpickle types of no harm; versions that know no such list refuse them."""
    allow = getattr(torch.serialization, "safe_globals", None)
    return allow(list(types)) if allow else contextlib.nullcontext()


def _read_folder(path: pathlib.Path) -> Tensors:
    if (path / INDEX).is_file():
        files = [path / name for name in _shards(path / INDEX)]
    else:
        files = [path / name for name in HUB_FILES if (path / name).is_file()][:1]
    if not files:
        return _read_orbax(path)
    tensors: Tensors = {}
    where: dict[str, str] = {}
    for file in files:
        if not file.is_file():
            raise UserError(
                f"weights {str(path)!r}: {INDEX} names {file.name}, which is not there."
            )
        for name, tensor in _read_file(file).items():
            if name in tensors:
                raise UserError(
                    f"weights {str(path)!r}: {name} is in {where[name]} and in {file.name}."
                )
            tensors[name], where[name] = tensor, file.name
    return tensors


def _shards(index: pathlib.Path) -> list[str]:
    """The files that an index names, all beside it."""
    try:
        names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    except Exception as error:
        raise UserError(f"weights {str(index)!r}: no index of shards: {_line(error)}") from error
    for name in names:
        if not isinstance(name, str) or not re.fullmatch(r"[^/\\]+\.safetensors", name):
            raise UserError(
                f"weights {str(index)!r}: names {name!r}; expected .safetensors files beside it."
            )
    return names


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
    for name in (INDEX, *HUB_FILES):
        try:
            path = huggingface_hub.hf_hub_download(repository, name, revision=revision)
            if name == INDEX:
                for shard in _shards(pathlib.Path(path)):
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
