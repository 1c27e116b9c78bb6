"""Pictures of images are found by ids; what is not found is told."""

import numpy as np
import pytest
from corpus import write

from itm.data.check import page, shared_images
from itm.data.layout import read_split
from itm.data.pictures import Pictures

PIL = pytest.importorskip("PIL.Image")


def draw(folder, *names):
    folder.mkdir(exist_ok=True)
    for name in names:
        PIL.fromarray(np.zeros((4, 4, 3), np.uint8)).save(folder / name)
    return folder


def test_images_without_a_picture_are_told(tmp_path, capsys):
    write(tmp_path, ids=["1", "01", "b", "c", "d", "e"])
    pictures = Pictures(read_split(tmp_path, "train"), draw(tmp_path / "p", "1.jpg", "b.jpg"))
    assert pictures.find("1") == tmp_path / "p" / "1.jpg" and pictures.find("01") is None
    assert "left out: 4 images of split train without a picture, such as 01, c, d" in (
        capsys.readouterr().out
    )


def test_rows_are_no_numbers_in_names(tmp_path):
    """Without ids, COCO_val2014_000000000003.jpg is not the picture of row 3."""
    write(tmp_path)
    split = read_split(tmp_path, "train")
    folder = draw(tmp_path / "p", "COCO_val2014_000000000003.jpg")
    with pytest.raises(ValueError, match="none of the 0 pictures"):
        Pictures(split, folder)
    assert Pictures(split, draw(folder, "0003.jpg")).find("3") == folder / "0003.jpg"


@pytest.mark.parametrize(("mine", "other"), [("1", "01"), ("a", "a.jpg"), ("x/b.jpg", "b")])
def test_ids_of_two_splits_may_have_two_forms(tmp_path, mine, other):
    write(tmp_path, "train", ids=[mine, "p", "q", "r", "s", "t"])
    write(tmp_path, "dev", ids=[other, "u", "v", "w", "y", "z"])
    splits = [read_split(tmp_path, name) for name in ("train", "dev")]
    assert shared_images(splits) == [f"train and dev share 1 ids, such as {other!r}"]


@pytest.mark.parametrize("first", [0, 1])
def test_numbers_of_rows_are_no_leak(tmp_path, first):
    """Each split counts its images anew, so that all seemed to be in both."""
    for name in ("train", "dev"):
        write(tmp_path, name, ids=range(first, first + 6))
    assert not shared_images([read_split(tmp_path, name) for name in ("train", "dev")])
    assert "ids of train, dev number the rows of each" in page(tmp_path)
    write(tmp_path, "dev", ids=[9, *range(1, 6)])
    assert "LEAK: train and dev share" in page(tmp_path)


def test_pictures_of_another_folder_are_not_taken(tmp_path, capsys):
    """images=yr/2019 holds no picture of 2020, although it holds one of the same name."""
    write(tmp_path, ids=[f"{2 + n // 3}/IMG_{n}.jpg" for n in range(6)])
    folder = draw(tmp_path / "2", *[f"IMG_{n}.jpg" for n in range(6)])
    pictures = Pictures(read_split(tmp_path, "train"), folder)
    assert [pictures.find(f"2/IMG_{n}.jpg") for n in range(3)] == sorted(folder.iterdir())[:3]
    assert [pictures.find(f"3/IMG_{n}.jpg") for n in range(3, 6)] == [None] * 3
    told = capsys.readouterr().out
    assert f"3 names were not joined with files of {folder}, since they name another" in told


@pytest.mark.parametrize(("id_", "shown"), [("b.jpg", "such as 'b.jpg'$"), ("b", "or 'b.jpg'$")])
def test_the_ending_of_a_name_is_not_doubled(tmp_path, id_, shown):
    write(tmp_path, ids=[id_, "c", "d", "e", "f", "g"])
    with pytest.raises(ValueError, match=f"none of the 1 pictures .*{shown}"):
        Pictures(read_split(tmp_path, "train"), draw(tmp_path / "p", "z.jpg"))
