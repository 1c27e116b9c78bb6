"""Which pictures an extraction takes, and how it finds its plan again."""

import pytest
from PIL import Image

from itm.features.partition import partition
from itm.features.plan import describe_settings, make_plan, read_plan, write_plan


def settings(folder, **options):
    lists = {"train": None, "dev": None}
    return describe_settings({}, folder / "captions.txt", None, lists, {"seed": 0, **options})


def test_a_plan_is_found_again_unless_a_setting_or_a_file_changed(tmp_path):
    (tmp_path / "captions.txt").write_text("a.jpg\ta dog\n")
    out = tmp_path / "out"
    assert read_plan(out, settings(tmp_path)) is None
    write_plan(out, settings(tmp_path), {"train": ["a.jpg"]}, {"a.jpg": ["a dog"]})
    assert read_plan(out, settings(tmp_path)) == {"train": ["a.jpg"]}
    assert (out / "train_caps.txt").read_text() == "a dog\n"
    with pytest.raises(ValueError, match="was made with other seed; choose another out="):
        read_plan(out, settings(tmp_path, seed=1))
    (tmp_path / "captions.txt").write_text("a.jpg\ta cat\n")
    with pytest.raises(ValueError, match="was made with other captions"):
        read_plan(out, settings(tmp_path))


def test_a_folder_without_a_usable_picture(tmp_path):
    (tmp_path / "a.jpg").write_text("not a picture")
    with pytest.raises(ValueError, match="none of the 1 pictures can be used"):
        make_plan({"a.jpg": tmp_path / "a.jpg"})


def test_lists_divide_pictures_without_captions(tmp_path):
    pictures = {name: tmp_path / name for name in ("a.png", "b.png")}
    for i, path in enumerate(pictures.values()):
        Image.new("L", (8, 8), 90 * i).save(path)
    (tmp_path / "train.txt").write_text("b\n")
    (tmp_path / "test.txt").write_text("a\n")
    lists = {"train": tmp_path / "train.txt", "dev": None, "test": tmp_path / "test.txt"}
    assert make_plan(pictures, None, lists)[0] == {"train": ["b.png"], "test": ["a.png"]}
    assert make_plan(pictures)[0] == {"all": ["a.png", "b.png"]}


def test_fractions_beside_splits_with_names_are_refused(tmp_path):
    (tmp_path / "train.txt").write_text("a\n")
    lists, message = {"train": tmp_path / "train.txt"}, "have no effect, because the lists name"
    for option in ({"fractions": [0.5, 0.3, 0.2]}, {"seed": 3}):
        with pytest.raises(ValueError, match=message):
            partition(["a", "b"], lists, **option)
        with pytest.raises(ValueError, match="because the captions' file names the splits"):
            partition(["a", "b"], known={"a": "train", "b": "test"}, **option)
        Image.new("L", (8, 8)).save(tmp_path / "a.png")
        with pytest.raises(ValueError, match="because pictures without captions form one split"):
            make_plan({"a.png": tmp_path / "a.png"}, **option)
    assert partition(["a"], lists, fractions=[0.8, 0.1, 0.1], seed=0) == {"train": ["a"]}
