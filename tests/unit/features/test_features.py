import base64
import json
import os
import pickle
from pathlib import Path

import h5py
import numpy as np
import pytest

from itm.app.config import compose
from itm.data import check
from itm.data.boxes import to_fractions
from itm.data.layout import read_split
from itm.data.names import Names, report_lost
from itm.features.arrays import read_arrays
from itm.features.convert import convert_features
from itm.features.extraction import read_boxes
from itm.features.hdf5 import read_hdf5
from itm.features.partition import partition
from itm.features.records import Record, check_record
from itm.features.sentences import read_sentences
from itm.features.store import Store, fit, write_captions
from itm.features.tsv import read_tsv
from itm.prepare import command as prepare

NAMES = [f"COCO_val2014_{i:012d}.jpg" for i in (7, 12, 391895, 5)]
CAPTIONS = {name: [f"caption {i} of {name[-5]}" for i in range(3)] for name in NAMES}
RNG = np.random.default_rng(0)
FEATURES = {name: RNG.normal(size=(4, 6)).astype(np.float32) for name in NAMES}
PIXELS = {name: np.sort(RNG.uniform(0, 200, (4, 4)).astype(np.float32)) for name in NAMES}


def cell(array):
    return base64.b64encode(np.ascontiguousarray(array, np.float32).tobytes()).decode()


def write_tsv(path, names=NAMES, wide=False, header=False):
    lines = []
    if header:
        lines.append("image_id\timage_w\timage_h\tnum_boxes\tboxes\tfeatures")
    for name in names:
        number = str(int(name[-16:-4]))
        arrays = ["4", cell(PIXELS[name]), cell(FEATURES[name])]
        row = [number, "400", "200", *arrays]
        if wide:
            row = [number, "200", "400", "x", "x", "x", "x", *arrays]
        lines.append("\t".join(row))
    path.write_text("\n".join(lines) + "\n")
    return path


def expect(folder, boxes=True, dtype=np.float16):
    """The folder holds every image's own features, boxes and captions, in one split or another."""
    seen = []
    for name in ("train", "dev", "test"):
        split = read_split(folder, name)
        for row, image in enumerate(split.ids):
            np.testing.assert_array_equal(split.features[row], FEATURES[image].astype(dtype))
            if boxes:
                wanted = PIXELS[image] / [400, 200, 400, 200]
                np.testing.assert_allclose(split.boxes[row], wanted, rtol=1e-6)
            assert split.references()[row] == CAPTIONS[image]
        seen += split.ids
    assert sorted(seen) == sorted(NAMES)


THREE = [0.5, 0.25, 0.25]


def splits():
    return partition(NAMES, fractions=THREE)


@pytest.mark.parametrize("options", [{}, {"wide": True}, {"header": True}])
def test_bottom_up_attention_files(tmp_path, options):
    records = read_tsv(write_tsv(tmp_path / "a.tsv", NAMES[::-1], **options))
    expect(convert_features(records, splits(), CAPTIONS, tmp_path / "out"))


def test_arrays_one_per_image(tmp_path):
    folder = tmp_path / "arrays" / "val2014"
    folder.mkdir(parents=True)
    for i, name in enumerate(NAMES):
        if i % 2:
            np.save(folder / f"{name}.npy", FEATURES[name])
        else:
            size = {"image_w": 400, "image_h": 200}
            np.savez(folder / f"{name[:-4]}.npz", x=FEATURES[name], bbox=PIXELS[name], **size)
    out = convert_features(
        read_arrays(tmp_path / "arrays"), splits(), CAPTIONS, tmp_path / "out", dtype="float32"
    )
    expect(out, boxes=False, dtype=np.float32)


@pytest.mark.parametrize("kind", ["rows", "groups", "arrays", "suffixes", "kinds", "packed"])
def test_hdf5(tmp_path, kind):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        if kind == "rows":
            file["image_features"] = np.stack([FEATURES[n] for n in NAMES])
            file["image_bb"] = np.stack([PIXELS[n] / [400, 200, 400, 200] for n in NAMES])
            file["ids"] = [n[:-4] for n in NAMES]
        for name in NAMES if kind == "groups" else []:
            group = file.create_group(name)
            group["features"], group["boxes"] = FEATURES[name], PIXELS[name]
            group.attrs["image_w"], group.attrs["image_h"] = 400, 200
        for name in NAMES if kind == "arrays" else []:
            file[name] = FEATURES[name]
        for name in NAMES if kind in ("suffixes", "kinds") else []:
            number, boxes = int(name[-16:-4]), PIXELS[name] / [400, 200, 400, 200]
            form = "{}_{}" if kind == "suffixes" else "{1}/{0}"
            file[form.format(number, "features")] = FEATURES[name]
            file[form.format(number, "boxes")] = boxes
            file[form.format(number, "cls_prob")] = np.ones((4, 9))
        if kind == "packed":  # as in bottom-up features for VQA
            file["image_features"] = np.concatenate([FEATURES[n] for n in NAMES])
            boxes = [PIXELS[n] / [400, 200, 400, 200] for n in NAMES]
            file["image_bb"] = np.concatenate(boxes)
            file["pos_boxes"] = [[4 * i, 4 * i + 4] for i in range(len(NAMES))]
            rows = {int(name[-16:-4]): row for row, name in enumerate(NAMES)}
            (tmp_path / "a_imgid2idx.pkl").write_bytes(pickle.dumps(rows))
    out = convert_features(read_hdf5(tmp_path / "a.h5"), splits(), CAPTIONS, tmp_path / "out")
    expect(out, boxes=kind != "arrays")


