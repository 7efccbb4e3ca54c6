"""The source "text": documents of one's own as rows of tokens."""

import json
import pickle

import numpy as np
import pytest

from scanmax.data import load
from scanmax.data.config import DataConfig
from scanmax.data.sources import open_source
from scanmax.data.text import Mapped
from scanmax.data.tokenization import Bytes, FromFile, from_dict
from scanmax.errors import UserError


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def config(path, length=8, **kwargs):
    return DataConfig(name="text", data_dir=str(path), sequence_length=length, kwargs=kwargs)


def whole(part):
    """The tokens of a part, ends included."""
    return np.asarray(part._elements.tokens[:])


@pytest.fixture
def folder(tmp_path):
    """Twenty documents in files and a .jsonl, two that hold nothing and one that is hidden."""
    root = tmp_path / "texts"
    (root / "below").mkdir(parents=True)
    texts = [f"document {number}: " + "xyz"[number % 3] * number for number in range(20)]
    for number, text in enumerate(texts[:10]):
        (root / ("below" if number % 2 else ".") / f"{number}.txt").write_text(text)
    lines = [json.dumps({"text": text}) for text in [*texts[10:], "  "]]
    (root / "rest.jsonl").write_text("\n".join(lines) + "\n\n")
    (root / "empty.md").write_text("\n")
    (root / ".hidden.txt").write_text("hidden")
    (root / "data.csv").write_text("1,2")
    return root, texts


def test_every_document_is_once_in_one_part(folder):
    root, texts = folder
    source = open_source(config(root))
    found = [whole(part) for part in (source.train, source.eval)]
    split = [bytes(b if b < 256 else 0 for b in part).split(b"\0")[:-1] for part in found]
    assert sorted(text.decode() for part in split for text in part) == sorted(texts)
    assert [len(part) for part in split] == [18, 2]
    assert source.notes[0].startswith("18 training documents of ")
    text_bytes = sum(len(text) for text in split[1])
    assert source.bytes_per_token == text_bytes / len(found[1])


def test_segments_keep_documents_apart(folder):
    root, _ = folder
    pipeline = load(config(root, length=48, held_out=0.4), seed=0, batch_size=4)
    for batch in (next(pipeline.train_iterator()), next(iter(pipeline.eval_batches()))):
        shapes = {name: value.shape for name, value in batch.items()}
        assert shapes == {name: spec.shape for name, spec in pipeline.train_spec.items()}
        rows = zip(batch["tokens"][batch["mask"]], batch["segment_ids"][batch["mask"]])
        for tokens, segments in rows:
            expected, now = [], 0
            for token in tokens[:-1]:
                expected.append(now)
                now += token == 256
            assert segments.tolist() == expected
            assert segments.max() > 0
    plain = load(config(root, packed=False), seed=0, batch_size=4)
    assert set(plain.train_spec) == {"tokens", "mask"}


def test_a_book_is_held_out_at_its_end(tmp_path):
    book = tmp_path / "book.txt"
    lines = [f"line {number}" for number in range(100)]
    book.write_text("\n".join(lines))
    source = open_source(config(book, held_out=0.2))
    texts = [source.decode(whole(part)) for part in (source.train, source.eval)]
    assert "".join(texts) == book.read_text()
    assert texts[1].splitlines() == lines[-len(texts[1].splitlines()) :]
    assert 0.18 < len(texts[1]) / len(book.read_text()) < 0.22
    assert "its last part" in source.notes[0]


def test_tokens_are_kept_while_no_file_changes(tmp_path, monkeypatch):
    book = tmp_path / "book.txt"
    book.write_text("once " * 50)
    before = open_source(config(book))
    monkeypatch.setattr("scanmax.data.text.write_corpus", None)
    again = open_source(config(book))
    np.testing.assert_array_equal(whole(again.train), whole(before.train))
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    book.write_text("twice " * 50)
    assert "twice" in open_source(config(book)).decode(whole(open_source(config(book)).train))
    kept = sorted(path.name for path in (tmp_path / "cache/scanmax").iterdir())
    assert len(kept) == 2
    assert not any("." in name for name in kept)


