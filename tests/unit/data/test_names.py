from dataclasses import replace

import pytest
from corpus import write

from itm.data.layout import find_row, read_split
from itm.data.names import Names


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("COCO_val2014_000000391895.jpg", "391895"),
        ("391895.jpg", "391895.0"),  # a column of numbers with gaps becomes decimals
        ("000000391895.jpg", "COCO_val2014_000000391895.npy"),
        ("img_003.jpg", "img_3"),
        ("clip1_frame3.jpg", "x/clip1_frame003.png"),
        ("café.jpg", "cafe\u0301.jpg"),
        ("C:\\pictures\\a.jpg", "a"),
    ],
)
def test_forms_of_one_name(name, other):
    assert Names([name]).find(other) == Names([name]).claim(other) == name


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("0.jpg", "391895.0"),
        ("5.jpg", "12.5"),
        ("12.jpg", "-12"),
        ("dQw4w9WgXc3.jpg", "3"),
        ("DEADBEEF12.jpg", "12"),
        ("ab12cd03.jpg", "ab12cd3"),
        ("2007_000027.jpg", "2008_000027.jpg"),
        ("1000268201_693b08cb0e.jpg", "1000268201"),
        ("IMG.jpg", "img.jpg"),
        ("7.jpg", "7" * 5000),
    ],
)
def test_names_that_only_look_alike(name, other):
    assert Names([name]).find(other) is None and Names([other]).find(name) is None


@pytest.mark.parametrize(
    ("names", "other"),
    [
        (["a.jpg", "a.png"], "a"),
        (["train/a.jpg", "val/a.jpg"], "x/a.jpg"),
        (["img_3.jpg", "img_03.jpg"], "img_003"),
        (["COCO_val2014_07.jpg", "COCO_train2014_07.jpg"], "7"),
    ],
)
def test_two_candidates_are_an_error_that_names_both(names, other):
    with pytest.raises(ValueError, match=f"could be '{names[0]}' or '{names[1]}'"):
        Names(names).find(other)
    assert Names(names).find(names[1]) == names[1]


def test_an_image_is_found_by_its_id_before_its_row(tmp_path):
    write(tmp_path, ids=["a_7.jpg", "b", "c", "d", "e", "f"])
    split = read_split(tmp_path, "train")
    assert find_row(split, "c.png") == 2 and find_row(split, "7") == 0 and find_row(split, 5) == 5
    numbers = replace(split, ids=["17", "2", "30", "4", "50", "6"])
    assert find_row(numbers, 2) == 1 and find_row(numbers, "COCO_000017.jpg") == 0
    with pytest.raises(ValueError, match=r"image=3 is not in split train .* an id such as '17'$"):
        find_row(numbers, 3)


@pytest.mark.parametrize("form", ["{}.jpg", "COCO_val2014_{:012d}.jpg", "val/{}.png"])
def test_a_row_is_no_id_where_ids_hold_numbers(tmp_path, form):
    write(tmp_path, ids=[form.format(number) for number in range(30, 36)])
    split = read_split(tmp_path, "train")
    assert find_row(split, 31) == 1 and find_row(split, "31") == 1
    with pytest.raises(ValueError, match=r"image=3 is not in split train .*: give an id such as"):
        find_row(split, 3)
    dates = replace(split, ids=[f"2020-01-{day:02d}.jpg" for day in range(1, 7)])
    assert find_row(dates, 3) == 3  # 3 cannot mean the third of January


@pytest.mark.parametrize(
    ("names", "other", "found"),
    [
        (["train/a.jpg"], "val/a.jpg", None),
        (["train2014/a.jpg"], "images/val2014/a.jpg", None),
        (["cats/1.jpg", "dogs/2.jpg"], "dogs/1.jpg", None),
        (["train/a.jpg", "val/a.jpg"], "data/val/a.npy", "val/a.jpg"),
        (["img/train/a.jpg", "img/val/b.jpg"], "pictures/train/a.jpg", "img/train/a.jpg"),
        (["a.jpg", "b.jpg"], "val/a.jpg", "a.jpg"),
        (["val/a.jpg"], "a", "val/a.jpg"),
    ],
)
def test_folders_that_contradict_each_other_are_not_joined(names, other, found):
    assert Names(names).find(other) == found