def test_prepare_converts_and_checks(tmp_path, capsys):
    write_tsv(tmp_path / "a.tsv")
    lines = [f"{name}#{i}\t{text}\n" for name in NAMES for i, text in enumerate(CAPTIONS[name])]
    (tmp_path / "captions.txt").write_text("".join(lines))
    given = {"source": "a.tsv", "captions": "captions.txt", "out": "out"}
    paths = [f"{key}={tmp_path / name}" for key, name in given.items()]
    prepare(compose(["from=tsv", *paths, f"fractions={THREE}", "write=[vocab]"], "prepare"))
    expect(tmp_path / "out")
    text = capsys.readouterr().out
    assert "train: 2 images, 6 captions (2 images with 3)" in text and "boxes yes" in text
    assert (tmp_path / "out" / "vocab.json").is_file()
    with pytest.raises(ValueError, match=r"missing: source, captions, out"):
        prepare(compose(["from=tsv"], "prepare"))
    with pytest.raises(ValueError, match="choose from tsv, arrays, hdf5"):
        prepare(compose(["from=csv", *paths], "prepare"))
    with pytest.raises(ValueError, match="give from=tsv, arrays or hdf5 too"):
        prepare(compose(paths, "prepare"))
    with pytest.raises(ValueError, match=r"from=lmdb: .*one \.npz per image.*from=arrays"):
        prepare(compose(["from=lmdb", *paths], "prepare"))


def test_prepare_replaces_only_its_own(tmp_path, capsys):
    write_tsv(tmp_path / "a.tsv")
    lines = [f"{name}#{i}\t{text}\n" for name in NAMES for i, text in enumerate(CAPTIONS[name])]
    (tmp_path / "captions.txt").write_text("".join(lines))
    given = {"source": "a.tsv", "captions": "captions.txt", "out": "out"}
    paths = [f"{key}={tmp_path / name}" for key, name in given.items()]
    out = tmp_path / "out"

    def again(*options):
        capsys.readouterr()
        given = ["from=tsv", *paths, f"fractions={THREE}", "write=[vocab]", "data.min_count=1"]
        prepare(compose([*given, *options], "prepare"))
        return capsys.readouterr().out

    again()
    assert "holds this result already" in again()
    vocab = (out / "vocab.json").read_bytes()
    with pytest.raises(ValueError, match=r"vocab\.json was made from other captions or options"):
        again("data.min_count=4")
    assert (out / "vocab.json").read_bytes() == vocab
    again("data.min_count=4", "overwrite=true")
    assert (out / "vocab.json").read_bytes() != vocab
    with pytest.raises(ValueError, match="was made with other regions; .*overwrite=true"):
        again("regions=2")
    again("regions=2", "overwrite=true")
    assert np.load(out / "train_ims.npy").shape == (2, 2, 6)
    write_tsv(tmp_path / "a.tsv", NAMES[::-1])  # the same options, another source
    with pytest.raises(ValueError, match="overwrite=true"):
        again("regions=2")
    (out / "vocab.json").write_text("published")
    with pytest.raises(ValueError, match=r"changed since, such as vocab\.json"):
        again("overwrite=true")
    assert (out / "vocab.json").read_text() == "published"
    (out / "mine.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"did not make, such as mine\.txt"):
        again("overwrite=true")


def test_prepare_leaves_a_published_vocabulary(tmp_path):
    for name in ("train", "dev", "test"):
        folder_with(tmp_path, b"a dog\n" * 4, name=name)
    (tmp_path / "vocab.json").write_text("published")
    options = ["data=flickr8k", f"data.root={tmp_path}", "write=[vocab,labels]"]
    for more in ([], ["overwrite=true"]):
        with pytest.raises(ValueError, match=r"vocab\.json was not made by this command"):
            prepare(compose([*options, *more], "prepare"))
    assert (tmp_path / "vocab.json").read_text() == "published"
    assert not (tmp_path / "labels.json").exists()  # all files or none


# Regions, stores ------------------------------------------------------------------------------


def ragged(*counts):
    return [Record(n, np.full((k, 2), k, np.float32)) for n, k in zip(NAMES, counts, strict=True)]


def test_other_numbers_of_regions_need_a_number(tmp_path):
    with pytest.raises(ValueError, match=r"\(5, 2\).*regions=36"):
        convert_features(ragged(4, 4, 5, 4), splits(), CAPTIONS, tmp_path / "a")
    out = convert_features(ragged(4, 2, 5, 1), splits(), CAPTIONS, tmp_path / "b", regions=4)
    assert {read_split(out, s).features.shape[1:] for s in ("train", "dev", "test")} == {(4, 2)}


def test_missing_regions_are_repeated():
    array = np.array([[1.0], [2], [3]])
    assert fit(array, 2)[:, 0].tolist() == [1, 2]
    assert fit(array, 7)[:, 0].tolist() == [1, 2, 3, 1, 2, 3, 1]


def test_images_without_features_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"1 of 4 images.*000000000005"):
        convert_features(ragged(4, 4, 4, 4)[:3], splits(), CAPTIONS, tmp_path / "a")
    assert not list((tmp_path / "a").glob("*_ims.npy"))
    with pytest.raises(ValueError, match="no image of the captions"):
        convert_features([Record("z", np.ones((1, 2)))], splits(), CAPTIONS, tmp_path / "b")
    convert_features(ragged(4, 4, 4, 4), splits(), CAPTIONS, tmp_path / "a")  # over the unfinished
    with pytest.raises(ValueError, match="there already"):
        convert_features(ragged(4, 4, 4, 4), splits(), CAPTIONS, tmp_path / "a")


def test_boxes():
    box = np.array([[10, 20, 30, 50.0]])
    np.testing.assert_allclose(to_fractions(box, (100, 100)), box / 100)
    np.testing.assert_array_equal(to_fractions(box / 100, None), (box / 100).astype(np.float32))
    assert to_fractions(box, None) is None
    assert to_fractions(box, (20, 100)).max() == 1  # detectors overshoot by a pixel
    rounded = np.array([[0, 0, 1.0000002, 1.1]], np.float32)
    assert to_fractions(rounded, (200, 150)).tolist() == [[0, 0, 1, 1]]


