"""REFER divides its expressions itself; those of other splits are never mixed in."""

import json
import pickle

import numpy as np
import pytest

from itm.data.layout import Split
from itm.phrases.files import read_phrases
from itm.phrases.source import PhraseSource
from itm.phrases.split import phrase_split

IDS = ["COCO_train2014_000000000009.jpg", "COCO_train2014_000000000025.jpg"]
BOXES = np.tile([[0.1, 0.1, 0.5, 0.5]], (2, 1, 1))


def refer(folder, *splits, image=9):
    """Write one object per split, in the first image; its expression is the name of the split."""
    images = [
        {"id": n, "file_name": f"COCO_train2014_{n:012d}.jpg", "width": 100, "height": 80}
        for n in (9, 25, 30)
    ]
    things = [{"id": i, "image_id": image, "bbox": [10, 10, 20, 20]} for i in range(len(splits))]
    (folder / "instances.json").write_text(json.dumps({"images": images, "annotations": things}))
    refs = [
        {"ref_id": i, "ann_id": i, "image_id": 9, "sentences": [{"sent": str(own)}]}
        | ({} if own is None else {"split": own})
        for i, own in enumerate(splits)
    ]
    (folder / "refs(unc).p").write_bytes(pickle.dumps(refs, 2))
    return folder


def read(folder, name="test", **options):
    split = Split(name, folder, np.zeros((2, 1, 3), np.float32), np.arange(2), ["a"] * 2,
                  np.arange(2), IDS, BOXES)  # fmt: skip
    return [phrase.text for phrase in read_phrases(folder, split, **options)]


@pytest.mark.parametrize(
    ("name", "options", "found"),
    [
        ("test", {}, ["testA", "testB"]),
        ("train", {}, ["train"]),
        ("dev", {}, ["val"]),
        ("mine", {}, ["train", "val", "testA", "testB"]),
        ("train", {"refer_split": "testB"}, ["testB"]),
    ],
)
def test_expressions_of_other_splits_are_left_out_and_told(tmp_path, capsys, name, options, found):
    refer(tmp_path, "train", "val", "testA", "testB")
    assert read(tmp_path, name, **options) == found
    told = capsys.readouterr().out
    assert ("objects of other splits of REFER" in told) == (len(found) < 4)
    assert ("testA, testB, train, val of refs(unc).p are read" in told) == (name == "mine")


def test_images_of_another_split_are_refused(tmp_path):
    refer(tmp_path, "train", "train")
    with pytest.raises(
        ValueError, match=r"no expression of test or testA or testB .*train: 2.*ref"
    ):
        read(tmp_path)
    assert read(tmp_path, refer_split="train") == ["train", "train"]


def test_expressions_without_a_split_are_read(tmp_path):
    assert read(refer(tmp_path, None)) == ["None"]


def test_an_object_of_another_image_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"expression 0 of image 9: its object is in image 25"):
        read(refer(tmp_path, "test", image=25))


def test_two_images_of_one_annotation_are_refused(tmp_path):
    for name in ("Sentences", "Annotations"):
        (tmp_path / name).mkdir()
    (tmp_path / "Sentences" / "1.txt").write_text("a dog\n")
    (tmp_path / "Annotations" / "1.xml").write_text(
        "<annotation><size><width>9</width><height>9</height></size></annotation>"
    )
    split = Split("test", tmp_path, np.zeros((2, 1, 3)), np.arange(2), ["a"] * 2, np.arange(2),
                  ["x/1.jpg", "y/1.jpg"], BOXES)  # fmt: skip
    with pytest.raises(ValueError, match=r"'x/1.jpg' and 'y/1.jpg' .* both mean 1.txt"):
        read_phrases(tmp_path, split)


def test_boxes_reach_to_their_edges(tmp_path):
    """COCO's x, y, w, h covers x to x + w: a region on it overlaps by 1, however small it is."""
    refer(tmp_path, "test")
    boxes = np.tile([[0.1, 0.125, 0.3, 0.375]], (2, 1, 1))
    pixels = np.tile([[10.0, 10.0, 29.0, 29.0]], (2, 1, 1))  # inclusive
    for own in (boxes, pixels):
        split = Split("test", tmp_path, np.zeros((2, 1, 3), np.float32), np.arange(2), ["a"] * 2,
                      np.arange(2), IDS, own)  # fmt: skip
        found = phrase_split(split, read_phrases(tmp_path, split)).overlaps([0])
        np.testing.assert_allclose(found, 1)


def test_training_keeps_the_phrases_that_match_in_whatever_order(tmp_path):
    """REFER lists its expressions by object, not by image."""
    folder = refer(tmp_path, "train", "train")
    content = json.loads((folder / "instances.json").read_text())
    content["annotations"] = [
        {"id": 0, "image_id": 25, "bbox": [60, 60, 20, 20]},  # no region is there
        {"id": 1, "image_id": 9, "bbox": [10, 8, 40, 32]},  # exactly the region
    ]
    (folder / "instances.json").write_text(json.dumps(content))
    refs = [
        {"ref_id": i, "ann_id": i, "image_id": image, "sentences": [{"sent": text}],
         "split": "train"}
        for i, (image, text) in enumerate([(25, "beside"), (9, "on it")])
    ]  # fmt: skip
    (folder / "refs(unc).p").write_bytes(pickle.dumps(refs, 2))
    split = Split("train", folder, np.zeros((2, 1, 3), np.float32), np.arange(2), ["a"] * 2,
                  np.arange(2), IDS, BOXES)  # fmt: skip
    kept = PhraseSource(folder).split(split, train=True)
    assert kept.captions == ["on it"] and kept.overlaps([0]).max() == pytest.approx(1)
