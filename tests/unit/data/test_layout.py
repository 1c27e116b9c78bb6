import gzip
import pickle

import numpy as np
import pytest
from corpus import write

from itm.data.layout import read_captions, read_split


def boxes(root, rows):
    np.save(root / "train_boxes.npy", np.asarray(rows, np.float32))


def inside(n=6):
    corners = np.random.default_rng(0).uniform(0, 0.5, (n, 3, 2))
    return np.concatenate([corners, corners + 0.4], -1)


@pytest.mark.parametrize("scale", [1, 300])
def test_boxes_are_read(tmp_path, scale):
    write(tmp_path)
    rows = inside() * scale
    rows[4] = 0  # an image without detections
    boxes(tmp_path, rows)
    np.testing.assert_allclose(read_split(tmp_path, "train").boxes, rows, rtol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda b: b.__setitem__((3, 1), np.nan), r"row 3: expected finite"),
        (lambda b: b.__setitem__((2, 0), [0.5, 0.5, 0.2, 0.2]), r"row 2: .*x1 <= x2.*width"),
        (lambda b: b[5].__imul__(100), r"row 5 is in pixels, row 0"),
    ],
)
def test_boxes_that_cannot_be_right_are_an_error(tmp_path, change, message):
    write(tmp_path)
    rows = inside()
    change(rows)
    boxes(tmp_path, rows)
    with pytest.raises(ValueError, match=rf"train_boxes.npy.*{message}"):
        read_split(tmp_path, "train")


@pytest.mark.parametrize("blank", ["\u00a0", "\u3000", "\u200b", "\ufeff", "\u2028", "\x00", "\t"])
@pytest.mark.parametrize("file", ["caps", "ids"])
def test_blank_means_blank_in_unicode(tmp_path, blank, file):
    write(tmp_path, ids=range(6))
    path = tmp_path / f"train_{file}.txt"
    lines = path.read_text().split("\n")
    lines[3] = blank * 2
    path.write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(ValueError, match=rf"train_{file}.txt:4: blank line"):
        read_split(tmp_path, "train")


def test_captions_of_symbols_are_not_blank(tmp_path):
    (tmp_path / "a.txt").write_text("🐕\n!\n一只狗\nกา\n", encoding="utf-8")
    assert len(read_captions(tmp_path / "a.txt")) == 4


@pytest.mark.parametrize("shape", [(29, 4), (31, 4), (30,)])
def test_sentence_vectors_of_other_captions_are_an_error(tmp_path, shape):
    write(tmp_path)
    np.save(tmp_path / "train_caps.npy", np.zeros(shape, np.float32))
    with pytest.raises(ValueError, match=r"train_caps.npy.*expected float \(30, F\)"):
        read_split(tmp_path, "train").sentence_vectors()


def test_captions_of_another_split_are_an_error(tmp_path):
    """145,000 captions of Flickr30K's training split divide evenly by its 1,000 test images."""
    write(tmp_path, per_image=145)
    with pytest.raises(ValueError, match=r"145 captions for each: .*captions_per_image=145"):
        read_split(tmp_path, "train")
    assert read_split(tmp_path, "train", 145).num_images == 6


def test_features_that_are_all_equal_are_not_one_image(tmp_path):
    write(tmp_path, images=60, per_image=1)
    np.save(tmp_path / "train_ims.npy", np.zeros((60, 3, 4), np.float32))
    with pytest.raises(ValueError, match="some equal rows .*captions_per_image=1"):
        read_split(tmp_path, "train")
    assert read_split(tmp_path, "train", 1).num_images == 60


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("train_ims.npy", pickle.dumps([1]), "not a complete .npy file but a Python pickle"),
        ("train_ims.npy", gzip.compress(b"x", mtime=0), "compressed by gzip: unpack it"),
        ("train_ims.npy", b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        ("train_ims.npy", b"<!DOCTYPE html>", "a web page"),
        ("train_caps.txt", gzip.compress(b"x", mtime=0), "compressed by gzip"),
        ("train_caps.txt", "a dog\n".encode("utf-16-le") * 30, "iconv -f utf-16le"),
        ("train_caps.txt", b"1.jpg#0\ta dog\n" * 30, "begin with the names of pictures"),
        ("train_caps.txt", b"1\ta dog\n" * 30, "hold a TAB"),
        ("train_caps.txt", b'{"caption": "a dog"}\n' * 30, "are JSON objects"),
        ("train_caps.txt", b"1.jpg,a dog\n" * 30, "begin with the names of pictures"),
    ],
)
def test_other_kinds_of_files_are_named(tmp_path, name, content, message):
    write(tmp_path)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name}.*{message}"):
        read_split(tmp_path, "train")


