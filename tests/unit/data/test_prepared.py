"""Files made of the training captions."""

from contextlib import nullcontext
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from corpus import write

from itm.data.collate import relevance_index
from itm.data.layout import Split, read_split
from itm.data.module import RegionDataModule
from itm.data.needs import DataNeeds, adopt
from itm.data.prepared import write_prepared
from itm.data.word_lists import find_concepts, find_labels
from itm.relevance import CiderIndex
from itm.text import Concepts, Labels
from itm.text.vocabulary import Vocabulary
from itm.text.words import split_captions

CAPTIONS = ["a red dog runs", "a dog and a cat", "a cat sits", "two cats"]


def test_each_kind_is_written_and_read(tmp_path):
    features, owner = np.zeros((2, 1, 3)), np.array([0, 0, 1, 1])
    train = Split("train", Path("folder"), features, np.arange(2), CAPTIONS, owner)
    path = write_prepared("vocab", train, tmp_path, min_count=2)
    assert {"a", "dog", "cat"} <= set(Vocabulary.load(path).words) and path.name == "vocab.json"
    path = write_prepared("concepts", train, tmp_path, num_concepts=2)
    assert len(Concepts.load(path)) == 2
    labels = Labels.load(write_prepared("labels", train, tmp_path, num_labels=3))
    assert len(labels) <= 3 and labels.images == 2
    path = write_prepared("cider", train, tmp_path)
    assert isinstance(CiderIndex.load(path), CiderIndex)
    with pytest.raises(ValueError, match="write must be 'vocab', .* or 'cider', got 'words'"):
        write_prepared("words", train, tmp_path)


@pytest.mark.parametrize("kind", ["vocab", "concepts", "labels"])
def test_prepared_files_of_other_captions_are_refused_by_content(tmp_path, kind):
    for name in ("train", "dev", "test"):
        write(tmp_path, name)
    written = write_prepared(kind, read_split(tmp_path, "train"), tmp_path, min_count=1)
    moved = written.rename(tmp_path / "elsewhere.json")

    def data(**options):
        found = RegionDataModule(tmp_path, **{kind: moved}, needs=["concepts", "labels"], **options)
        found.setup()
        return found

    data(fraction=0.5, limit=3)
    caps = tmp_path / "train_caps.txt"
    caps.write_bytes(caps.read_bytes().replace(b"\n", b"\r\n"))  # the same captions
    data()
    caps.write_text(caps.read_text().replace("dog", "cat"))
    with pytest.raises(ValueError, match=rf"data.{kind}=.*elsewhere.json was made from other capt"):
        data()
    data(other_captions=True)


def test_concepts_are_found_in_the_folder_of_prepare(tmp_path):
    """The documentation names a folder; it had to hold the list of CVSE's authors."""
    for name in ("train", "dev", "test"):
        write(tmp_path, name)
    out = tmp_path / "lists"
    out.mkdir()

    def data():
        found = RegionDataModule(tmp_path, concepts=out, needs=["concepts"], min_count=1)
        found.setup()
        return found

    with pytest.raises(FileNotFoundError, match=r"lists: expected category_concepts.json or conc"):
        data()
    written = write_prepared("concepts", read_split(tmp_path, "train"), out)
    assert data().concept_vocabulary.words == Concepts.load(written).words
    (out / "category_concepts.json").write_text('{"dog": 0}')
    with pytest.raises(ValueError, match="has two lists of concepts, category_concepts.json and"):
        data()
    (out / "category_concepts.json").unlink()
    caps = tmp_path / "train_caps.txt"
    caps.write_text(caps.read_text().replace("dog", "cat"))
    with pytest.raises(ValueError, match="data.concepts=.*lists was made from other captions"):
        data()


def test_the_prepared_index_is_read_if_it_fits(tmp_path, monkeypatch, capsys):
    write(tmp_path)
    split = read_split(tmp_path, "train")
    expected = relevance_index(split, 30).matrix()
    write_prepared("cider", split, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(CiderIndex, "__init__", None)  # nothing is counted
        np.testing.assert_array_equal(relevance_index(split, 30).matrix(), expected)
    assert not capsys.readouterr().out
    for index, size in (
        (relevance_index(split, 30, "characters"), 30),
        (relevance_index(split.head(3), 15), 30),
        (relevance_index(split, 10), 30),
    ):
        index.save(tmp_path / "cider.npz")
        np.testing.assert_array_equal(relevance_index(split, size).matrix(), expected)
        assert "the prepared index does not fit" in capsys.readouterr().out


@pytest.mark.parametrize("kind", [Labels, Concepts])
def test_lists_without_a_word_of_the_captions_are_refused(tmp_path, kind, capsys):
    captions = ["a dog", "a cat"] * 3
    image, read = np.arange(6), partial(split_captions, captions)
    counts = {"counts": np.zeros(2), "adjacency": np.zeros((2, 2))} if kind is Concepts else {}
    path = tmp_path / "list.json"
    for words, problem in ((["hund", "katze"], True), (["dog", "cat"], False)):
        kind(words, **counts).save(path)
        find = (
            partial(find_concepts, path, read, captions, 2)
            if kind is Concepts
            else partial(find_labels, path, read, image, 2)
        )
        if problem:
            with pytest.raises(ValueError, match=r"list.json: none of its 2 words, .*'hund'"):
                find()
        else:
            assert find().words == words
    assert not capsys.readouterr().out


@pytest.mark.parametrize("kind", ["concepts", "labels"])
def test_files_are_compared_with_the_captions_if_a_matcher_brings_its_words_too(tmp_path, kind):
    for name in ("train", "dev", "test"):
        write(tmp_path, name)
    train = read_split(tmp_path, "train")
    moved = write_prepared(kind, train, tmp_path).rename(tmp_path / "x.json")
    words = Vocabulary.build(train.captions, 1)
    caps = tmp_path / "train_caps.txt"
    caps.write_text(caps.read_text().replace("dog", "cat"))
    for needed in (True, False):  # a list that nothing reads is not compared
        data = RegionDataModule(tmp_path, max_unknown=1.0, **{kind: moved})
        adopt(data, DataNeeds(frozenset({kind} if needed else ()), vocab=words), "fit")
        expected = pytest.raises(ValueError, match=f"data.{kind}=.*x.json was made from other capt")
        with expected if needed else nullcontext():
            data.setup()