def test_a_worker_opens_the_file_itself(tmp_path):
    tokens = Mapped(tmp_path / "x.bin", "uint16")
    np.arange(1000, dtype=np.uint16).tofile(tokens.file)
    sent = pickle.dumps(tokens)
    assert len(sent) < 500
    np.testing.assert_array_equal(pickle.loads(sent)[3:7], [3, 4, 5, 6])
    assert len(tokens[990:2000]) == 10


@pytest.fixture
def tokenizer(tmp_path):
    """Words of a book, with an end of text."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    known = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    known.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = ["[UNK]", "<|endoftext|>"]
    trainer = trainers.WordLevelTrainer(special_tokens=special)
    known.train_from_iterator(["the cat sat on the mat"], trainer)
    known.save(str(tmp_path / "tokenizer.json"))
    return tmp_path / "tokenizer.json"


def test_any_tokenizer_of_the_package(tokenizer, tmp_path):
    book = tmp_path / "book.jsonl"
    lines = ["the cat sat", "on the mat", "the mat sat"] * 20
    book.write_text("\n".join(json.dumps({"text": f"{line} {n}"}) for n, line in enumerate(lines)))
    source = open_source(config(book, tokenizer=str(tokenizer), held_out=0.5))
    assert source.num_classes == 7
    assert source.separator == 1
    tokens = whole(source.train)
    assert (tokens == 1).sum() == 30
    assert set(source.decode(tokens).split()) == {"the", "cat", "sat", "on", "mat", "[UNK]"}
    again = from_dict(json.loads(json.dumps(source.tokenizer.to_dict())))
    assert isinstance(again, FromFile)
    np.testing.assert_array_equal(again.encode("the cat"), source.tokenizer.encode("the cat"))
    assert again.end == 1
    assert source.bytes_per_token > 2


def test_bytes_there_and_back():
    for text in ("naïve", "", "日本"):
        assert Bytes(ends=True).decode(Bytes().encode(text)) == text
    assert Bytes(ends=True).decode(np.int32([72, 105, 256, 33])) == "Hi!"
    assert from_dict(Bytes(ends=True).to_dict()) == Bytes(ends=True)
    with pytest.raises(UserError, match="another version"):
        from_dict({"kind": "words"})


def test_mistakes_are_a_line(tmp_path, tokenizer):
    (tmp_path / "none").mkdir()
    book = tmp_path / "book.txt"
    book.write_text("short\ntext")
    (tmp_path / "bad.jsonl").write_text('{"text": "a"}\n{"txt": 1}\n')
    (tmp_path / "worse.jsonl").write_text("no json\n")
    (tmp_path / "latin.txt").write_bytes("caf\xe9".encode("latin-1"))
    for path, kwargs, told in (
        (tmp_path / "none", {}, "holds no file of text"),
        (tmp_path / "book.tx", {}, "is not there; did you mean .*book.txt"),
        (book, {}, r"sequence_length=8: .*book.txt has 7 tokens in its training part"),
        (tmp_path / "bad.jsonl", {}, r"bad.jsonl:2 has no 'text'"),
        (tmp_path / "worse.jsonl", {}, r"worse.jsonl:1 is no JSON"),
        (tmp_path / "latin.txt", {}, "latin.txt is no text in UTF-8"),
        (book, {"tokenizer": "x.json"}, "neither 'bytes' nor a tokenizer.json"),
        (book, {"tokenizer": str(book)}, "is no tokenizer of the package"),
        (book, {"tokenizer": str(tokenizer), "end": "</s>"}, "no token '</s>' ends a document"),
        (book, {"end": "</s>"}, "of a tokenizer.json; bytes have 256"),
        (book, {"tokeniser": "bytes"}, "did you mean 'tokenizer'"),
    ):
        with pytest.raises(UserError, match=told):
            open_source(config(path, **kwargs))
