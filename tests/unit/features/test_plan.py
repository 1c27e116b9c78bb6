"""Which pictures an extraction takes, and how it finds its plan again."""

import json

import pytest
from PIL import Image

from itm.features.extraction import read_boxes
from itm.features.partition import partition
from itm.features.pictures import find_pictures, folder_of
from itm.features.plan import describe_settings, make_plan, read_plan, write_plan
from itm.features.sentences import read_sentences


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


def test_captions_lists_and_boxes_of_another_folder_are_left_out(tmp_path, capsys):
    """Below images=.../2019, 2020/2.png is not 2.png; in a folder `all` it is."""
    for folder in ("2019", "all"):
        (tmp_path / folder).mkdir()
        for i in range(3):
            Image.new("L", (8, 8), 90 * i).save(tmp_path / folder / f"{i}.png")
    captions = tmp_path / "captions.csv"
    captions.write_text("image,caption\n2019/0.png,zero\n2019/1.png,one\n2020/2.png,two\n")
    boxes = tmp_path / "boxes.json"
    boxes.write_text('{"2019/0.png": [[0, 0, 1, 1]], "2020/2.png": [[0, 0, 1, 1]]}')
    pictures = find_pictures(tmp_path / "2019")
    halves = {"fractions": (0.5, 0.5, 0)}
    assert make_plan(pictures, captions, **halves)[1] == {"0.png": ["zero"], "1.png": ["one"]}
    told = capsys.readouterr().out
    assert "left out: 1 captions' names without a picture, such as 2020/2.png" in told
    assert "since they name another folder, such as '2020/2.png'" in told
    for name, path in (("train", "2019/0\n2019/1\n"), ("test", "2020/2\n")):
        (tmp_path / f"{name}.txt").write_text(path)
    lists = {name: tmp_path / f"{name}.txt" for name in ("test", "train")}
    with pytest.raises(ValueError, match=r"no picture of .*test.txt is among the 3 pictures"):
        make_plan(pictures, None, lists)
    with pytest.raises(ValueError, match="has no boxes for 1 pictures, such as '2.png'"):
        read_boxes(boxes, ["0.png", "2.png"], folder=folder_of(pictures))
    assert len(make_plan(find_pictures(tmp_path / "all"), captions, **halves)[1]) == 3


def test_the_filepath_of_karpathys_format_tells_equal_names_apart(tmp_path):
    """setB/1.png is not setA/1.png; a flat folder of pictures may have any name."""
    images = [("1.png", "setB"), ("2.png", "setB"), ("3.png", "setA"), ("4.png", "")]
    content = [
        {"filename": name, "filepath": folder, "split": "train", "sentences": [{"raw": name}]}
        for name, folder in images
    ]
    (tmp_path / "k.json").write_text(json.dumps({"images": content}))
    for place in ("setA/1.png", "setB/2.png", "setA/3.png", "4.png"):
        for path in (tmp_path / "nested" / place, tmp_path / "flat" / place.split("/")[-1]):
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (8, 8), int(path.stem)).save(path)
    own = make_plan(find_pictures(tmp_path / "nested"), tmp_path / "k.json", partial=True)[1]
    assert own == {"setB/2.png": ["2.png"], "setA/3.png": ["3.png"], "4.png": ["4.png"]}
    own = make_plan(find_pictures(tmp_path / "flat"), tmp_path / "k.json")[1]
    assert own == {name: [name] for name, _ in images}
    coco = {"filename": "COCO_val2014_7.jpg", "filepath": "val2014", "sentences": [{"raw": "A"}]}
    (tmp_path / "coco.json").write_text(json.dumps({"images": [coco]}))
    assert list(read_sentences(tmp_path / "coco.json").captions) == ["COCO_val2014_7.jpg"]