def boxed(name, boxes, size=None, regions=2):
    return Record(name, np.ones((regions, 3)), boxes, size)


FRACTION, PIXEL = np.full((2, 4), 0.5), np.full((2, 4), 50.0)


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ((PIXEL, (100, 100)), (PIXEL,), "without the image's size, image .* has boxes in pixels;"),
        ((FRACTION,), (PIXEL, (100, 100)), "in pixels, image .* has boxes in fractions"),
        ((FRACTION,), (None,), "has no boxes, image .* has boxes in fractions"),
        ((np.zeros((2, 4)),), (PIXEL,), "the first image has known units"),
        ((FRACTION,), (np.ones((3, 4)),), r"features \(2, 3\) and boxes \(3, 4\)"),
        ((np.ones((3, 4)),), (FRACTION,), "the features seem transposed"),
    ],
)
def test_boxes_that_contradict_each_other(tmp_path, first, second, message):
    names = {"train": ["a", "b"]}
    captions = {"a": ["x"], "b": ["y"]}
    with pytest.raises(ValueError, match=message):
        records = [boxed("a", *first), boxed("b", *second)]
        convert_features(records, names, captions, tmp_path / "out")


def test_boxes_without_units_are_left_out_and_told(tmp_path, capsys):
    records = [boxed("a", PIXEL), boxed("b", PIXEL), boxed("c", PIXEL)]
    captions = {"a": ["x"], "b": ["y"]}
    out = convert_features(records, {"train": ["a", "b"]}, captions, tmp_path / "out")
    text = capsys.readouterr().out
    assert "image a has boxes in pixels, without the image's size" in text
    assert "1 images of the source without captions, such as c" in text
    assert not (out / "train_boxes.npy").exists()


def test_an_image_that_comes_twice(tmp_path):
    one, two = boxed("a", None), Record("a", np.zeros((2, 3)))
    convert_features([one, one], {"train": ["a"]}, {"a": ["x"]}, tmp_path / "a")
    with pytest.raises(ValueError, match="image a twice, with different features"):
        convert_features([one, two], {"train": ["a"]}, {"a": ["x"]}, tmp_path / "b")
    one, two = boxed("a", FRACTION), boxed("a", FRACTION / 2)
    with pytest.raises(ValueError, match="image a twice, with different features or boxes"):
        convert_features([one, two], {"train": ["a"]}, {"a": ["x"]}, tmp_path / "c")
    with pytest.raises(ValueError, match="such as 'b', has features .* holds 'a'"):
        convert_features([one], {"train": ["b"]}, {"b": ["x"]}, tmp_path / "d")
    with pytest.raises(ValueError, match="'x/a' and 'y/a' both seem to be 'a'"):
        both = [boxed("x/a", None), boxed("y/a", None)]
        convert_features(both, {"train": ["a"]}, {"a": ["x"]}, tmp_path / "c")


def test_a_store_goes_on_where_it_was(tmp_path):
    first = Store(tmp_path, "train", (5, 2, 3), resume=True)
    first.write([0, 3], np.ones((2, 2, 3)), np.zeros((2, 2, 4)))
    first.flush()
    first.write([1], np.ones((1, 2, 3)), np.zeros((1, 2, 4)))  # not flushed: not done
    again = Store(tmp_path, "train", (5, 2, 3), resume=True)
    assert again.missing.tolist() == [1, 2, 4]
    with pytest.raises(ValueError, match="3 rows of train are missing"):
        again.finish()
    with pytest.raises(ValueError, match=r"\(5, 2, 3\).*another out="):
        Store(tmp_path, "train", (5, 2, 4), resume=True)
    again.write([1, 2, 4], np.full((3, 2, 3), 2.0), np.zeros((3, 2, 4)))
    again.finish()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["train_boxes.npy", "train_ims.npy"]
    assert np.load(tmp_path / "train_ims.npy")[:, 0, 0].tolist() == [1, 2, 2, 1, 2]
    assert len(Store(tmp_path, "train", (5, 2, 3), resume=True).missing) == 0


@pytest.mark.parametrize("step", [0, 1, 2])
def test_a_store_that_was_killed_while_it_finished(tmp_path, step, monkeypatch):
    store = Store(tmp_path, "train", (2, 2, 3), resume=True)
    store.write([0, 1], np.ones((2, 2, 3)), np.full((2, 2, 4), 0.5))
    left = [step]

    def dying(real):
        def call(*arguments, **options):
            if not left[0]:
                raise KeyboardInterrupt
            left[0] -= 1
            return real(*arguments, **options)

        return call

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", dying(os.replace))
        patch.setattr(Path, "unlink", dying(Path.unlink))
        with pytest.raises(KeyboardInterrupt):
            store.finish()
    Store(tmp_path, "train", (2, 2, 3), resume=True).finish()
    assert (np.load(tmp_path / "train_boxes.npy") == 0.5).all()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["train_boxes.npy", "train_ims.npy"]


def test_boxes_of_others_stay(tmp_path):
    np.save(tmp_path / "train_boxes.npy", np.ones(3))
    with pytest.raises(ValueError, match="is there without features"):
        Store(tmp_path, "train", (2, 2, 3))


def test_values_that_do_not_fit_are_refused(tmp_path):
    store = Store(tmp_path, "train", (2, 1, 1))
    with (
        pytest.raises(ValueError, match=r"row 1 .*largest 7e\+04.*float32"),
        np.errstate(all="ignore"),
    ):
        store.write([0, 1], np.array([[[1.0]], [[7e4]]]), None)


# Captions and names ---------------------------------------------------------------------------

