"""What the arrays of an image may be called, in every structure of HDF5 and in .npz files."""

import base64
import json
import pickle

import h5py
import numpy as np
import pytest
from PIL import Image

from itm.features.arrays import read_arrays
from itm.features.convert import convert_features, write_data_folder
from itm.features.extraction import fit_boxes, read_boxes, split_boxes
from itm.features.hdf5 import read_hdf5
from itm.features.records import Record, check_record
from itm.features.tsv import read_tsv

FEATURES = np.random.default_rng(0).random((4, 8)).astype(np.float32)
BOXES = np.tile(np.array([0.1, 0.1, 0.5, 0.5], np.float32), (4, 1))
STRUCTURES = ("npz", "rows", "group", "suffix", "kinds")


def read(folder, structure, **members):
    """Write the members of two images in a structure, and read the first image."""
    if structure == "npz":
        np.savez(folder / "a.npz", **members)
        return next(iter(read_arrays(folder)))
    with h5py.File(folder / "a.h5", "w") as file:
        for image in ("a", "b"):
            for name, value in members.items():
                form = {"group": f"{image}/{name}", "suffix": f"{image}_{name}"}
                if structure != "rows":
                    file[form.get(structure, f"{name}/{image}")] = value
        if structure == "rows":
            file["ids"] = [b"a", b"b"]
            for name, value in members.items():
                file[name] = np.stack([value, value])
    return next(iter(read_hdf5(folder / "a.h5")))


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"boxes": BOXES, "bbox": BOXES / 2}, "it holds both boxes and bbox"),
        ({"image_features": FEATURES / 2}, "it holds both features and image_features"),
        ({"boxes": BOXES, "image_w": 20}, "expected one number each in image_w and image_h"),
        ({"boxes": BOXES, "height": 20}, "expected one number each in image_w and image_h"),
        ({"image_w": 20, "width": 30, "image_h": 9}, "it holds both image_w and width"),
        ({"num_boxes": 2, "num_bbox": 3}, "it holds both num_boxes and num_bbox"),
        ({"num_boxes": 5}, r"num_boxes=5 with features \(4, 8\)"),
        ({"num_boxes": 0}, r"num_boxes=0 with features \(4, 8\)"),
        ({"num_boxes": 2.5}, r"num_boxes=2.5 with features \(4, 8\)"),
    ],
)
def test_members_that_contradict_each_other(tmp_path, structure, members, message):
    with pytest.raises(ValueError, match=rf"a\.(npz|h5).*{message}"):
        read(tmp_path, structure, features=FEATURES, **members)


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("sides", [("image_w", "image_h"), ("width", "height"), ("img_w", "img_h")])
def test_sizes_and_counts_of_every_structure(tmp_path, structure, sides):
    given = dict(zip(sides, (20, 10), strict=True))
    found = read(tmp_path, structure, features=FEATURES, boxes=BOXES, num_boxes=3, **given)
    assert found.name == "a" and found.size == (20, 10)
    np.testing.assert_array_equal(found.features, FEATURES[:3])
    np.testing.assert_array_equal(found.boxes, BOXES[:3])


def rows(folder, **members):
    with h5py.File(folder / "a.h5", "w") as file:
        for name, value in members.items():
            file[name] = value
    return list(read_hdf5(folder / "a.h5"))


BOTH = {"features": np.stack([FEATURES] * 2), "ids": [b"a", b"b"]}
TWO = np.stack([BOXES] * 2)
PACKED = {"image_features": np.concatenate([FEATURES] * 2), "ids": [b"a", b"b"]}


