"""Evaluation of a trained classifier: the figures against scikit-learn, classes matched by name."""

import json

import numpy as np
import pytest
from sklearn import metrics
from test_predict import PREPARE, Brightness, folder, trained  # noqa: F401

from scanmax import cli
from scanmax.data.source import Source
from scanmax.errors import UserError
from scanmax.train import evaluate
from scanmax.train.predictor import Classifier
from scanmax.train.scores import BINS, Judge


def test_scores_are_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    said = rng.dirichlet(np.ones(7), 200).astype(np.float32)
    labels = rng.integers(0, 7, 200)
    judge = Judge(tuple("abcdefg"))
    for start in range(0, 200, 64):
        judge.add(said[start : start + 64], labels[start : start + 64])
    found = judge.scores()
    assert found.accuracy == metrics.accuracy_score(labels, said.argmax(-1))
    expected = metrics.top_k_accuracy_score(labels, said, k=5)
    assert found.top5_accuracy == pytest.approx(expected)
    assert found.loss == pytest.approx(metrics.log_loss(labels, said.astype(np.float64)), rel=1e-6)
    confusion = metrics.confusion_matrix(labels, said.argmax(-1))
    np.testing.assert_array_equal(found.confusion, confusion)
    error, sure, right = 0.0, said.max(-1), said.argmax(-1) == labels
    for low in np.arange(BINS) / BINS:
        within = (sure >= low) & (sure < low + 1 / BINS)
        if within.any():
            error += within.mean() * abs(sure[within].mean() - right[within].mean())
    assert found.calibration_error == pytest.approx(error, rel=1e-5)
    rows = {row["class"]: row for row in found.class_rows()}
    np.fill_diagonal(confusion, 0)
    assert rows["c"]["taken_for"] == "abcdefg"[confusion[2].argmax()]
    assert rows["c"]["times"] == confusion[2].max()


def test_one_that_is_sure_and_wrong_has_a_finite_loss():
    judge = Judge(("a", "b"))
    judge.add(np.float32([[1.0, 0.0]]), np.array([1]))
    found = judge.scores()
    assert (found.accuracy, found.calibration_error) == (0.0, 1.0)
    assert 80 < found.loss < 100
    # There is nothing of the class "a".
    assert [row["class"] for row in found.class_rows()] == ["b"]


def source(images, labels, names):
    examples = [{"image": image, "label": label} for image, label in zip(images, labels)]
    return Source("image", examples, examples[:1], (4, 4, 3), len(names), names)


def grey(*levels):
    return [np.full((4, 4, 3), level, np.uint8) for level in levels]


def test_classes_are_matched_by_name():
    classifier = Classifier(Brightness(), {}, PREPARE, ("dark", "bright"))
    given = source(grey(10, 240, 200, 30), [1, 0, 0, 0], ("bright", "dark"))
    found = evaluate.evaluate_classifier(classifier, given, part="train")
    assert (found.accuracy, found.images) == (0.75, 4)
    assert found.confusion.tolist() == [[2, 1], [0, 1]]
    assert evaluate.evaluate_classifier(classifier, given, part="all", batch_size=2).images == 5
    # A folder of some of the classes: what is not asked for is not said.
    alone = source(grey(10, 240), [0, 0], ("bright",))
    assert evaluate.evaluate_classifier(classifier, alone, part="train").loss == 0.0
    sure = lambda images, size: np.float32([[1.0, 0.0]] * len(images))  # noqa: E731
    sure.class_names = ("dark", "bright")
    with np.errstate(all="raise"):
        lost = evaluate.evaluate_classifier(sure, alone, part="train")
    assert np.isfinite([lost.loss, lost.calibration_error]).all()
    # Names that say nothing, as many as there are classes.
    others = source(grey(10, 240), [0, 1], ("n01", "n02"))
    assert evaluate.evaluate_classifier(classifier, others, part="train").accuracy == 1.0


def test_folders_called_by_numbers_are_places():
    """ImageNetV2's are: "10" comes before "2", and the model's names are others."""
    known = tuple(f"n{place:08}" for place in range(12))
    names = tuple(sorted(str(place) for place in range(12)))
    given = source(grey(*range(12)), range(12), names)
    for told in (known, ()):
        found = evaluate.matching_classes(told, given, 12)
        assert found.tolist() == [0, 1, 10, 11, 2, 3, 4, 5, 6, 7, 8, 9]
    # Numbers that a model has for names are names, and numbers beyond its classes nothing.
    assert evaluate.matching_classes(names, given, 12).tolist() == list(range(12))
    beyond = source(grey(1, 2), [0, 1], ("1", "2"))
    assert evaluate.matching_classes(("a", "b"), beyond, 2).tolist() == [0, 1]
    # Some classes of a model whose names no one knows could be any.
    with pytest.raises(UserError, match=r"2 classes \('x', ...\) and the model 12: name"):
        evaluate.matching_classes((), source(grey(1, 2), [0, 1], ("x", "y")), 12)