def test_pickled_arrays_are_named(tmp_path):
    write(tmp_path)
    np.save(tmp_path / "train_ims.npy", np.array([{}, None], object), allow_pickle=True)
    with pytest.raises(ValueError, match=r"train_ims.npy holds pickled Python objects.*np.stack"):
        read_split(tmp_path, "train")


def test_transposed_features_are_an_error(tmp_path):
    write(tmp_path)
    np.save(tmp_path / "train_ims.npy", np.ones((6, 256, 36), np.float32))
    with pytest.raises(ValueError, match=r"train_ims.npy: .*\(images, width, regions\)"):
        read_split(tmp_path, "train")


def test_fortran_order_is_read_into_memory_or_refused(tmp_path, monkeypatch):
    write(tmp_path)
    features = np.load(tmp_path / "train_ims.npy")
    np.save(tmp_path / "train_ims.npy", np.asfortranarray(features))
    split = read_split(tmp_path, "train")
    with (tmp_path / "train_ims.npy").open("r+b") as file:
        file.truncate(200)  # a memory map would end the process
    np.testing.assert_array_equal(split.images(np.arange(6)), features)
    np.save(tmp_path / "train_ims.npy", np.asfortranarray(features))
    monkeypatch.setattr("itm.data.array_file.MOST_FORTRAN", 10)
    with pytest.raises(ValueError, match=r"train_ims.npy.*Fortran order.*ascontiguousarray"):
        read_split(tmp_path, "train")


def test_boxes_as_gsmn_names_them(tmp_path):
    write(tmp_path)
    np.save(tmp_path / "train_ims_bbx.npy", inside() * 300)
    assert read_split(tmp_path, "train").boxes.max() > 2
    boxes(tmp_path, inside())
    with pytest.raises(ValueError, match=r"both train_boxes.npy and train_ims_bbx.npy"):
        read_split(tmp_path, "train")


def test_fractions_outside_of_the_image_are_an_error(tmp_path):
    write(tmp_path)
    boxes(tmp_path, inside() * 1.9)
    with pytest.raises(ValueError, match=r"row \d: fractions must lie between 0 and 1"):
        read_split(tmp_path, "train")


@pytest.mark.parametrize("counts", [(5, 5, 5, 5), (2, 2, 2), (2, 3, 1, 4)])
def test_ids_of_captions_are_no_ids_of_images(tmp_path, counts):
    """Each copy of a row had become an image with one caption."""
    images = np.random.default_rng(0).random((len(counts), 3, 4), np.float32)
    np.save(tmp_path / "test_ims.npy", images.repeat(counts, 0))
    names = [f"{i}.jpg#{k}" for i, n in enumerate(counts) for k in range(n)]
    (tmp_path / "test_caps.txt").write_text("".join(f"caption {name}\n" for name in names))
    path = tmp_path / "test_ids.txt"
    path.write_text("".join(f"{name}\n" for name in names))
    with pytest.raises(ValueError, match="rows, such as 0 and 1, have different ids.*test_ids.txt"):
        read_split(tmp_path, "test")
    assert read_split(tmp_path, "test", captions_per_image=1).num_images == sum(counts)
    path.write_text("".join(f"{name.partition('#')[0]}\n" for name in names))
    assert read_split(tmp_path, "test").num_images == len(counts)


def test_a_picture_may_occur_twice_under_two_ids(tmp_path):
    rows = np.random.default_rng(0).random((9, 3, 4), np.float32)
    rows[1], rows[7] = rows[0], rows[6]
    np.save(tmp_path / "test_ims.npy", rows)
    for file in ("caps", "ids"):
        (tmp_path / f"test_{file}.txt").write_text("".join(f"{file} {i}\n" for i in range(9)))
    assert read_split(tmp_path, "test").num_images == 9


def test_rows_said_to_be_one_image_must_be_equal(tmp_path):
    write(tmp_path)
    np.save(tmp_path / "train_ims.npy", np.random.default_rng(0).random((30, 3, 4), np.float32))
    with pytest.raises(ValueError, match=r"captions_per_image=5 rows 0 and 1 are one image, but"):
        read_split(tmp_path, "train", 5)
    (tmp_path / "train_ids.txt").write_text("".join(f"{i // 5}\n" for i in range(30)))
    with pytest.raises(ValueError, match=r"the ids rows 0 and 1 are one image, but they differ"):
        read_split(tmp_path, "train")