@pytest.mark.parametrize(
    ("members", "message"),
    [
        (
            {**BOTH, "boxes": np.pad(TWO, ((0, 0), (0, 0), (1, 0)))},
            r"boxes is \(2, 4, 5\), expected",
        ),
        ({**BOTH, "boxes": TWO.reshape(2, 16)}, r"boxes is \(2, 16\), expected \(2, 4, 4\)"),
        (
            {**BOTH, "spatial_features": np.pad(TWO, ((0, 0), (0, 0), (0, 1)))},
            r"expected \(2, 4, 6\)",
        ),
        ({**BOTH, "spatial_features": np.pad(TWO, ((0, 0), (0, 0), (0, 2)))}, "are not x1, y1"),
        (
            {**PACKED, "pos_boxes": [[0, 4], [4, 7]], "num_boxes": [4, 4]},
            "image 1 has 4 regions, but pos_boxes gives it 3 rows",
        ),
        ({**PACKED, "pos_boxes": [[0, 4, 1], [4, 8, 1]]}, "expected whole numbers .images, 2."),
        ({**PACKED, "pos_boxes": [[0, 5], [4, 8]]}, "pos_boxes gives row 4 of the features to two"),
        ({"features/a": FEATURES, "boxes/b": BOXES}, "boxes/b belongs to none of the images"),
    ],
)
def test_arrays_of_all_images_that_contradict_each_other(tmp_path, members, message):
    with pytest.raises(ValueError, match=rf"a\.h5.*{message}"):
        rows(tmp_path, **members)


def test_names_of_rows(tmp_path, capsys):
    found = rows(tmp_path, **{**BOTH, "ids": np.array([391895.0, 7.0])})
    assert [record.name for record in found] == ["391895", "7"]
    (tmp_path / "a_imgid2idx.pkl").write_bytes(pickle.dumps({1: 0, 2: 1}))
    with pytest.raises(ValueError, match=r"a.h5: ids and the .pkl file name the images"):
        list(read_hdf5(tmp_path / "a.h5"))
    (tmp_path / "a_imgid2idx.pkl").unlink()
    found = rows(tmp_path, **PACKED, pos_boxes=[[0, 4], [4, 7]])
    assert [len(record.features) for record in found] == [4, 3]
    assert "left out: 1 rows of" in capsys.readouterr().out


def test_entries_that_are_no_arrays_are_told(tmp_path, capsys):
    np.save(tmp_path / "a.npy", FEATURES)
    (tmp_path / "b.npz").symlink_to(tmp_path / "nowhere")
    (tmp_path / "c.pt").write_bytes(b"x")
    assert [record.name for record in read_arrays(tmp_path)] == ["a"]
    assert "left out: 2 entries of" in capsys.readouterr().out


@pytest.mark.parametrize("order", [("01", "1"), ("1", "01")])
def test_images_of_nearly_one_name_are_told(tmp_path, capsys, order):
    records = [Record(name, np.full((1, 3), float(name == "1"))) for name in order]
    out = convert_features(records, {"train": ["1.jpg"]}, {"1.jpg": ["x"]}, tmp_path / "out")
    assert np.load(out / "train_ims.npy").tolist() == [[[1, 1, 1]]]
    assert "1 images of the source without captions, such as 01" in capsys.readouterr().out


def cell(array):
    return base64.b64encode(np.ascontiguousarray(array, np.float32).tobytes()).decode()


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("image_id\timage_w\timage_w\tnum_boxes\tboxes\tfeatures", "tsv:1: a column comes twice"),
        ("image_id\timage_w\tx\tnum_boxes\tboxes\tfeatures", "tsv:2: .*only one side"),
        ("image_id\twidth\theight\tnum_boxes\tboxes\tfeatures", None),
        ("img_id\timg_w\timg_h\tnum_boxes\tboxes\tfeatures", None),
    ],
)
def test_headers_of_tsv_files(tmp_path, header, message):
    line = "\t".join(["7", "400", "200", "4", cell(BOXES), cell(FEATURES)])
    (tmp_path / "a.tsv").write_text(f"{header}\n{line}\n")
    if message is None:
        (record,) = read_tsv(tmp_path / "a.tsv")
        assert record.size == (400, 200)
    else:
        with pytest.raises(ValueError, match=message):
            list(read_tsv(tmp_path / "a.tsv"))
    (tmp_path / "a.tsv").write_text(f"{header.replace('w', 'v', 1)}\n")
    with pytest.raises(ValueError, match="holds no image"):
        list(read_tsv(tmp_path / "a.tsv"))