WANTED = {"a.jpg": ["A dog, running", "Two dogs"], "b.jpg": ["A cat"]}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.txt", "a.jpg\tA dog, running\r\nb.jpg\tA  cat\na.jpg\t Two dogs \n\n"),
        ("a.token", "a.jpg#0\tA dog, running\na.jpg#1\tTwo dogs\nb.jpg#0\tA cat"),
        ("a.csv", 'image,caption\na.jpg,"A dog,\nrunning"\na.jpg,Two dogs\nb.jpg,A cat\n'),
        ("a.csv", 'id,caption,image\n1,"A dog, running",a.jpg\n2,Two dogs,a.jpg\n3,A cat,b.jpg\n'),
        ("a.csv", 'a.jpg,"A dog, running"\na.jpg,Two dogs\nb.jpg,A cat\n'),
    ],
)
def test_formats_of_captions(tmp_path, name, text):
    path = tmp_path / name
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert read_sentences(path).captions == WANTED


ROWS = [("a.jpg", "A dog, running"), ("a.jpg", "Two dogs"), ("b.jpg", "A cat")]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", "image,caption\n" + "".join(f"{n},{c}\n" for n, c in ROWS)),  # no quotes
        ("a.csv", "Image Name;text\n" + "".join(f"{n};{c}\n" for n, c in ROWS)),
        ("a.csv", "filepath\ttitle\n" + "".join(f"{n}\t{c}\n" for n, c in ROWS)),  # open_clip
        ("a.csv", ",file_name,text\n" + "".join(f'3,{n},"{c}"\n' for n, c in ROWS)),
        ("a.csv", "image_name| comment_number| comment\n"
         + "".join(f"{n}| {i}| {c}\n" for i, (n, c) in enumerate(ROWS))),
        ("a.csv", 'raw,sentids,split,filename,img_id\n'
         '"[""A dog, running"", ""Two dogs""]","[0, 1]",train,a.jpg,0\n'
         '"[\'A cat\']",[2],test,b.jpg,1\n'),
        ("a.csv", 'image,caption_1,caption_2\na.jpg,"A dog, running",Two dogs\nb.jpg,A cat,\n'),
        ("captions.txt", 'image,caption\na.jpg,"A dog, running"\na.jpg,Two dogs\nb.jpg,A cat\n'),
        ("a.tsv", "id\tcaption\n" + "".join(f"{n}\t{c}\n" for n, c in ROWS)),
        ("a.tsv", "".join(f"{n}\t{c}\n" for n, c in ROWS)),
        ("a.jsonl", "".join(json.dumps({"file_name": n, "text": c}) + "\n" for n, c in ROWS)),
        ("a.json", json.dumps([{"image": "a.jpg", "caption": ["A dog, running", "Two dogs"]},
                               {"image": "b.jpg", "caption": "A cat"}])),
        ("a.json", json.dumps({
            "images": [{"id": 1, "file_name": "a.jpg"}, {"id": 2, "file_name": "b.jpg"}],
            "annotations": [{"image_id": 1 + (n == "b.jpg"), "caption": c} for n, c in ROWS]})),
    ],
)  # fmt: skip
def test_tables_of_captions(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    assert read_sentences(tmp_path / name).captions == WANTED


@pytest.mark.parametrize("delimiter", ["\t", "|"])
def test_quotes_are_characters_where_nobody_quotes(tmp_path, delimiter):
    lines = [["image", "caption"], ["a.jpg", '"Stop" says a sign'], ["b.jpg", 'A 5" pipe']]
    (tmp_path / "a.csv").write_text("".join(delimiter.join(line) + "\n" for line in lines))
    assert read_sentences(tmp_path / "a.csv").captions == {n: [c] for n, c in lines[1:]}


def test_splits_of_tables(tmp_path):
    text = "filename,split,caption\na.jpg,restval,A dog\nb.jpg,validation,A cat\n"
    (tmp_path / "a.csv").write_text(text)
    assert read_sentences(tmp_path / "a.csv").splits == {"a.jpg": "train", "b.jpg": "dev"}
    (tmp_path / "a.csv").write_text(text + "a.jpg,test,Two dogs\n")
    with pytest.raises(ValueError, match=r"a.csv:4: a.jpg is in the splits train and test"):
        read_sentences(tmp_path / "a.csv")


def test_karpathys_format_brings_splits(tmp_path):
    images = [
        {"filename": n, "split": s, "sentences": [{"raw": f"{n} {s}"}]}
        for n, s in zip("abcd", ["restval", "val", "test", "train"], strict=True)
    ]
    (tmp_path / "a.json").write_text(json.dumps({"images": images}))
    found = read_sentences(tmp_path / "a.json")
    assert partition(list(found.captions), known=found.splits) == {
        "train": ["a", "d"],
        "dev": ["b"],
        "test": ["c"],
    }


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"a.jpg a dog\n", r"a.txt:1: no TAB"),
        ("a.txt", b"a.jpg\tdog\nb.jpg\tcaf\xe9\n", r"a.txt:2: not UTF-8.*iconv"),
        ("a.txt", b"\n\n", "holds no caption"),
        ("a.csv", b"\n\n", "holds no caption"),
        ("a.csv", b"image,caption\na.jpg\n", r"a.csv:2: .*1 cells, expected the 2 columns"),
        ("a.csv", b"bild,satz\na.jpg,dog\n", r"a.csv:1: the header 'bild,satz' is not understood"),
        ("a.csv", b"a.jpg,A dog, running\n", r"a.csv:1: .*3 cells, expected 2 columns"),
        ("a.csv", b"caption,image\nA dog, running,a.jpg\n", r"a.csv:2: .*3 cells"),
        ("a.csv", b'image,caption\na.jpg,"Hi" he said\n', r"a.csv:2: .*double the quotes"),
        (
            "a.csv",
            b'image,caption\na.jpg,"A dog\nb.jpg,A cat"\n',
            r"a.csv:3: a quote is not closed",
        ),
        ("a.csv", b'image,caption\na.jpg,"A dog\n', r"a.csv:\d: unexpected end of data"),
        ("a.csv", b"image,caption\na.jpg," + b"x" * 140000, r"a.csv:2: field larger"),
        ("a.csv", b"image,caption,title\na.jpg,dog,cat\n", "several columns that could be the cap"),
        ("a.csv", b"image,captions\na.jpg,\"['a', 'b\"\n", r"a.csv:2: .*not a complete list"),
        ("a.csv", b"image,caption\n,dog\n", r"a.csv:2: the caption 'dog' has no picture"),
        ("a.txt", b"bild\tsatz\na1.jpg\tdog\n", r"a.txt:1: the header 'bild.*is not understood"),
        ("a.tsv", b"a.jpg\t0\tdog\n", "a.tsv:1: 2 TAB between"),
        ("a.jsonl", b'{"file_name": "a.jpg"}\n', "a.jsonl:1: found file_name; expected"),
        ("a.jsonl", b'{"file_name": "a.jpg", "text": 3}\n', "a.jsonl:1: expected a sentence"),
        ("a.jsonl", b"{\n", "a.jsonl:1: not a JSON object"),
        ("a.json", b'{"pictures": []}', "expected .*images"),
        ("a.json", b"[", "expected .*images"),
    ],
)
def test_broken_caption_files(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_sentences(tmp_path / name)


def test_names_are_found_under_other_forms():
    names = Names(["x/a.jpg", "COCO_000012.png", "img_3.jpg", "other_3.jpg", "y/b.jpg", "z/b.jpg"])
    assert names.find("x/a.jpg") == names.find("a") == names.find("elsewhere/a.npy") == "x/a.jpg"
    assert names.find("12") == names.find(12) == "COCO_000012.png"
    for other, found in (("3", "'img_3.jpg' or 'other_3.jpg'"), ("b", "'y/b.jpg' or 'z/b.jpg'")):
        with pytest.raises(ValueError, match=f"'{other}' could be {found}"):
            names.find(other)
    assert names.find("other_3") == "other_3.jpg" and names.find("c") is None


def test_names_that_only_look_alike_are_not_joined():
    names = Names(["10_ab12cd34.jpg", "COCO_val2014_0007.jpg", "img_003.jpg", "2.jpg"])
    for other in ("11_ff12cd34", "34", "COCO_train2014_0007", "other_3", "img_2x"):
        assert names.find(other) is None, other
    assert names.find("img_3") == "img_003.jpg" and names.find("7") == "COCO_val2014_0007.jpg"
    assert names.find("COCO_val2014_000002") == names.find("0002.png") == "2.jpg"


def test_a_name_is_claimed_by_the_nearest_form():
    names = Names(["train/a.jpg", "b_7.jpg"])
    assert names.match(["val/a.jpg", "train/a.jpg", "7", "b_7"]) == {
        "train/a.jpg": "train/a.jpg",
        "b_7": "b_7.jpg",
    }
    with pytest.raises(ValueError, match=r"'x/a.png' and 'y/a.png' both seem to be 'train/a.jpg'"):
        Names(["train/a.jpg"]).match(["x/a.png", "y/a.png"])


def test_files_that_both_lose_names_need_partial(capsys):
    report_lost(("captions", list("abcdefgh"), 10), ("pictures", [], 2))  # one covers the other
    assert capsys.readouterr().out == "left out: 8 captions, such as a, b, c\n"
    sides = ("captions", ["a", "b"], 20), ("pictures", ["c", "d"], 10)
    with pytest.raises(ValueError, match=r"2 captions, such as a, b; 2 pictures.*partial=true"):
        report_lost(*sides)
    report_lost(*sides, partial=True)
    report_lost(("captions", ["a"], 2), ("pictures", ["b"], 2))  # a single one is no pattern


def test_fractions_are_kept_and_repeatable():
    names = [f"{i}.jpg" for i in range(101)]
    drawn = partition(names, fractions=[0.8, 0.1, 0.1], seed=3)
    assert [len(drawn[s]) for s in ("train", "dev", "test")] == [81, 10, 10]
    assert sorted(sum(drawn.values(), [])) == sorted(names)
    assert drawn == partition(names[::-1], fractions=[0.8, 0.1, 0.1], seed=3)
    assert drawn != partition(names, fractions=[0.8, 0.1, 0.1], seed=4)
    assert list(partition(names, fractions=[0.9, 0, 0.1])) == ["train", "test"]
    for wrong in ([0.5, 0.1, 0.1], [1.2, -0.1, -0.1], [1]):
        with pytest.raises(ValueError, match="sum to 1"):
            partition(names, fractions=wrong)
    with pytest.raises(ValueError, match="too few"):
        partition(["a", "b"], fractions=[0.8, 0.1, 0.1])


def test_lists_make_the_splits(tmp_path):
    (tmp_path / "train").write_text("b\na.jpg\nunknown.jpg\n")
    (tmp_path / "test").write_text("c.jpg\n")
    lists = {"train": tmp_path / "train", "dev": None, "test": str(tmp_path / "test")}
    found = partition(["a.jpg", "b.jpg", "c.jpg", "d.jpg"], lists)
    assert found == {"train": ["b.jpg", "a.jpg"], "test": ["c.jpg"]}
    (tmp_path / "test").write_text("a.jpg\n")
    with pytest.raises(ValueError, match="both train and test"):
        partition(["a.jpg", "b.jpg"], lists)
    with pytest.raises(ValueError, match="no picture of"):
        partition(["e.jpg"], lists)


def test_unequally_many_captions_are_read_back(tmp_path):
    captions = {"a": ["1 x", "2 x"], "b": ["3 x"], "c": ["4 x", "5 x", "6 x"]}
    write_captions(tmp_path, {"train": ["b", "a", "c"], "dev": ["b"]}, captions)
    np.save(tmp_path / "train_ims.npy", np.ones((3, 2, 2), np.float32))
    split = read_split(tmp_path, "train")
    assert split.ids == ["b", "a", "c"] and split.references() == [captions[n] for n in "bac"]
    assert (tmp_path / "dev_ids.txt").read_text() == "b\n"


# The page on a folder -------------------------------------------------------------------------


def folder_with(tmp_path, captions, images=2, name="train"):
    (tmp_path / f"{name}_caps.txt").write_bytes(captions)
    np.save(tmp_path / f"{name}_ims.npy", np.ones((images, 2, 3), np.float32))
    return tmp_path


def test_the_page_shows_all_problems_at_once(tmp_path):
    bad = (
        b"a dog runs\nA dog runs\nb'a cat sleeps'\nhi\ncaf\xe9 is open\n\n" + b"word " * 101 + b"\n"
    )
    text = check.page(folder_with(tmp_path, bad), names=["train", "dev"])
    assert "train: CANNOT BE USED" in text and "train_ims.npy is float32 (2, 2, 3)" in text
    assert "dev: CANNOT BE USED" in text and "dev_ims.npy" in text
    for line in (
        "1 Python bytes literals (line 3)",
        "1 of fewer than 3 words (line 4)",
        "1 not UTF-8 (line 5)",
        "1 empty (line 6)",
        "1 of more than 100 words (line 7)",
        "1 of 7 captions occurred before",
    ):
        assert line in text, text


def test_a_wrong_count_of_captions_is_told(tmp_path):
    text = check.page(folder_with(tmp_path, b"a b c\n" * 9))
    assert "9 captions" in text and "2 images" in text and "missing or too many" in text


def test_images_in_two_splits_are_a_leak(tmp_path):
    for name in ("train", "test"):
        folder_with(tmp_path, b"a b c\n" * 4, name=name)
        (tmp_path / f"{name}_ids.txt").write_text(f"x\n{name}\n")
    assert "LEAK: train and test share 1 ids, such as 'x'" in check.page(tmp_path)


def test_no_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such folder"):
        check.page(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1\t2\t3\t4", "4 columns"),
        ("1\t2\t3", "a.tsv:1: not a line"),
        ('1\t{"objects": []}', "detections without features"),
        (f"1\t1\t{cell(np.ones((1, 2054)))}", "not x1, y1, x2, y2, width, height"),
        ("1\t400\t200\t4\t!!\tAAAA", "a.tsv:1: not a line"),
        (f"1\t400\t200\t3\t{cell(np.ones((4, 4)))}\t{cell(np.ones((4, 6)))}", "a.tsv:1"),
    ],
)
def test_broken_tsv(tmp_path, line, message):
    (tmp_path / "a.tsv").write_text(line + "\n")
    with pytest.raises(ValueError, match=message):
        list(read_tsv(tmp_path / "a.tsv"))


