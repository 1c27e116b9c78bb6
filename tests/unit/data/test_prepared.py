"""Files made of the training captions."""

from pathlib import Path

import numpy as np
import pytest
from corpus import write

from itm.data.layout import Split, read_split
from itm.data.module import RegionDataModule
from itm.data.prepared import write_prepared
from itm.relevance import CiderIndex
from itm.text import Concepts, Labels
from itm.text.vocabulary import Vocabulary

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
    with pytest.raises(ValueError, match=r"write=\[words\]: choose from vocab, concepts, labels"):
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