ONE = [[0, 0, 1, 1]]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"a": [["0", "0", "1", "1"]]}, "a has boxes that are not numbers: found <U1"),
        ({"a": [[False, False, True, True]]}, "a has boxes that are not numbers: found bool"),
        ({"a": [[None, 0, 1, 1]]}, "a has boxes that are not numbers"),
        ({"a": [{"x1": 0}]}, "a has boxes that are not numbers"),
        ({"a": [[0, 0, 1, 1], [0, 0, 1]]}, "a has boxes that are not numbers"),
        ({"a": [*ONE, [9, 9, 50, 50]]}, r"box \(0, 0, 1, 1\) is in fractions, \(9, 9, 50, 50\) in"),
    ],
)
def test_values_of_boxes_are_not_converted(tmp_path, given, message):
    (tmp_path / "boxes.json").write_text(json.dumps(given))
    with pytest.raises(ValueError, match=rf"boxes.json: .*{message}"):
        read_boxes(tmp_path / "boxes.json", [f"{name}.jpg" for name in given])


def test_boxes_of_unknown_pictures_are_told(tmp_path, capsys):
    (tmp_path / "boxes.json").write_text(json.dumps({"a": ONE, "b": ONE}))
    assert list(read_boxes(tmp_path / "boxes.json", ["a.jpg"])) == ["a.jpg"]
    assert "left out: 1 names of the boxes without a picture, such as b" in capsys.readouterr().out


def test_numbers_of_boxes_are_changed_on_request_only(tmp_path, capsys):
    boxes = {"a": np.zeros((2, 4)), "b": np.ones((3, 4))}
    with pytest.raises(ValueError, match="picture a has 2 boxes, picture b has 3; regions=3"):
        fit_boxes(boxes)
    assert [len(own) for own in fit_boxes(boxes, 3).values()] == [3, 3]
    assert "regions=3: 0 images have more and lose the last ones, 1 have fewer" in (
        capsys.readouterr().out
    )


def test_regions_that_are_lost_or_repeated_are_told(tmp_path, capsys):
    records = [Record(n, np.ones((k, 3))) for n, k in (("a", 5), ("b", 2), ("c", 3))]
    captions = {name: ["x"] for name in "abc"}
    convert_features(records, {"train": ["a", "b", "c"]}, captions, tmp_path / "out", regions=3)
    assert "regions=3: 1 images have more and lose the last ones, 1 have fewer" in (
        capsys.readouterr().out
    )


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["data.mdb", "lock.mdb"], "holds data.mdb: LMDB files hold pickled objects"),
        (["train-00000-of-00001.parquet"], "Parquet and Arrow files of Hugging Face"),
        (["data-00000-of-00001.arrow", "dataset_info.json"], "Parquet and Arrow files"),
    ],
)
def test_stores_that_must_be_converted_are_named(tmp_path, files, message):
    for name in files:
        (tmp_path / name).write_bytes(b"PAR1")
    (tmp_path / "captions.csv").write_text("image,caption\na.jpg,a dog\n")
    for kind in ("arrays", "tsv", "hdf5"):
        for source in (tmp_path, tmp_path / files[0]):
            with pytest.raises(ValueError, match=message):
                write_data_folder(kind, source, tmp_path / "captions.csv", tmp_path / "out")


def test_boxes_in_percent_are_refused():
    rng = np.random.default_rng(0)
    boxes = np.sort(rng.random((12, 2, 2)), axis=1).reshape(12, 4).astype(np.float32)
    features = rng.random((12, 16)).astype(np.float32)
    for scale, size in ((100, (640, 480)), (1, None), (100, (100, 100)), (480, (640, 480))):
        record = Record("a", features, scale * boxes, size)
        if scale == 100 and size == (640, 480):
            with pytest.raises(ValueError, match="seem to be in percent: divide them by 100"):
                check_record(record)
        else:
            check_record(record)


def test_few_boxes_in_percent_are_refused_in_many_images(tmp_path):
    rng = np.random.default_rng(0)
    names = [f"{i}.jpg" for i in range(12)]

    def convert(scale, out):
        features, corners = np.ones((1, 5), np.float32), rng.uniform(0.5, 1, (12, 2))
        boxes = [scale * np.array([[0.1, 0.2, *corner]]) for corner in corners]
        pairs = zip(names, boxes, strict=True)
        records = (Record(name, features, box, (640, 480)) for name, box in pairs)
        convert_features(records, {"all": names}, {name: ["a dog"] for name in names}, out)

    with pytest.raises(ValueError, match="the boxes of all 12 images .* in percent"):
        convert(100, tmp_path / "a")
    convert(480, tmp_path / "b")