def test_reassessed_labels(classes, trained, monkeypatch, tmp_path, capsys):  # noqa: F811
    """Of four images one has no label, one is taken for another of its own, one is wrong."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(evaluate, "load_for_inference", lambda run, step: trained)
    for file in classes.rglob("*.png"):
        file.rename(file.with_name(f"ILSVRC2012_val_{int(file.stem) + 1:08}.png"))
    labels, out = tmp_path / "real.json", tmp_path / "found.json"
    # bright is 0 and dark 1; the images are dark, bright, dark, bright.
    labels.write_text("[[1], [], [0], [1, 0]]")
    data = ["--data.name=image_folder", f"--data.data_dir={classes}", "--part=all"]
    argv = ["run", *data, f"--real={labels}", f"--out={out}"]
    assert cli.run_main(evaluate.main, argv) == 0
    assert "real_accuracy      0.6667" in capsys.readouterr().out
    found = json.loads(out.read_text())
    assert (found["accuracy"], found["real_accuracy"]) == (1.0, 2 / 3)
    labels.write_text("[[1]]")
    assert cli.run_main(evaluate.main, argv) == 2
    told = "--real has labels of ILSVRC2012_val_00000001.JPEG to 00000001; the data hold 'bright/"
    assert told in capsys.readouterr().err
    labels.write_text("[[2], [], [], []]")
    assert cli.run_main(evaluate.main, argv) == 2
    assert "--real holds the class 2, a place among all classes" in capsys.readouterr().err
    labels.write_text("[[-1], [], [], []]")
    assert cli.run_main(evaluate.main, argv) == 2
    assert "--real holds the class -1" in capsys.readouterr().err
    labels.write_text("[1]")
    assert cli.run_main(evaluate.main, argv) == 2
    assert "is no list of lists of classes" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("names", "label", "told"),
    [
        (("dark", "brigth"), 0, "the class 'brigth', .* did you mean 'bright'"),
        (("a", "b", "c"), 0, r"3 classes \('a', ...\) and the model 2 .* --classes=FILE"),
        (("dark", "bright"), -1, "without a label"),
    ],
)
def test_classes_that_do_not_fit_are_a_line(names, label, told):
    classifier = Classifier(Brightness(), {}, PREPARE, ("dark", "bright"))
    given = source(grey(10), [label], names)
    with pytest.raises(UserError, match=told):
        evaluate.evaluate_classifier(classifier, given)


@pytest.fixture
def classes(tmp_path, folder):  # noqa: F811
    """The images of test_predict in folders by class, dark and bright by turns."""
    for number, name in enumerate(("dark", "bright", "dark", "bright")):
        (tmp_path / "set" / name).mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.png").rename(tmp_path / "set" / name / f"{number}.png")
    return tmp_path / "set"


def test_the_command(trained, classes, monkeypatch, tmp_path, capsys):  # noqa: F811
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(evaluate, "load_for_inference", lambda run, step: trained)
    data = ["--data.name=image_folder", f"--data.data_dir={classes}"]
    out = tmp_path / "found.json"
    assert cli.run_main(evaluate.main, ["run", *data, "--part=all", f"--out={out}"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "all of 'image_folder': 4 images, 2 classes"
    assert lines[1].split() == ["accuracy", "1.0000"]
    assert lines[-1] == f"written to {out}"
    found = json.loads(out.read_text())
    assert found["confusion"] == [[2, 0], [0, 2]]
    assert [row["class"] for row in found["classes"]] == ["bright", "dark"]
    for argv, told in (
        ([], "name one run, or --model=NAME"),
        (["run", "--model=resnet18"], "name one run, or --model=NAME"),
        (["--model=resnet18"], "needs --weights=SOURCE"),
        (["--model=lm_tiny", "--weights=x"], "--model=lm_tiny reads tokens"),
        (["run", "--prat=all"], "'prat'"),
        (["run", "--part=none"], "held_out"),
        (["run", "--classes=names.txt"], "--weights and --classes are of --model=NAME"),
        (["--model=resnet18", "--weights=x", "--step=3"], "--step=3 is of a run"),
        (["run", "--data.nam=x"], "config.data has no field 'nam'"),
    ):
        status = cli.run_main(evaluate.main, argv or ["--part=all"])
        assert (status, told in capsys.readouterr().err) == (2, True), told


def test_a_registered_model_is_asked_by_its_weights(classes, monkeypatch, tmp_path, capsys):
    """Weights of one layer's bias say always the same class."""
    import jax

    from scanmax import create_model, save_weights

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    model = create_model("convmixer_768_32", num_classes=2)
    shapes = jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, 32, 32, 3), np.float32))
    variables = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes)
    variables["params"]["head"]["bias"] = np.float32([1.0, 0.0])
    save_weights(variables, tmp_path / "weights.safetensors")
    (tmp_path / "names.txt").write_text("dark\nbright\n")
    argv = [
        "--model=convmixer_768_32",
        f"--weights={tmp_path / 'weights.safetensors'}",
        f"--data.data_dir={classes}",
        "--data.image_size=32",
        "--part=all",
        f"--classes={tmp_path / 'names.txt'}",
    ]
    assert cli.run_main(evaluate.main, argv) == 0
    assert "bright        2    0.0000  dark (2)" in capsys.readouterr().out
