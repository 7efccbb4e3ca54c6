"""What lies on a disk may change by itself: checksums tell, and every reader asks them."""

import json
import os
import random
import shutil

import chex
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from toy_run import MODEL, ToyData, copy, shared_build, toy_config

from scanmax import checksum
from scanmax.checksum import checksums, damaged_arrays
from scanmax.errors import UserError
from scanmax.models.weights.sources import read_tensors
from scanmax.train.checkpoint import Checkpointer, read_meta, sealed
from scanmax.train.config import CheckpointConfig
from scanmax.train.inference import load_for_inference
from scanmax.train.loop import train
from scanmax.train.workdir import read_config

# Of 3, of three floats and of the numbers to 14 in each dtype of the test.
KNOWN = [
    *(2247144487, 498288309),
    *(2109325673, 472402281, 1236875217, 1236875217, 1554214057, 1322715020),
]


def sum_of(array):
    (value,) = checksums({"x": array}).values()
    return value


@pytest.mark.parametrize("small", [-1, 100])
def test_a_checksum_knows_every_bit_and_place_and_no_layout(small, monkeypatch):
    """Summed on the devices as on the host."""
    monkeypatch.setattr(checksum, "SMALL", small)
    rng = np.random.default_rng(0)
    array = rng.normal(size=(8, 6)).astype(np.float32)
    whole = sum_of(array)
    mesh = jax.make_mesh((4, 2), ("a", "b"), axis_types=(AxisType.Auto,) * 2)
    for spec in (("a",), ("a", "b"), (("a", "b"),), ()):
        lying = NamedSharding(mesh, PartitionSpec(*spec))
        assert sum_of(jax.device_put(array, lying)) == whole
    bits = array.view(np.uint32).ravel()
    for _ in range(50):
        changed = bits.copy()
        changed[rng.integers(48)] ^= np.uint32(1) << np.uint32(rng.integers(32))
        assert sum_of(changed.view(np.float32).reshape(8, 6)) != whole
    assert sum_of(array[::-1]) != whole
    assert sum_of(array.T) != whole
    holed = array.copy()
    holed[2:4] = 0
    assert sum_of(holed) != whole
    known = [sum_of(3), sum_of(np.arange(3.0))]
    for dtype in ("bfloat16", "float16", "int8", "uint32", "bool", "complex64"):
        ones = jnp.ones((5, 3)).astype(dtype)
        assert sum_of(ones) == sum_of(np.asarray(ones))
        assert sum_of(ones) != sum_of(ones.at[4, 2].set(0))
        known.append(sum_of(np.arange(15).reshape(5, 3).astype(ones.dtype)))
    # Checkpoints hold them.
    assert known == KNOWN
    assert sum_of(np.zeros((0, 3), np.float32)) == 0
    assert damaged_arrays({"x": array, "y": array}, {"x": whole, "z": 3}) == ["y"]


@pytest.fixture(scope="module")
def plan():
    return shared_build(toy_config(), pipeline=ToyData(), model=MODEL)


def restored(plan, workdir):
    with Checkpointer(workdir / "checkpoints", plan.config.checkpoint) as checkpointer:
        return checkpointer.restore(plan.shapes, plan.shardings)


def keep_two(undisturbed, place):
    """The last two checkpoints of the undisturbed run in a fresh folder."""
    shutil.rmtree(place, ignore_errors=True)
    for step in ("8", "10"):
        shutil.copytree(undisturbed[0] / "checkpoints" / step, place / "checkpoints" / step)
    shutil.copy(undisturbed[0] / "config.json", place)
    return place / "checkpoints" / "10"