@pytest.mark.parametrize(("scale", "side", "name"), [(100, 200, "percent"), (1000, 1400, "thou")])
def test_few_boxes_in_percent_of_many_pictures_are_refused(tmp_path, scale, side, name):
    """Each picture has two boxes; together they show that none lies beyond the scale."""
    pictures = {f"{i}.png": tmp_path / f"{i}.png" for i in range(10)}
    Image.new("1", (side, side)).save(tmp_path / "all.png")
    for path in pictures.values():
        path.symlink_to(tmp_path / "all.png")
    splits, features = {"all": list(pictures)}, np.ones((2, 5), np.float32)

    def boxes(most):
        return {image: [[0, 0, most, most], [most / 2, 0, most, 9]] for image in pictures}

    def extract(most):
        (tmp_path / "boxes.json").write_text(json.dumps(boxes(most)))
        return split_boxes(tmp_path / "boxes.json", splits, pictures=pictures)

    def convert(most, out):
        found = boxes(most).items()
        records = (Record(image, features, np.array(own), (side, side)) for image, own in found)
        convert_features(records, splits, {image: ["a"] for image in pictures}, tmp_path / out)

    message = f"boxes of all 10 images of {side} pixels or more .* first {scale} .*in {name}"
    with pytest.raises(ValueError, match=message):
        extract(scale)
    with pytest.raises(ValueError, match=message):
        convert(scale, "percent")
    assert len(extract(side)["all"]) == 10
    convert(side, "pixels")


def test_tensorflow_order_is_named():
    features = np.ones((2, 8), np.float32)
    boxes = np.array([[10, 20, 470, 630], [0, 0, 100, 200]], np.float32)
    with pytest.raises(ValueError, match="all fit as y1, x1, y2, x2, TensorFlow's order"):
        check_record(Record("a", features, boxes, (640, 480)))
    with pytest.raises(ValueError, match="width and height$"):
        check_record(Record("a", features, boxes + 400, (640, 480)))


@pytest.mark.parametrize("sparse", [False, True])
def test_float16_in_a_tsv_file_is_told_from_float32(tmp_path, sparse):
    rng = np.random.default_rng(0)
    features = rng.standard_normal((36, 256)).astype(np.float32)
    features = np.maximum(features, 0) if sparse else features

    def read(array):
        text = base64.b64encode(array.tobytes()).decode()
        (tmp_path / "f.tsv").write_text(f"a\t36\t{text}\n")
        return next(read_tsv(tmp_path / "f.tsv")).features

    with pytest.raises(ValueError, match="numbers that are float16; write them as float32"):
        read(features.astype(np.float16))
    for stored in (features, features.astype(np.float16).astype(np.float32), 0 * features):
        np.testing.assert_array_equal(read(stored), stored)


@pytest.mark.parametrize(
    ("dtype", "told"), [("<f8", "float64"), (">f8", "big-endian"), (">f4", "big-endian")]
)
@pytest.mark.parametrize("column", ["features", "boxes"])
def test_rounded_numbers_of_another_type_in_a_tsv_file_are_refused(tmp_path, dtype, told, column):
    """Features that once were float16: their lower bytes are zero, so that nothing is huge."""
    rng = np.random.default_rng(0)
    features = np.maximum(rng.standard_normal((8, 64)), 0).astype(np.float16)
    boxes = np.tile(np.array([4, 8, 100, 50], np.float16), (8, 1))

    def read(**types):
        kinds = {"features": "<f4", "boxes": "<f4", **types}
        cells = [
            base64.b64encode(array.astype(kinds[name]).tobytes()).decode()
            for name, array in (("boxes", boxes), ("features", features))
        ]
        (tmp_path / "f.tsv").write_text("\t".join(["a", "640", "480", "8", *cells]) + "\n")
        return next(read_tsv(tmp_path / "f.tsv"))

    with pytest.raises(ValueError, match=f"tsv:1: .*numbers that are .*{told}.*write them as fl"):
        read(**{column: dtype})
    record = read()
    np.testing.assert_array_equal(record.features, features.astype(np.float32))
    np.testing.assert_array_equal(record.boxes, boxes.astype(np.float32))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_features_that_are_not_finite_name_the_image(value):
    features = np.ones((4, 8), np.float32)
    features[1, 2] = value
    with pytest.raises(ValueError, match="image a.jpg has features with NaN or infinite values"):
        check_record(Record("a.jpg", features))