def test_ids_that_contradict_captions_per_image(tmp_path):
    write(tmp_path)
    ids = [0] * 4 + [1] * 6 + [i // 5 for i in range(10, 30)]
    (tmp_path / "train_ids.txt").write_text("".join(f"{i}\n" for i in ids))
    assert read_split(tmp_path, "train").caption_image[4] == 1
    with pytest.raises(ValueError, match=r"captions_per_image=5, but the ids .* 4 to 6 captions"):
        read_split(tmp_path, "train", 5)


@pytest.mark.parametrize("name", ["train_ims.npy", "train_ids.txt", "train_boxes.npy"])
def test_a_folder_in_place_of_a_file_is_named(tmp_path, name):
    write(tmp_path)
    (tmp_path / name).unlink(missing_ok=True)
    (tmp_path / name).mkdir()
    with pytest.raises(ValueError, match=f"{name} is a folder or pipe"):
        read_split(tmp_path, "train")


def test_negative_pixels_are_an_error(tmp_path):
    write(tmp_path)
    rows = inside() * 300
    rows[3, 0, 0] = -200
    boxes(tmp_path, rows)
    with pytest.raises(ValueError, match="row 3: pixels must not be negative, found -200"):
        read_split(tmp_path, "train")


@pytest.mark.parametrize("regions", [(), (3,)])
def test_images_stored_in_rounds_are_an_error(tmp_path, regions):
    """All images, then all again: their captions are not on consecutive lines."""
    write(tmp_path)
    rows = np.random.default_rng(0).random((6, *regions, 4), np.float32)
    np.save(tmp_path / "train_ims.npy", np.concatenate([rows] * 5))
    with pytest.raises(ValueError, match=r"train_ims.npy .*repeat after 6 rows"):
        read_split(tmp_path, "train")
    assert read_split(tmp_path, "train", 1).num_images == 30


def test_rows_that_are_all_one_image_need_a_number(tmp_path):
    """Few equal rows may be one image, or an extraction that failed."""
    write(tmp_path)
    np.save(tmp_path / "train_ims.npy", np.zeros((30, 3, 4), np.float32))
    with pytest.raises(ValueError, match="some equal rows .*captions_per_image=1"):
        read_split(tmp_path, "train")
    assert read_split(tmp_path, "train", 5).num_images == 6


def test_a_box_in_fractions_among_pixels_is_an_error(tmp_path):
    write(tmp_path)
    rows = inside() * 300
    rows[2, 1] = [0, 0, 1, 1]
    boxes(tmp_path, rows)
    with pytest.raises(ValueError, match=r"row 2: box \[0.0, 0.0, 1.0, 1.0\] is in fractions"):
        read_split(tmp_path, "train")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("image,caption\n" + "1.jpg,a dog\n" * 29, "begin with the names of pictures"),
        ("image\tcaption\n" + "1\ta dog\n" * 29, "hold a TAB"),
        ("1000092795,0,a dog\n" * 30, "begin with numbers and a delimiter"),
        ("id;caption\n" + "7; a dog\n" * 29, "begin with numbers and a delimiter"),
    ],
)
def test_a_table_with_a_header_is_no_caption_file(tmp_path, lines, message):
    write(tmp_path)
    (tmp_path / "train_caps.txt").write_text(lines)
    with pytest.raises(ValueError, match=f"train_caps.txt: the lines {message}"):
        read_split(tmp_path, "train")


def test_captions_that_begin_with_numbers_are_sentences(tmp_path):
    write(tmp_path)
    (tmp_path / "train_caps.txt").write_text("2 dogs run\n3, 2, 1\n" * 15)
    assert read_split(tmp_path, "train").captions[1] == "3, 2, 1"


@pytest.mark.parametrize("content", [b"", b"\n\n", b"\xef\xbb\xbf"])
def test_an_empty_list_of_ids_is_an_error(tmp_path, content):
    write(tmp_path)
    (tmp_path / "train_ids.txt").write_bytes(content)
    with pytest.raises(ValueError, match="train_ids.txt"):
        read_split(tmp_path, "train")


def test_a_quote_that_takes_in_the_rest_of_a_table_is_named(tmp_path):
    """The reader of tables gives up after 131,072 characters."""
    write(tmp_path, images=2, per_image=1)
    (tmp_path / "train_caps.txt").unlink()
    rows = ["0\ta dog", '1\t"a cat', *[f"{i}\tword {'x' * 90}" for i in range(1500)]]
    (tmp_path / "train_caps.tsv").write_text("\n".join(rows) + "\n")
    with pytest.raises(ValueError, match=r"train_caps\.tsv:2: .* a quote that is not closed"):
        read_split(tmp_path, "train")


def test_global_vectors_have_one_box_each(tmp_path):
    write(tmp_path, shape=(4,))
    rows = inside()[:, :1]
    boxes(tmp_path, rows)
    np.testing.assert_allclose(read_split(tmp_path, "train").boxes, rows, rtol=1e-6)
    boxes(tmp_path, inside())
    with pytest.raises(ValueError, match=r"expected \(6, 1, 4\) .*\(6, 4\), found \(6, 3, 4\)"):
        read_split(tmp_path, "train")