def test_broken_arrays(tmp_path):
    with pytest.raises(ValueError, match="no .npy or .npz"):
        list(read_arrays(tmp_path))
    np.savez(tmp_path / "a.npz", other=np.ones(2))
    with pytest.raises(ValueError, match=r"a.npz.*expected one of features.*found other"):
        list(read_arrays(tmp_path))
    np.savez(tmp_path / "a.npz", **{f"image{i}": np.ones(2) for i in range(9)})
    with pytest.raises(ValueError, match="found image0, .*, image4 and 4 others"):
        list(read_arrays(tmp_path))
    np.savez(tmp_path / "a.npz", features=np.float32(1), num_boxes=1)
    with pytest.raises(ValueError, match="features is one number, expected a row for each region"):
        list(read_arrays(tmp_path))
    (tmp_path / "a.npz").write_bytes(b"PK\x03\x04")
    with pytest.raises(ValueError, match=r"a.npz"):
        list(read_arrays(tmp_path))


def hdf5_from_elsewhere(folder, kind):
    """Write a file that takes the features of image a from other files."""
    (folder / "secret").write_bytes(b"PRIVATE KEY 0123456789 abcdefghijklm")
    with h5py.File(folder / "other.h5", "w") as other:
        other["x"] = np.full((3, 4), 7.0, np.float32)
    there = str(folder / "other.h5")
    with h5py.File(folder / "a.h5", "w") as file:
        if kind == "external storage":
            file.create_dataset("a", (3, 3), "f4", external=[(str(folder / "secret"), 0, 36)])
        elif kind == "external link":
            file["a"] = h5py.ExternalLink(there, "/x")
        elif kind == "soft link over an external link":
            file["b"] = h5py.Group(file.create_group("g").id)
            file["g/out"] = h5py.ExternalLink(there, "/")
            file["a"] = h5py.SoftLink("/g/out/x")
            del file["b"]
        elif kind == "group by an external link":
            file.create_group("a")["features"] = h5py.ExternalLink(there, "/x")
        elif kind == "links in a circle":
            file["a"], file["b"] = h5py.SoftLink("/b"), h5py.SoftLink("/a")
        elif kind == "dangling link":
            file["a"] = h5py.SoftLink("/nowhere")
        elif kind == "more than the file holds":
            file.create_dataset("a", (10**9, 2048), "f4", chunks=(64, 2048))
        else:
            layout = h5py.VirtualLayout((3, 4), "f4")
            layout[:] = h5py.VirtualSource(there, "x", (3, 4))
            file.create_virtual_dataset("a", layout)


