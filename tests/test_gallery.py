"""The gallery shows every mixer, as it is now."""

import importlib.util
import pathlib

import numpy as np

from scanmax.models.mixers import MIXERS

SCRIPT = pathlib.Path(__file__).resolve().parent.parent / "docs" / "make_gallery.py"
SPEC = importlib.util.spec_from_file_location("make_gallery", SCRIPT)
gallery = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(gallery)


def test_the_page_is_what_the_mixers_say_now():
    assert gallery.PAGE.read_text() == gallery.page(), "run: make gallery"


def test_every_matrix_has_its_picture():
    pictures = {path.stem for path in gallery.PICTURES.glob("*.png")}
    assert pictures <= set(MIXERS), "a picture of a mixer that is gone"
    for name in sorted(set(MIXERS) - pictures):
        assert gallery.matrix(name) is None, f"run: python docs/make_gallery.py {name}"


def test_a_picture_is_drawn_from_the_sown_matrix(tmp_path, monkeypatch):
    monkeypatch.setattr(gallery, "PICTURES", tmp_path)
    assert gallery.draw("attention")
    assert (tmp_path / "attention.png").stat().st_size > 1000
    weights = gallery.matrix("attention")
    assert weights.shape == (4, 196, 196)
    np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-5)
    assert np.triu(gallery.causal_matrix("attention"), 1).max() == 0