CORNERS = np.array([[10, 20, 300, 90], [0, 0, 320, 240], [200, 100, 240, 200]], np.float32)
OTHERS = {
    "xyxy": CORNERS,
    "yxyx": CORNERS[:, [1, 0, 3, 2]],
    "xywh": np.concatenate([CORNERS[:, :2], CORNERS[:, 2:] - CORNERS[:, :2]], 1),
}


@pytest.mark.parametrize("order", OTHERS)
def test_boxes_in_another_order_are_read_on_request(tmp_path, order):
    features = np.ones((3, 5), np.float32)
    whole = Record("a", features, OTHERS[order], (320, 240))
    splits, captions = {"train": ["a"]}, {"a": ["a dog"]}
    convert_features([whole], splits, captions, tmp_path / "out", box_order=order)
    found = np.load(tmp_path / "out" / "train_boxes.npy")[0]
    np.testing.assert_allclose(found, CORNERS / [320, 240, 320, 240], atol=1e-6)
    (tmp_path / "b.json").write_text(json.dumps({"a": OTHERS[order].tolist()}))
    np.testing.assert_array_equal(read_boxes(tmp_path / "b.json", ["a"], order)["a"], CORNERS)


@pytest.mark.parametrize("order", ["yxyx", "xywh"])
def test_an_order_that_the_boxes_contradict_is_refused(order):
    features = np.ones((3, 5), np.float32)
    with pytest.raises(ValueError, match=f"reaches out of .*as box_order={order} reads the boxes"):
        check_record(Record("a", features, CORNERS, (320, 240)), order)
    with pytest.raises(ValueError, match=f"box_order={order}, but image a has no boxes"):
        convert_features([Record("a", features)], {"train": ["a"]}, {}, "out", box_order=order)
    with pytest.raises(ValueError, match="box_order must be 'xyxy', 'yxyx' or 'xywh', got 'yx'"):
        check_record(Record("a", features, CORNERS, (320, 240)), "yx")


def test_messages_name_the_order_that_fits():
    features = np.ones((3, 5), np.float32)
    with pytest.raises(ValueError, match="box_order=yxyx"):
        check_record(Record("a", features, OTHERS["yxyx"], (320, 240)))
    with pytest.raises(ValueError, match="box_order=xywh"):
        check_record(Record("a", features, OTHERS["xywh"], (320, 240)))


def test_features_of_another_folder_are_not_joined(tmp_path, capsys):
    """Below source=.../val, 0005 is not train/0005, of which the captions speak, too."""
    (tmp_path / "val").mkdir()
    for i in range(8):
        np.save(tmp_path / "val" / f"{i}.npy", np.full((2, 3), i, np.float32))
    captions = tmp_path / "captions.csv"
    names = [f"{'val' if i < 5 else 'train'}/{i}.jpg" for i in range(8)]
    captions.write_text("image,caption\n" + "".join(f"{name},a dog\n" for name in names))
    with pytest.raises(ValueError, match="3 of 8 images have captions but no features"):
        write_data_folder("arrays", tmp_path / "val", captions, tmp_path / "out")
    told = capsys.readouterr().out
    assert "3 names were not joined with files of" in told and "such as 'train/5.jpg'" in told


def test_another_width_is_not_blamed_on_the_regions(tmp_path):
    records = [Record("a", np.ones((2, 4), np.float32)), Record("b", np.ones((2, 3), np.float32))]
    captions = {"a": ["a dog"], "b": ["a cat"]}
    for regions in (None, 2):
        with pytest.raises(
            ValueError, match=r"\(2, 3\), the first image has \(2, 4\); all need one"
        ):
            convert_features(records, {"all": ["a", "b"]}, captions, tmp_path / "out", regions)