@pytest.mark.parametrize(
    "kind",
    ["external storage", "external link", "soft link over an external link", "virtual",
     "group by an external link", "links in a circle", "dangling link", "more than the file holds"],
)  # fmt: skip
def test_hdf5_reads_no_other_file(tmp_path, kind):
    hdf5_from_elsewhere(tmp_path, kind)
    with pytest.raises(ValueError, match=r"a\.h5: "):
        list(read_hdf5(tmp_path / "a.h5"))


def test_links_inside_an_hdf5_file_are_followed(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["store/x"] = np.ones((3, 4), np.float32)
        file["a"] = h5py.SoftLink("/store/x")
        file["store/up"] = h5py.SoftLink("/a")
        file["b"] = h5py.SoftLink("store/up")
        file.create_group("c")["features"] = h5py.SoftLink("/store/x")
        file["store/features"] = file["store/x"]
    found = {record.name: record.features for record in read_hdf5(tmp_path / "a.h5")}
    assert sorted(found) == ["a", "b", "c", "store"]
    assert all((features == 1).all() for features in found.values())


@pytest.mark.parametrize(
    ("spans", "message"),
    [
        ([[0, 2], [2, 5]], "gives image 1 the rows 2 to 5 of features"),
        ([[0, 2], [2, 2]], "gives image 1 the rows 2 to 2"),
        ([[-1, 2], [2, 4]], "gives image 0 the rows -1 to 2"),
        ([[0.0, 2.0], [2.0, 4.0]], "expected whole numbers"),
    ],
)
def test_rows_of_packed_images_are_checked(tmp_path, spans, message):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["image_features"], file["ids"] = np.ones((4, 3)), [1, 2]
        file["pos_boxes"] = spans
    with pytest.raises(ValueError, match=message):
        list(read_hdf5(tmp_path / "a.h5"))


def test_axes_in_another_order_are_refused(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:  # images last
        file["features"], file["ids"] = np.ones((3, 8, 5)), np.arange(5)
    with pytest.raises(ValueError, match=r"\(3, 8, 5\).*must be the first axis.*ids \(5,\)"):
        list(read_hdf5(tmp_path / "a.h5"))
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["features"], file["boxes"] = np.ones((5, 3, 8)), np.ones((3, 5, 4))
        file["ids"] = np.arange(5)
    with pytest.raises(ValueError, match=r"boxes \(3, 5, 4\) and features \(5, 3, 8\)"):
        list(read_hdf5(tmp_path / "b.h5"))


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (Record("a", np.ones((2048, 36))), r"features \(2048, 36\), which seem transposed"),
        (Record("a", np.ones((6, 8)), np.ones((8, 4))), r"boxes \(8, 4\).*the features seem"),
        (Record("a", np.ones((6, 8)), np.ones((4, 6))), r"\(6, 8\) and boxes \(4, 6\).*boxes seem"),
        (Record("a", np.ones((6, 8)), np.ones((5, 4))), r"\(6, 8\) and boxes \(5, 4\)"),
        (Record("a", np.ones((2, 3, 7, 7))), r"found float64 \(2, 3, 7, 7\)"),
        (boxed("a", np.tile([30, 20, 10, 5], (2, 1)), (40, 30)), "ends before it begins.*width"),
        (boxed("a", np.tile([0.5, 0.5, 0.2, 0.2], (2, 1))), "ends before it begins"),
        (boxed("a", np.tile([0, 0, 300, 20], (2, 1)), (200, 300)), "out of the picture of 200 x"),
        (boxed("a", np.tile([-40, 0, 30, 20], (2, 1)), (200, 300)), "reaches out of the picture"),
        (boxed("a", np.tile([0, 0, 1, 1.5], (2, 1))), "reaches out of 0 to 1"),
        (boxed("a", np.tile([0, 0, np.nan, 1], (2, 1))), "NaN or infinite"),
        (boxed("a", np.full((2, 4), "x")), "not numbers"),
        (boxed("a", FRACTION, (0, 100)), "has the size"),
    ],
)  # fmt: skip
def test_features_boxes_and_size_must_agree(record, message):
    with pytest.raises(ValueError, match=f"^image a.*{message}"):
        check_record(record)