def test_names_joined_over_two_folders_are_told(capsys):
    names = Names(["images/a.jpg", "images/b.jpg"])
    assert names.match(["flickr/a.jpg", "b"]) == {
        "flickr/a.jpg": "images/a.jpg",
        "b": "images/b.jpg",
    }
    names.report()
    assert "1 names were joined although their folders differ" in capsys.readouterr().out


TWINS = ["caf\u00e9.jpg", "cafe\u0301.jpg"]


def test_names_that_look_the_same_are_refused(tmp_path):
    """One name in both of Unicode's forms: two files on Linux, one file on a Mac."""
    for call in (Names, Names(["a.jpg"]).match):
        with pytest.raises(ValueError, match=r"the same, 'caf\\xe9.jpg' and 'cafe\\u0301.jpg'"):
            call(TWINS)
    write(tmp_path, ids=[*TWINS, "b", "c", "d", "e"])
    with pytest.raises(ValueError, match=r"train_ids.txt: two names look the same"):
        read_split(tmp_path, "train")


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("COCO_train2014_000000000009.jpg", "val2014/9"),
        ("train_images/9.jpg", "val_images/9.npy"),
        ("images_train/a.jpg", "images_test/a"),
        ("valset/9.jpg", "trainset/9.jpg"),
        ("coco/train/images/9.jpg", "coco/dev/images/9"),
        ("2020-01-03.jpg", "3"),
        ("IMG_2020-01-03.jpg", "3"),
        ("2007_000027.jpg", "27"),
        ("1000_12345678.jpg", "12345678"),
        ("391895.jpg", "3.91895E+05"),
        ("391895.jpg", "391,895"),
        ("12.jpg", "\uff11\uff12"),
        ("my dog.jpg", "my%20dog.jpg"),
        ("img (3).jpg", "3"),
        ("2.jpg", "v1.2"),
    ],
)
def test_splits_dates_and_other_numbers_are_not_joined(name, other):
    assert Names([name]).find(other) is None and Names([other]).find(name) is None


def test_a_name_that_lost_its_picture_to_a_nearer_form_is_told():
    names = Names(["1.jpg", "a.jpg"])
    assert [names.claim(other) for other in ("01", "1", "a", "a.jpg")] == [
        "1.jpg", "1.jpg", "a.jpg", "a.jpg",
    ]  # fmt: skip
    assert names.displaced == ["01", "a"]


@pytest.mark.parametrize(
    ("folder", "held", "others", "found"),
    [
        ("hol/2019", "1.jpg 9.jpg", "2019/1 2020/9", "2019/1"),
        ("hol/2019", "a/1.jpg a/9.jpg", "2019/a/1 2020/a/9", "2019/a/1"),
        ("val/images", "1.jpg 9.jpg", "/old/val/images/1 /old/train/images/9", "/old/val/images/1"),
        ("kq/val", "4.jpg", "train/4", ""),
        ("train/images", "4.jpg", "val/images/4", ""),
        ("coco/train", "COCO_val2014_4.jpg", "val2014/COCO_val2014_4", "val2014/COCO_val2014_4"),
        ("coco/val2014", "1.jpg 9.jpg", "val/1 9", "val/1 9"),
        ("all", "1.jpg 4.jpg", "train/4 val/1", "train/4 val/1"),
        ("new/images", "1.jpg 4.jpg", "/old/images/1 images/4", "/old/images/1 images/4"),
    ],
)
def test_the_folder_of_the_files_is_compared(folder, held, others, found):
    held, others, found = held.split(), others.split(), found.split()
    assert list(Names(held, folder).match(others)) == found
    names = Names(others, others_folder=folder)
    claimed = [names.claim(other) for other in held]
    assert sorted(name for name in claimed if name) == sorted(found)


def test_what_the_folder_of_the_files_decides_is_told(capsys):
    names = Names(["1.jpg", "2.jpg", "3.jpg"], "pictures/val")
    assert names.match(["val/1", "train/2", "3"]) == {"val/1": "1.jpg", "3": "3.jpg"}
    names.report()
    assert capsys.readouterr().out == (
        "1 names were not joined with files of pictures/val, since they name another folder, such "
        "as 'train/2'\n"
    )
    names = Names(["1.jpg", "2.jpg"], "all")
    names.match(["train/1", "2"])
    names.report()
    assert "1 names were joined although their folders differ" in capsys.readouterr().out
