import json
import re

import cli
import numpy as np
import pytest
import torch
from PIL import Image
from transformers import ViTModel
from vision import SETTINGS, save_vit

from itm import prepare
from itm.app.config import compose
from itm.data.layout import read_split
from itm.extract import command
from itm.features.pictures import find_pictures
from itm.features.store import Store
from itm.features.windows import windows


@pytest.fixture(scope="module")
def vit(tmp_path_factory):
    return save_vit(tmp_path_factory.mktemp("vit"))


@pytest.fixture
def pictures(tmp_path):
    """Ten pictures of noise, some in a sub-folder, with two sentences each."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "pictures"
    (folder / "more").mkdir(parents=True)
    lines = []
    for i in range(10):
        name = f"{'more/' if i % 3 == 0 else ''}picture {i}.png"
        pixels = rng.integers(0, 256, (40 + i, 60, 3), np.uint8)
        Image.fromarray(pixels).save(folder / name)
        lines += [f"picture {i}.png#{k}\tsentence {k} on picture {i}\n" for k in range(2)]
    (tmp_path / "captions.txt").write_text("".join(lines))
    return folder


def run(tmp_path, vit, *overrides, out="out"):
    given = {"images": "pictures", "captions": "captions.txt", "out": out}
    paths = [f"{key}={tmp_path / name}" for key, name in given.items()]
    options = [f"backbone={vit}", "workers=0", "batch_size=2", *overrides]
    return command(compose([*paths, *options], "extract"))


def by_hand(vit, path, boxes):
    """(R, F): ViT on the squeezed picture; each box the mean of many points on 4 x 4 cells."""
    picture = Image.open(path).convert("RGB").resize((32, 32), Image.Resampling.BICUBIC)
    pixels = torch.from_numpy(np.array(picture)).float() / 255
    normal = (pixels - torch.tensor(SETTINGS["image_mean"])) / torch.tensor(SETTINGS["image_std"])
    with torch.no_grad():
        state = ViTModel.from_pretrained(vit)(normal.permute(2, 0, 1)[None]).last_hidden_state
    cells = state[0, 1:].reshape(4, 4, -1).numpy()
    fine = np.repeat(np.repeat(cells, 60, 0), 60, 1)  # 240: every edge of the windows is whole
    edges = np.rint(240 * boxes).astype(int)
    return np.stack([fine[y1:y2, x1:x2].mean((0, 1)) for x1, y1, x2, y2 in edges])


def test_a_folder_of_pictures_becomes_a_data_folder(tmp_path, vit, pictures):
    out = run(tmp_path, vit)
    names = []
    for name, count in (("train", 8), ("dev", 1), ("test", 1)):
        split = read_split(out, name)
        assert split.features.shape == (count, 36, 16) and split.features.dtype == np.float16
        for row, image in enumerate(split.ids):
            number = image[-5]
            assert split.references()[row] == [f"sentence {k} on picture {number}" for k in (0, 1)]
            np.testing.assert_array_equal(split.boxes[row], windows())
            expected = by_hand(vit, pictures / image, windows())
            np.testing.assert_allclose(split.features[row], expected, atol=2e-3)
        names += split.ids
    assert sorted(names) == sorted(find_pictures(pictures))


def test_the_command(tmp_path, vit, pictures):
    given = ["images=pictures", "captions=captions.txt", "out=out", f"backbone={vit}", "workers=0"]
    text = cli.run("extract", *given, cwd=tmp_path)
    assert "python -m itm.prepare data=flickr8k data.root=out" in text
    assert sorted(p.name for p in tmp_path.iterdir()) == ["captions.txt", "out", "pictures"]
    (tmp_path / "out").rename(tmp_path / "my out")
    text = cli.run("extract", *given, "out=my out", cwd=tmp_path)
    assert "already" in text and "data=flickr8k 'data.root=my out'" in text
    (tmp_path / "my out").rename(tmp_path / "out")
    text = cli.run("extract", *given, "overlap=2", "out=b", cwd=tmp_path, fails=True)
    assert "error: windows=" in text and "Traceback" not in text


class Killed(BaseException):
    pass


def test_a_killed_run_goes_on_and_ends_in_the_same_bytes(tmp_path, vit, pictures, monkeypatch):
    whole = run(tmp_path, vit, out="whole")
    flush, left = Store.flush, [2]

    def dying(self):
        if not left[0]:
            raise Killed
        left[0] -= 1
        flush(self)

    monkeypatch.setattr(Store, "flush", dying)
    with pytest.raises(Killed):
        run(tmp_path, vit, out="killed")
    assert not list((tmp_path / "killed").glob("*_ims.npy"))
    monkeypatch.undo()
    batches = []
    write = Store.write
    monkeypatch.setattr(
        Store, "write", lambda s, rows, *a: (batches.append(rows), write(s, rows, *a))
    )
    killed = run(tmp_path, vit, out="killed")
    assert sum(map(len, batches)) == 10 - 2 * 2  # what was done is not done again
    files = sorted(p.name for p in whole.iterdir())
    assert files == sorted(p.name for p in killed.iterdir())
    for name in files:
        assert (whole / name).read_bytes() == (killed / name).read_bytes(), name
    batches.clear()
    run(tmp_path, vit, out="killed")
    assert not batches
    with pytest.raises(ValueError, match="other windows, seed"):
        run(tmp_path, vit, "seed=1", "windows=[[6,6]]", out="killed")


def test_loader_processes_change_nothing(tmp_path, vit, pictures):
    one, two = run(tmp_path, vit, out="a"), run(tmp_path, vit, "workers=2", out="b")
    assert (one / "train_ims.npy").read_bytes() == (two / "train_ims.npy").read_bytes()


def test_boxes_of_ones_own(tmp_path, vit, pictures):
    boxes = {}
    for i, name in enumerate(find_pictures(pictures)):
        height = 40 + int(name[-5])
        own = [[0, 0, 60, height], [15, 0, 45, height / 2]]  # pixels
        boxes[name] = own if i % 2 else [[0, 0, 1, 1], [0.25, 0, 0.75, 0.5]]
    boxes["somewhere else.png"] = [[0, 0, 1, 1]]
    (tmp_path / "boxes.json").write_text(json.dumps(boxes))
    out = run(tmp_path, vit, f"boxes={tmp_path / 'boxes.json'}")
    split, wanted = read_split(out, "train"), np.array([[0, 0, 1, 1], [0.25, 0, 0.75, 0.5]])
    for row, name in enumerate(split.ids):
        np.testing.assert_allclose(split.boxes[row], wanted, atol=1e-6)
        expected = by_hand(vit, pictures / name, wanted)
        np.testing.assert_allclose(split.features[row], expected, atol=2e-3)
    del boxes[split.ids[0]]
    (tmp_path / "boxes.json").write_text(json.dumps(boxes))
    with pytest.raises(ValueError, match="no boxes for 1 pictures"):
        run(tmp_path, vit, f"boxes={tmp_path / 'boxes.json'}", out="other")


def test_what_cannot_be_used_is_left_out_and_told(tmp_path, vit, pictures, capsys):
    good = (pictures / "picture 1.png").read_bytes()
    (pictures / "picture 2.png").write_bytes(good[: len(good) // 2])
    (pictures / "without.png").write_bytes(good)
    with (tmp_path / "captions.txt").open("a") as file:
        file.write("nowhere.png\ta sentence\npicture 1.png\t \n")
    out = run(tmp_path, vit)
    text = capsys.readouterr().out
    for part in (
        "picture 2.png cannot be read",
        "1 captions' names without a picture, such as nowhere.png",
        "1 pictures without captions, such as without.png",
        "1 empty captions",
        "train: 7 pictures, dev: 1 pictures, test: 1 pictures",
    ):
        assert part in text, text
    ids = [name for split in ("train", "dev", "test") for name in read_split(out, split).ids]
    assert len(ids) == 9 and "picture 2.png" not in ids


def test_pictures_without_captions_are_one_split(tmp_path, vit, pictures):
    folder = [f"images={pictures}", f"out={tmp_path / 'out'}", f"backbone={vit}", "workers=0"]
    out = command(compose(folder, "extract"))
    assert np.load(out / "all_ims.npy").shape == (10, 36, 16)
    assert (out / "all_ids.txt").read_text().splitlines() == list(find_pictures(pictures))


def test_names_that_do_not_meet(tmp_path, vit, pictures):
    (tmp_path / "captions.txt").write_text("x.jpg\ta sentence\n")
    with pytest.raises(ValueError, match=r"'x.jpg'.*'more/picture 0.png'"):
        run(tmp_path, vit)
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(FileNotFoundError, match="holds no picture"):
        find_pictures(empty)


def test_features_replace_only_their_own_and_as_a_whole(tmp_path, vit, pictures, capsys):
    out = run(tmp_path, vit)
    record = json.loads((out / "extract.json").read_text())
    assert set(record["files"]) == {p.name for p in out.iterdir()}
    before = {p.name: p.read_bytes() for p in out.iterdir()}
    capsys.readouterr()
    run(tmp_path, vit)
    assert "holds these features already" in capsys.readouterr().out
    with pytest.raises(ValueError, match="was made with other windows; .*overwrite=true"):
        run(tmp_path, vit, "windows=[[1,1]]")
    with pytest.raises(ValueError, match="expected pairs"):  # found before anything is deleted
        run(tmp_path, vit, "overlap=2", "overwrite=true")
    assert before == {p.name: p.read_bytes() for p in out.iterdir()}
    run(tmp_path, vit, "windows=[[1,1]]", "overwrite=true")
    assert np.load(out / "train_ims.npy").shape == (8, 1, 16)
    (pictures / "picture 1.png").write_bytes((pictures / "picture 2.png").read_bytes())
    with pytest.raises(ValueError, match="was made with other pictures"):
        run(tmp_path, vit, "windows=[[1,1]]")
    (out / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"did not make, such as notes\.txt"):
        run(tmp_path, vit, "overwrite=true")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["captions.txt", "out", "pictures"]


def test_features_of_others_are_never_touched(tmp_path, vit, pictures):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "train_caps.txt").write_text("mine\n")
    for option in ("overwrite=false", "overwrite=true"):
        with pytest.raises(ValueError, match=r"did not make, such as train_caps\.txt"):
            run(tmp_path, vit, option)
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["train_caps.txt"]
    assert (tmp_path / "out" / "train_caps.txt").read_text() == "mine\n"


def test_a_kill_while_features_are_replaced(tmp_path, vit, pictures, monkeypatch):
    out = run(tmp_path, vit)
    before = {p.name: p.read_bytes() for p in out.iterdir()}
    flush = Store.flush
    monkeypatch.setattr(Store, "flush", lambda self: (_ for _ in ()).throw(Killed))
    with pytest.raises(Killed):
        run(tmp_path, vit, "seed=1", "overwrite=true")
    assert before == {p.name: p.read_bytes() for p in out.iterdir()}
    monkeypatch.setattr(Store, "flush", flush)
    with pytest.raises(ValueError, match="was made with other seed"):
        run(tmp_path, vit, "seed=1")
    run(tmp_path, vit, "seed=1", "overwrite=true")
    assert (out / "extract.json").read_bytes() != before["extract.json"]
    assert not (tmp_path / "out.unfinished").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["captions=a.txt"], "captions=a.txt has no effect without images=: give images, too"),
        (["splits.train=a.txt"], "splits.train=a.txt has no effect without images="),
        (["images=.", "regions=9"], "regions=9 has no effect without boxes="),
        (["images=.", "boxes=a.json", "overlap=0"], "overlap=0 has no effect: boxes=a.json are"),
    ],
)
def test_options_that_the_extraction_does_not_use_are_refused(
    tmp_path, monkeypatch, options, message
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        command(compose(options, "extract"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("size=0", "size must be at least 1, got 0"),
        ("batch_size=0", "batch_size must be at least 1, got 0"),
        ("workers=-1", "workers must be at least 0, got -1"),
        ("windows=[1,2]", r"windows=\[1, 2\], overlap=0.5: expected pairs"),
        ("windows=[[1,1,1]]", "expected pairs"),
        ("windows=[[1.5,2]]", "expected pairs .* of whole numbers"),
        ("dtype=int8", "dtype must be 'float16' or 'float32', got 'int8'"),
        ("regions=0", "regions=0 must be at least 1, or null"),
        ("fractions=0.8", "fractions=0.8: expected shares of"),
        ("fractions=[0,0,1]", "that of train above 0"),
        ("seed=-1", "seed=-1 must be at least 0"),
        ("revision=abc", "revision=abc has no effect: backbone=efficientnet-lite2 is not a model"),
    ],
)
def test_values_that_the_extraction_cannot_use_are_refused(tmp_path, pictures, option, message):
    with pytest.raises(ValueError, match=message):
        command(compose([f"images={pictures}", f"out={tmp_path / 'out'}", option], "extract"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("dtype=float64", "dtype must be 'float16' or 'float32', got 'float64'"),
        ("workers=-1", "workers must be at least 0, got -1"),
        ("batch_size=0", "batch_size must be at least 1, got 0"),
        ("size=0", "size must be at least 1, got 0"),
        ("captions=nope.csv", "captions=nope.csv: there is no such file"),
        ("boxes=nope.json", "boxes=nope.json: there is no such file"),
        ("splits.dev=nope.txt", "splits.dev=nope.txt: there is no such file"),
        ("device=tpu9", "device=tpu9 is unknown"),
        ("fractions=[0.5,0.5]", "expected shares of"),
    ],
)
def test_a_refused_option_leaves_no_folder(tmp_path, vit, pictures, capsys, option, said):
    with pytest.raises((ValueError, FileNotFoundError), match=re.escape(said)):
        run(tmp_path, vit, option)
    assert not list(tmp_path.glob("out*"))
    assert "drawn at random" not in capsys.readouterr().out


def test_options_of_a_conversion_are_checked_first(tmp_path):
    captions = tmp_path / "captions.txt"
    captions.write_text("a.jpg\tone dog\n")
    for option, said in (
        ("dtype=float64", "dtype must be 'float16' or 'float32', got 'float64'"),
        ("regions=0", "regions=0 must be at least 1, or null"),
        ("captions=nope.txt", "captions=nope.txt: there is no such file"),
        ("source=nope", "source=nope: there is no such file"),
    ):
        paths = [f"source={tmp_path}", f"captions={captions}", f"out={tmp_path / 'out'}"]
        with pytest.raises((ValueError, FileNotFoundError), match=said):
            prepare.command(compose(["from=arrays", *paths, option], "prepare"))
    assert not list(tmp_path.glob("out*"))