def test_boxes_that_end_before_they_begin_are_counted_and_put_in_order(tmp_path, capsys):
    boxes = np.array([[0.9, 0.2, 0.8, 0.9], [0, 0, 1, 1]])  # as x, y, width, height outside
    record, captions = boxed("a", boxes), {"a": ["x"]}
    out = convert_features([record], {"train": ["a"]}, captions, tmp_path / "out")
    assert "warning: 1 boxes of 1 images end before they begin" in capsys.readouterr().out
    ordered = [[0.8, 0.2, 0.9, 0.9], [0, 0, 1, 1]]
    np.testing.assert_allclose(read_split(out, "train").boxes[0], ordered, atol=1e-6)


def test_boxes_may_overshoot_a_little():
    check_record(boxed("a", np.tile([-0.5, 0, 201, 150.9], (2, 1)), (200, 150)))
    check_record(boxed("a", np.tile([0, 0, 1.0000002, 1.01], (2, 1)), (200, 150)))
    check_record(boxed("a", np.tile([0.5, 0.5, 0.5, 0.5], (2, 1))))  # without area


def test_broken_hdf5(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["features"] = np.ones((2, 3, 4))
    with pytest.raises(ValueError, match="one name per image"):
        list(read_hdf5(tmp_path / "a.h5"))
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["1_features"], file["2_boxes"] = np.ones((3, 4)), np.ones((3, 4))
    with pytest.raises(ValueError, match="2_boxes belongs to none of the images"):
        list(read_hdf5(tmp_path / "b.h5"))
    (tmp_path / "c.h5").write_bytes(b"not HDF5")
    with pytest.raises(ValueError, match="c.h5 is not a complete HDF5 file"):
        list(read_hdf5(tmp_path / "c.h5"))
    with pytest.raises(FileNotFoundError, match="source=.*no such file"):
        list(read_hdf5(tmp_path / "none.h5"))


def test_arrays_keep_their_folders(tmp_path):
    for folder, value in (("train", 1), ("val", 2)):
        (tmp_path / folder).mkdir()
        np.save(tmp_path / folder / "1.NPY", np.full((2, 3), value, np.float32))
        (tmp_path / folder / "1.NPY.npy").rename(tmp_path / folder / "1.NPY")
    found = {record.name: record.features[0, 0] for record in read_arrays(tmp_path)}
    assert found == {"train/1": 1, "val/1": 2}
    names = Names(["val/1.jpg"])
    assert [names.find(name) for name in found] == [None, "val/1.jpg"]


def test_arrays_with_two_possible_members_are_refused(tmp_path):
    ones = np.ones((2, 3), np.float32)
    np.savez(tmp_path / "a.npz", features=ones, x=2 * ones)
    with pytest.raises(ValueError, match=r"a.npz cannot be used: it holds both features and x"):
        list(read_arrays(tmp_path))


def test_boxes_in_place_of_features_are_refused():
    rows = np.array([[1, 2, 30, 40], [5, 6, 70, 80]], np.float32)
    with pytest.raises(ValueError, match=r"image a has features \(2, 4\) that look like boxes"):
        check_record(Record("a", rows))


def test_packed_rows_with_inclusive_ends_are_refused(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["image_features"] = np.ones((6, 3), np.float32)
        file["pos_boxes"] = np.array([[0, 1], [2, 3], [4, 5]])
        file["ids"] = np.arange(3)
    with pytest.raises(ValueError, match=r"a.h5: pos_boxes seems to give the last row"):
        list(read_hdf5(tmp_path / "a.h5"))


def test_a_picture_twice_in_a_list_of_boxes_or_of_a_split_is_refused(tmp_path):
    (tmp_path / "boxes.json").write_text('{"a": [[0, 0, 1, 1]], "a": [[0, 0, 0.5, 1]]}')
    with pytest.raises(ValueError, match=r"boxes.json .*the key 'a' occurs twice"):
        read_boxes(tmp_path / "boxes.json", ["a.jpg"])
    (tmp_path / "train.txt").write_text("a.jpg\na.jpg\n")
    with pytest.raises(ValueError, match=r"train.txt holds 'a.jpg' twice"):
        partition(["a.jpg"], {"train": tmp_path / "train.txt"})


def test_padded_regions_are_left_out_and_sizes_are_read(tmp_path):
    counts, boxes = np.array([2, 4]), np.ones((2, 4, 4), np.float32)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["features"], file["boxes"] = np.ones((2, 4, 3), np.float32), boxes
        file["ids"], file["num_boxes"] = np.arange(2), counts
        file["image_w"], file["image_h"] = np.array([8, 9]), np.array([6, 7])
    found = list(read_hdf5(tmp_path / "a.h5"))
    assert [(len(r.features), len(r.boxes), r.size) for r in found] == [
        (2, 2, (8, 6)),
        (4, 4, (9, 7)),
    ]
    np.savez(tmp_path / "a.npz", x=np.ones((4, 3), np.float32), bbox=boxes[0], num_bbox=2)
    (record,) = read_arrays(tmp_path)
    assert len(record.features) == len(record.boxes) == 2
    with h5py.File(tmp_path / "a.h5", "a") as file:
        file["image_ids"] = np.array([7, 8])
    with pytest.raises(ValueError, match="ids and image_ids name the images differently"):
        list(read_hdf5(tmp_path / "a.h5"))


def test_tsv_of_other_bytes(tmp_path):
    def write(features, name="7", begin=b""):
        cells = [name, "2", base64.b64encode(features.tobytes()).decode()]
        (tmp_path / "a.tsv").write_bytes(begin + "\t".join(cells).encode())
        return list(read_tsv(tmp_path / "a.tsv"))

    features = np.random.default_rng(0).random((2, 64)).astype(np.float32)
    assert write(features, begin=b"\xef\xbb\xbf")[0].name == "7"
    with pytest.raises(ValueError, match="a.tsv:1: .*perhaps not float32 but float64"):
        write(features.astype(np.float64))
    with pytest.raises(ValueError, match="an image without a name"):
        convert_features(write(features, ""), {"train": ["7"]}, {"7": ["a dog"]}, tmp_path / "out")
    (tmp_path / "a.tsv").write_bytes(b"\x1f\x8b\x08")
    with pytest.raises(ValueError, match="a.tsv:1: .*compressed by gzip"):
        list(read_tsv(tmp_path / "a.tsv"))


def test_a_source_that_changes_while_it_is_converted_is_an_error(tmp_path):
    write_tsv(tmp_path / "a.tsv")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["features"], file["ids"] = np.ones((4, 2, 3), np.float32), np.array([b"1"] * 4)
    for name, read in (("a.tsv", read_tsv), ("a.h5", read_hdf5)):
        records = read(tmp_path / name)
        next(records)
        with (tmp_path / name).open("ab") as file:
            file.write(b"more")
        with pytest.raises(ValueError, match=f"{name} was changed while it was in use"):
            list(records)


@pytest.mark.parametrize("option", ["regions=9", "splits.train=a.txt", "partial=true", "seed=3"])
def test_options_of_a_conversion_need_a_format(option):
    with pytest.raises(ValueError, match=f"{option} is for a conversion: give from=tsv, arrays or"):
        prepare(compose([option], "prepare"))


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("dtype=float64", "dtype must be 'float16' or 'float32', got 'float64'"),
        ("regions=0", "regions=0 must be at least 1, or null"),
        ("fractions=0.8", "fractions=0.8: expected shares of"),
        ("seed=-1", "seed=-1 must be at least 0"),
    ],
)
def test_values_that_a_conversion_cannot_use_are_refused(tmp_path, option, message):
    paths = [f"{name}={tmp_path / name}" for name in ("source", "captions", "out")]
    with pytest.raises(ValueError, match=message):
        prepare(compose(["from=tsv", *paths, option], "prepare"))
