"""Which pictures an extraction takes, and how it finds its plan again."""

import pytest

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