def test_flipped_bits_and_lost_sectors_are_never_taken_for_a_state(tmp_path, capsys):
    """Restored is what was saved, to the bit, or the checkpoint before with a warning.

    The storage's own sums cover small arrays only; these are of the size of a model's.
    """
    rng = np.random.default_rng(0)
    saved = {
        step: {"step": jnp.int32(step), "w": rng.normal(size=(300, 300)).astype(np.float32)}
        for step in (8, 10)
    }
    shapes = jax.eval_shape(lambda: saved[10])
    lying = jax.tree.map(lambda _: jnp.zeros(()).sharding, shapes)
    with Checkpointer(tmp_path / "whole", CheckpointConfig()) as checkpointer:
        for step, state in saved.items():
            checkpointer.save(jax.device_put(state), {"step": step, "best": 0.5}, {"loss": 1.0})
    place, rng, told = tmp_path / "run", random.Random(0), []
    for trial in range(40):
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(tmp_path / "whole", place)
        newest = place / "10"
        known = read_meta(newest)
        files = [path for path in sorted(newest.rglob("*")) if path.is_file()]
        # Where the bytes are, the faults are; but the small files too.
        sizes = None if trial % 4 == 0 else [path.stat().st_size for path in files]
        (path,) = rng.choices(files, sizes)
        content = bytearray(path.read_bytes())
        if trial % 3:
            content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        else:
            start = rng.randrange(0, len(content), 512)
            content[start : start + 512] = bytes(len(content[start : start + 512]))
        path.write_bytes(content)
        with Checkpointer(place, CheckpointConfig()) as checkpointer:
            state, meta = checkpointer.restore(shapes, lying)
        told.append(capsys.readouterr().err)
        chex.assert_trees_all_equal(jax.device_get(state), saved[meta["step"]])
        if meta["step"] == 10:
            assert meta == known
        else:
            assert "checkpoint 10 is damaged" in told[-1]
    # Much of it only a checksum tells.
    assert sum("the checksums of w differ" in err for err in told) > 5, told
    # A meta is small: one bit of each of its bytes, in turn.
    path = tmp_path / "whole" / "10" / "meta" / "metadata"
    content, known = path.read_bytes(), read_meta(tmp_path / "whole" / "10")
    for place in range(len(content)):
        flipped = bytearray(content)
        flipped[place] ^= 1 << rng.randrange(8)
        path.write_bytes(flipped)
        try:
            assert read_meta(tmp_path / "whole" / "10") == known, bytes(flipped)
        except ValueError:
            continue


def change_one_number(newest):
    """Writes the arrays anew with one other number, as a storage that lies would give them."""
    with ocp.PyTreeCheckpointer() as checkpointer:
        tree = checkpointer.restore(newest / "state")
        tree["ema"]["model"]["stem"] = np.asarray(tree["ema"]["model"]["stem"]).copy()
        tree["ema"]["model"]["stem"][3, 2] += 1
        shutil.rmtree(newest / "state")
        checkpointer.save(newest / "state", tree)


def test_every_reader_verifies(undisturbed, tmp_path, plan, capsys):
    newest = keep_two(undisturbed, tmp_path / "run")
    assert read_tensors(newest)
    change_one_number(newest)
    with pytest.raises(UserError, match="cannot be read: the checksums of ema/model/stem differ"):
        load_for_inference(tmp_path / "run", model=MODEL)
    with pytest.raises(UserError, match="the checksums of ema/model/stem differ"):
        read_tensors(newest)
    assert load_for_inference(tmp_path / "run", 8, model=MODEL).step == 8
    _, meta = restored(plan, tmp_path / "run")
    assert meta["step"] == 8
    assert (
        "checkpoint 10 is damaged (the checksums of ema/model/stem differ)"
        in capsys.readouterr().err
    )
    # On a mesh of eight the same damage is found, and the same state is whole.
    config = toy_config()
    config.sharding.preset = "fsdp_tp"
    meshed = shared_build(config, pipeline=ToyData(), model=MODEL)
    newest = keep_two(undisturbed, tmp_path / "run")
    assert restored(meshed, tmp_path / "run")[1]["step"] == 10
    change_one_number(newest)
    assert restored(meshed, tmp_path / "run")[1]["step"] == 8


def write_meta(newest, meta):
    (newest / "meta" / "metadata").write_text(json.dumps(meta))


