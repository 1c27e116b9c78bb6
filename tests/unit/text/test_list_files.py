"""Files of vocabularies and label lists that are nearly right."""

import gzip
import json
import pickle

import numpy as np
import pytest

from itm.text.concepts import Concepts
from itm.text.labels import Labels, positive_weights
from itm.text.vocabulary import SPECIALS, Vocabulary

IDS = {word: i for i, word in enumerate([*SPECIALS, "dog"])}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (json.dumps({"word2idx": IDS}).encode("utf-16"), "text in UTF-16"),
        (gzip.compress(b"{}", mtime=0), "compressed by gzip"),
        (pickle.dumps(IDS), "a Python pickle"),
        ({"word2idx": IDS, "idx2word": {"0": "<pad>", "1": "dog"}}, "number the words differently"),
        ({"word2idx": IDS | {"dog": 4.0}}, "whole numbers"),
        ({"word2idx": {"<pad>": False, "<start>": True, "<end>": 2, "<unk>": 3}}, "whole numbers"),
        (b'{"word2idx": {"<pad>": 0, "dog": 1, "dog": 2}}', "'dog' occurs twice"),
        ({"kind": "words", "words": [*SPECIALS, 3]}, "must hold strings"),
        ({"kind": "words", "words": [*SPECIALS], "markers": "no"}, "true or false"),
        ({"tok2idx": {"dog": 1}, "max_length": 0}, "must be from 1 to 100000, got 0"),
    ],
)
def test_vocabularies_that_are_nearly_right_are_refused(tmp_path, content, message):
    path = tmp_path / "vocab.json"
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    with pytest.raises(ValueError, match=f"vocab.json.*{message}"):
        Vocabulary.load(path)


def test_a_byte_order_mark_and_a_list_of_words_are_read(tmp_path):
    content = {"word2idx": IDS, "idx2word": list(IDS)}
    (tmp_path / "vocab.json").write_bytes(json.dumps(content).encode("utf-8-sig"))
    assert Vocabulary.load(tmp_path / "vocab.json").words == list(IDS)


def test_lists_that_are_nearly_right_are_refused(tmp_path):
    path = tmp_path / "labels.json"
    for content, message in (
        ({"words": "dog"}, "must be a list of words"),
        ({"word2idx": {"<unk>": False, "dog": True}}, "not a word list"),
    ):
        path.write_text(json.dumps(content))
        with pytest.raises(ValueError, match=message):
            Labels.load(path)
    with pytest.raises(ValueError, match="groups must be 2, one per concept, got 1"):
        Concepts(["dog", "cat"], groups=["OBJ"])
    np.save(tmp_path / "w.npy", np.ones(2, complex))
    with pytest.raises(ValueError, match="expected 2 plain numbers .*complex128"):
        positive_weights(tmp_path / "w.npy", 2)


def test_two_files_of_concept_vectors_are_refused(tmp_path):
    (tmp_path / "category_concepts.json").write_text('{"dog": 0}')
    for name in ("coco_concepts_glove.pkl", "f30k_concepts_glove.pkl"):
        (tmp_path / name).write_bytes(pickle.dumps(np.ones((1, 3))))
    with pytest.raises(ValueError, match="both hold vectors of concepts"):
        Concepts.load(tmp_path)


@pytest.mark.parametrize("name", ["counts", "adjacency"])
@pytest.mark.parametrize("value", [1.5, np.nan, "1"])
def test_counts_of_concepts_are_whole_numbers(name, value):
    values = np.full((2, 2) if name == "adjacency" else 2, value)
    with pytest.raises(ValueError, match=f"{name} of concepts must be whole numbers"):
        Concepts(["a", "b"], **{name: values})
    assert Concepts(["a", "b"], counts=np.array([1.0, 2.0])).counts.tolist() == [1, 2]
    edges = Concepts(["a", "b"], adjacency=np.eye(2, dtype=bool)).adjacency
    assert edges.tolist() == [[1, 0], [0, 1]]
