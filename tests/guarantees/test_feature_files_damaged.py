"""Damaged files of features, pictures, boxes and phrases give a value, ValueError or OSError."""

import base64
import json
import pickle
import random

import h5py
import numpy as np
import pytest
from PIL import Image

from itm.data.layout import Split
from itm.features.arrays import read_arrays
from itm.features.extraction import read_boxes
from itm.features.hdf5 import read_hdf5
from itm.features.records import check_record
from itm.features.tsv import read_tsv
from itm.phrases.files import read_phrases
from itm.utils.picture_files import read_picture

RNG = np.random.default_rng(0)
FEATURES = RNG.random((4, 6)).astype(np.float32)
BOXES = np.array([[0, 0, 50, 40]] * 4, np.float32)


def cell(array):
    return base64.b64encode(array.tobytes()).decode()


def split(folder):
    regions = np.tile(np.array([0, 0, 0.5, 0.5]), (2, 3, 1))
    features, rows = np.zeros((2, 3, 4), np.float32), np.arange(2)
    return Split("t", folder, features, rows, ["a dog"] * 2, rows, ["1", "2"], regions)


def records(read):
    return lambda path: [check_record(record) for record in read(path)]


def tsv(folder):
    line = "\t".join(["7", "100", "80", "4", cell(BOXES), cell(FEATURES)])
    (folder / "a.tsv").write_text(f"{line}\n{line}\n")
    return folder / "a.tsv", records(read_tsv)


def vinvl(folder):
    content = {"num_boxes": 4, "features": cell(FEATURES)}
    (folder / "a.tsv").write_text(f"7\t{json.dumps(content)}\n")
    return folder / "a.tsv", records(read_tsv)


def npz(folder):
    np.savez(folder / "a.npz", features=FEATURES, boxes=BOXES, image_w=100, image_h=80)
    return folder / "a.npz", lambda path: records(read_arrays)(path.parent)


def hdf5(folder):
    with h5py.File(folder / "a.h5", "w") as file:
        for name in "ab":
            group = file.create_group(name)
            group["features"], group["boxes"] = FEATURES, BOXES
            group.attrs["image_w"], group.attrs["image_h"] = 100, 80
    return folder / "a.h5", records(read_hdf5)


def picture(kind):
    def make(folder):
        Image.fromarray(RNG.integers(0, 256, (20, 30, 3), np.uint8)).save(folder / f"a.{kind}")
        return folder / f"a.{kind}", read_picture

    make.__name__ = kind
    return make


def boxes(folder):
    (folder / "a.json").write_text(json.dumps({"x.jpg": BOXES.tolist(), "y.jpg": [[0, 0, 1, 1]]}))
    return folder / "a.json", lambda path: read_boxes(path, ["x.jpg", "y.jpg"])


def lines(folder):
    line = {"image": 1, "caption": 1, "phrase": "a dog", "span": [0, 2], "boxes": [[0, 0, 1, 1]]}
    (folder / "t_phrases.jsonl").write_text(f"{json.dumps(line)}\n" * 2)
    return folder / "t_phrases.jsonl", lambda path: read_phrases(path, split(path.parent))


def instances(folder, damaged="instances.json"):
    images = [{"id": n, "file_name": f"{n}.jpg", "width": 100, "height": 80} for n in (1, 2)]
    annotations = [{"id": n, "image_id": n, "bbox": [1.0, 2.0, 30.0, 20.0]} for n in (1, 2)]
    content = {"images": images, "annotations": annotations}
    (folder / "instances.json").write_text(json.dumps(content))
    refs = [{"ann_id": n, "image_id": n, "sentences": [{"sent": "dog"}]} for n in (1, 2)]
    (folder / "refs(unc).p").write_bytes(pickle.dumps(refs, 2))
    return folder / damaged, lambda path: read_phrases(path.parent, split(path.parent))


def refs(folder):
    return instances(folder, "refs(unc).p")


def entities(folder, damaged="Annotations/1.xml"):
    for name in ("Sentences", "Annotations"):
        (folder / name).mkdir()
    box = "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox>"
    size = "<size><width>100</width><height>80</height></size>"
    for n in (1, 2):
        (folder / "Sentences" / f"{n}.txt").write_text("[/EN#1/animals A dog] runs .\n")
        text = f"<annotation>{size}<object><name>1</name>{box}</object></annotation>"
        (folder / "Annotations" / f"{n}.xml").write_text(text)
    return folder / damaged, lambda path: read_phrases(folder, split(folder))


def sentences(folder):
    return entities(folder, "Sentences/1.txt")


FILES = (
    tsv, vinvl, npz, hdf5, boxes, lines, instances, refs, entities, sentences,
    *map(picture, ("png", "jpg", "gif", "bmp", "webp", "tif")),
)  # fmt: skip


def damage(content, rng):
    """Flip bytes, cut, repeat or replace a part."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 8))):
        at = rng.randrange(len(data))
        kind = rng.randrange(5)
        if kind == 0:
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            data[at] = rng.choice(b'0129-.eE"[]{},:\t\n\x00\xff')
        elif kind == 2:
            del data[at : at + rng.randrange(1, 20)]
        elif kind == 3:
            data[at:at] = rng.choice((b"9" * 30, b"NaN", b"null", b"-1", b'"x"', b"[]", data[:9]))
        else:
            data = data[: at + 1]
        if not data:
            break
    return bytes(data)


def try_damaged(folder, make, count, seed=0):
    """Read damaged versions of a file; how many were refused."""
    path, read = make(folder)
    read(path)
    good, rng, refused = path.read_bytes(), random.Random(f"{seed} {make.__name__}"), 0
    for _ in range(count):
        path.write_bytes(damage(good, rng))
        try:
            read(path)
        except (ValueError, OSError) as error:
            assert str(error)
            refused += 1
    return refused


@pytest.mark.parametrize("make", FILES, ids=lambda make: make.__name__)
@pytest.mark.filterwarnings("ignore")
def test_damaged_files_give_a_value_or_a_documented_error(tmp_path, make):
    assert try_damaged(tmp_path, make, 150) > 10


@pytest.mark.slow
@pytest.mark.parametrize("make", FILES, ids=lambda make: make.__name__)
@pytest.mark.filterwarnings("ignore")
def test_many_damaged_files(tmp_path, make):
    try_damaged(tmp_path, make, 20_000, seed=1)