def test_folder_meta_and_state_agree_on_the_step(undisturbed, tmp_path, plan, capsys):
    newest = keep_two(undisturbed, tmp_path / "run")
    newest.rename(newest.with_name("12"))
    assert restored(plan, tmp_path / "run")[1]["step"] == 8
    assert "the folder is named 12 and holds step 10" in capsys.readouterr().err
    newest = keep_two(undisturbed, tmp_path / "run")
    meta = read_meta(newest)
    newest = newest.rename(newest.with_name("12"))
    write_meta(newest, sealed({**meta, "step": 12}))
    with pytest.raises(UserError, match="its meta says step 12, its state step 10"):
        load_for_inference(tmp_path / "run", model=MODEL)
    assert restored(plan, tmp_path / "run")[1]["step"] == 8


def test_a_checkpoint_from_before_checksums_is_restored_with_a_line(
    undisturbed, tmp_path, plan, capsys
):
    newest = keep_two(undisturbed, tmp_path / "run")
    meta = read_meta(newest)
    for name in ("checksums", "metrics"):
        del meta[name]
    write_meta(newest, {**meta, "skipped": 0})
    state, found = restored(plan, tmp_path / "run")
    assert found["step"] == 10
    chex.assert_trees_all_equal(jax.device_get(state), undisturbed[2])
    assert "checkpoint 10 has no checksums" in capsys.readouterr().err
    assert load_for_inference(tmp_path / "run", "best", model=MODEL).step == 10
    # One whose checksums alone are gone is not from before: it is damaged.
    newest = keep_two(undisturbed, tmp_path / "run")
    meta = json.loads((newest / "meta" / "metadata").read_text())
    del meta["checksums"]
    write_meta(newest, meta)
    assert restored(plan, tmp_path / "run")[1]["step"] == 8


def test_damaged_metrics_are_written_anew(undisturbed, tmp_path, plan, capsys):
    newest = keep_two(undisturbed, tmp_path / "run")
    path = newest / "metrics" / "metrics"
    before = json.loads(path.read_text())
    for content in (json.dumps({**before, "loss": 0.0}), "{", "3"):
        path.write_text(content)
        restored(plan, tmp_path / "run")
        assert "the metrics of checkpoint 10 are damaged" in capsys.readouterr().err
        assert json.loads(path.read_text()) == before


@pytest.mark.parametrize("fault", ["lost", "empty", "cut", "flipped"])
def test_a_config_is_read_from_the_newest_checkpoint_where_its_file_is_damaged(
    undisturbed, tmp_path, capsys, fault
):
    workdir = copy(undisturbed, tmp_path)
    path = workdir / "config.json"
    text = path.read_text()
    if fault == "lost":
        path.unlink()
    elif fault == "flipped":
        path.write_text(text.replace('"weight_decay": 0.1', '"weight_decay": 0.3'))
    else:
        os.truncate(path, 0 if fault == "empty" else len(text) // 2)
    # Another config is refused all the same, and the run's own goes on.
    other = toy_config()
    other.optim.weight_decay = 0.3
    with pytest.raises(UserError, match=r"another config \(optim\.weight_decay: 0\.1 -> 0\.3"):
        train(other, workdir, pipeline=ToyData(), model=MODEL)
    assert load_for_inference(workdir, model=MODEL).config.optim.weight_decay == 0.1
    told = {"lost": "is missing", "flipped": "is not that of checkpoint 10 (optim.weight_decay"}
    expected = f"config.json {told.get(fault, 'is damaged')}"
    assert expected in capsys.readouterr().err
    assert train(toy_config(), workdir, pipeline=ToyData(), model=MODEL) == undisturbed[1]
    assert path.read_text() == text
    # Nothing else says it: one line.
    path.write_text("{")
    for step in ("8", "10"):
        (workdir / "checkpoints" / step / "meta" / "metadata").write_text("{")
    with pytest.raises(UserError, match="is damaged, and no checkpoint holds a copy"):
        read_config(workdir)
