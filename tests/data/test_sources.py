"""What the sources hold, and what they say when something is missing."""

import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from sklearn.datasets import load_digits

from scanmax.data import AugmentConfig, DataConfig, corpus, load
from scanmax.data.__main__ import main, prepare
from scanmax.data.digits import held_out
from scanmax.data.sources import Guarded
from scanmax.errors import UserError


def test_digits_are_those_of_scikit_learn(data_dir):
    pipeline = load(DataConfig(data_dir=data_dir, mean=(0,), std=(1,)), seed=0, batch_size=359)
    (batch,) = pipeline.eval_batches()
    data = load_digits()
    test = held_out(data.target)
    np.testing.assert_array_equal(np.round(16 * batch["image"][..., 0]), data.images[test])
    np.testing.assert_array_equal(batch["label"], data.target[test])


def test_the_held_out_part_is_stratified_and_fixed():
    labels = load_digits().target
    test = held_out(labels)
    assert test.mean() == pytest.approx(0.2, abs=0.001)
    for label in range(10):
        assert test[labels == label].mean() == pytest.approx(0.2, abs=0.005)
    assert np.flatnonzero(test)[:5].tolist() == np.flatnonzero(held_out(labels))[:5].tolist()


def test_reading_needs_no_tensorflow(data_dir):
    code = (
        "import sys\n"
        "from scanmax.data import DataConfig, load\n"
        f"p = load(DataConfig(data_dir={data_dir!r}), seed=0, batch_size=4)\n"
        "next(p.train_iterator())\n"
        "assert 'tensorflow' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_missing_data_name_the_command(tmp_path):
    with pytest.raises(UserError, match=r"is not prepared in .*python -m scanmax.data prepare dig"):
        load(DataConfig(data_dir=str(tmp_path)), seed=0, batch_size=4)


def test_unknown_data_name_their_neighbours():
    with pytest.raises(UserError, match="unknown data set 'digitz'; did you mean 'digits'"):
        load(DataConfig(name="digitz"), seed=0, batch_size=4)


def test_unknown_splits_name_the_known_ones(data_dir):
    with pytest.raises(UserError, match="it has test, train"):
        load(DataConfig(data_dir=data_dir, train_split="trian"), seed=0, batch_size=4)


def test_preparing_twice_does_nothing(tmp_path, capsys):
    assert main(["prepare", "digits", f"--data_dir={tmp_path}"]) == 0
    assert "prepared in" in capsys.readouterr().out
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*record*")}
    assert main(["prepare", "digits", f"--data_dir={tmp_path}"]) == 0
    assert f"already in {tmp_path}" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*record*")} == times


def test_a_killed_preparation_leaves_nothing_half_built(tmp_path):
    code = (
        "import os, signal\n"
        "from scanmax.data import digits\n"
        "from scanmax.data.__main__ import prepare\n"
        "encode, seen = digits.encode_png, []\n"
        "def dying(image):\n"
        "    seen.append(1)\n"
        "    if len(seen) == 700: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return encode(image)\n"
        "digits.encode_png = dying\n"
        f"prepare('digits', {str(tmp_path)!r})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True)
    assert done.returncode == -signal.SIGKILL
    (leftover,) = (tmp_path / "digits").glob("incomplete.*")
    with pytest.raises(UserError, match="is not prepared"):
        load(DataConfig(data_dir=str(tmp_path)), seed=0, batch_size=4)
    os.utime(leftover, (0, 0))
    assert "prepared in" in prepare("digits", str(tmp_path))
    assert not leftover.exists()
    load(DataConfig(data_dir=str(tmp_path)), seed=0, batch_size=4)


@pytest.mark.parametrize(
    "argv", [["prepare"], ["nope"], ["prepare", "a", "b"], ["prepare", "--x=1"]]
)
def test_wrong_arguments_are_user_errors(argv):
    with pytest.raises(UserError):
        main(argv)


def test_without_a_network_a_line_says_so_at_once(tmp_path, monkeypatch):
    def unknown(*args):
        raise OSError("Name or service not known")

    monkeypatch.setattr("socket.getaddrinfo", unknown)
    monkeypatch.setattr("urllib.request.getproxies", dict)
    with pytest.raises(UserError, match=r"offline: www\.cs\.toronto\.edu cannot be reached"):
        prepare("cifar10", str(tmp_path))
    # What was downloaded by hand needs none.
    with pytest.raises(UserError, match=r"manual_dir should contain .*ILSVRC2012_img_train\.tar"):
        prepare("imagenet2012", str(tmp_path))


def test_list_says_what_is_ready(data_dir, capsys):
    main(["list", f"--data_dir={data_dir}"])
    lines = capsys.readouterr().out.splitlines()
    assert any(line.split()[:2] == ["digits", "ready"] for line in lines)


def test_a_source_that_exits_is_a_record_that_cannot_be_read():
    class Exits(list):
        def __getitem__(self, index):
            sys.exit(0)

    with pytest.raises(UserError, match=r"record 1 of here cannot be read \(SystemExit: 0\)"):
        Guarded(Exits([1, 2]), "here")[1]


def test_bytes_are_two_parts_without_a_common_paragraph():
    train, test = corpus.read_parts()
    assert 0.05 < len(test) / (len(train) + len(test)) < 0.15
    parts = [set(part.tobytes().split(b"\n\n")) for part in (train, test)]
    assert len(parts[0]) > 500
    # Only splinters of lists are equal, such as a lone "...".
    assert sum(map(len, parts[0] & parts[1])) < 0.01 * len(test)


def test_eval_windows_cover_every_target_once():
    pipeline = load(DataConfig(name="bytes", sequence_length=100), seed=0, batch_size=64)
    test = corpus.read_parts()[1]
    rows = np.concatenate([batch["tokens"][batch["mask"]] for batch in pipeline.eval_batches()])
    np.testing.assert_array_equal(rows[:, 1:].ravel(), test[1 : 1 + 100 * len(rows)])
    assert len(test) - 1 - rows[:, 1:].size < 100


def test_training_windows_start_anywhere():
    pipeline = load(DataConfig(name="bytes", sequence_length=64), seed=0, batch_size=32)
    batch = next(pipeline.train_iterator())
    assert batch["tokens"].shape == (32, 65)
    text = corpus.read_parts()[0].tobytes()
    starts = [text.find(row.astype(np.uint8).tobytes()) for row in batch["tokens"]]
    assert min(starts) >= 0
    assert len({start % 64 for start in starts}) > 10
    assert pipeline.num_classes == 256
    assert isinstance(pipeline.to_display(batch["tokens"][0]), str)


def test_text_is_not_augmented():
    with pytest.raises(UserError, match="changes images; 'bytes' has none"):
        load(DataConfig(name="bytes", augment=AugmentConfig(flip=0.5)), seed=0, batch_size=4)


def test_synthetic_images_have_any_shape():
    data = DataConfig(name="synthetic", image_size=24, kwargs={"classes": 7, "examples": 30})
    pipeline = load(data, seed=0, batch_size=6)
    assert pipeline.train_spec["image"].shape == (6, 24, 24, 3)
    assert (pipeline.num_classes, pipeline.num_train) == (7, 30)
    with pytest.raises(UserError, match="clases"):
        load(DataConfig(name="synthetic", kwargs={"clases": 7}), seed=0, batch_size=6)
