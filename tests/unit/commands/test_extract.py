import json

import cli
import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    CLIPConfig,
    CLIPModel,
    ResNetConfig,
    ResNetModel,
    SwinConfig,
    SwinModel,
    ViTConfig,
    ViTModel,
)

from itm.app.config import compose
from itm.data.layout import read_split
from itm.extract import command
from itm.features.backbones import LITE, backbone
from itm.features.pictures import broken, find_pictures, load_pixels
from itm.features.store import Store
from itm.features.windows import coverage, windows

SETTINGS = {
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.5, 0.4, 0.3],
    "image_std": [0.2, 0.3, 0.4],
    "size": {"height": 32, "width": 32},
}
TINY = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
VISION = {**TINY, "intermediate_size": 32, "image_size": 32, "patch_size": 8}


def save(model, folder):
    torch.manual_seed(0)
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(SETTINGS))
    return str(folder)


@pytest.fixture(scope="module")
def vit(tmp_path_factory):
    torch.manual_seed(0)
    model = ViTModel(ViTConfig(**VISION), add_pooling_layer=False)
    return save(model, tmp_path_factory.mktemp("vit"))


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
        "1 names without a picture, such as 'nowhere.png'",
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


# Windows, pictures, networks ------------------------------------------------------------------


def test_the_default_windows():
    boxes = windows()
    assert boxes.shape == (36, 4) and boxes[0].tolist() == [0, 0, 1, 1]
    assert boxes.min() >= 0 and boxes.max() <= 1 + 1e-6
    assert len(np.unique(boxes.round(5), axis=0)) == 36
    grid = windows([[3, 2]], overlap=0)
    areas = (grid[:, 2] - grid[:, 0]) * (grid[:, 3] - grid[:, 1])
    np.testing.assert_allclose(areas, 1 / 6, rtol=1e-6)
    for wrong in ([], [[0, 1]]):
        with pytest.raises(ValueError, match="expected pairs"):
            windows(wrong)


def test_coverage_by_counting_points():
    rng = np.random.default_rng(1)
    low = rng.uniform(0, 0.7, (5, 2))
    boxes = np.concatenate([low, low + rng.uniform(0.1, 0.3, (5, 2))], 1)
    weights = coverage(boxes, 3, 4)
    points = (np.arange(1200) + 0.5) / 1200
    for (x1, y1, x2, y2), weight in zip(boxes, weights, strict=True):
        across = np.bincount((points[(points > x1) & (points < x2)] * 4).astype(int), minlength=4)
        down = np.bincount((points[(points > y1) & (points < y2)] * 3).astype(int), minlength=3)
        expected = np.outer(down / down.sum(), across / across.sum()).ravel()
        np.testing.assert_allclose(weight, expected, atol=5e-3)
    np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-6)


def test_a_box_without_area_takes_its_cell():
    weights = coverage(np.array([[0.9, 0.1, 0.9, 0.1], [1, 1, 1, 1]]), 2, 2)
    assert weights.tolist() == [[0, 1, 0, 0], [0, 0, 0, 1]]


def test_pictures_are_upright_and_rgb(tmp_path):
    pixels = np.zeros((20, 40), np.uint8)
    pixels[:, 20:] = 255  # the right half is white
    turned = Image.fromarray(pixels)
    exif = turned.getexif()
    exif[0x0112] = 6  # to be shown turned by 90 degrees clockwise: white is below
    turned.save(tmp_path / "a.jpg", exif=exif)
    shown, size = load_pixels(tmp_path / "a.jpg", 8)
    assert size == (20, 40) and shown.shape == (8, 8, 3)
    assert shown[0].max() < 20 and shown[-1].min() > 235
    (tmp_path / "b.png").write_text("no picture")
    assert list(broken([tmp_path / "a.jpg", tmp_path / "b.png"], 2)) == [tmp_path / "b.png"]


def test_networks_of_several_kinds(tmp_path):
    torch.manual_seed(0)
    text = {**TINY, "intermediate_size": 32, "vocab_size": 9, "max_position_embeddings": 5}
    clip = CLIPConfig(text_config=text, vision_config=VISION, projection_dim=8)
    swin = {"embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "window_size": 4}
    resnet = {"embedding_size": 8, "hidden_sizes": [8, 12], "depths": [1, 1], "layer_type": "basic"}
    models = {
        "clip": (CLIPModel(clip), (16, 4, 4)),
        "swin": (SwinModel(SwinConfig(image_size=32, patch_size=2, **swin)), (16, 8, 8)),
        "resnet": (ResNetModel(ResNetConfig(**resnet)), (12, 4, 4)),
    }
    for name, (model, shape) in models.items():
        network = backbone(save(model, tmp_path / name))
        assert network.size == 32 and not network.training
        assert network(torch.rand(2, 3, 32, 32) * 255).shape == (2, *shape), name


def test_patches_stay_in_their_places(vit):
    # With other pixels in one corner, the cell of that corner changes most.
    network = backbone(vit)
    plain = torch.full((1, 3, 32, 32), 100.0)
    marked = plain.clone()
    marked[..., 24:, :8] = 255
    change = (network(marked) - network(plain)).norm(dim=1)[0]
    assert change.argmax().item() == 3 * 4 + 0


def test_the_network_in_a_package():
    pytest.importorskip("efficientnet_lite_pytorch")
    network = backbone(LITE, size=64)
    maps = network(torch.full((1, 3, 64, 64), 127.0))
    assert maps.shape == (1, 1280, 2, 2) and maps.min() >= 0 and maps.max() <= 6  # ReLU6
    assert backbone(LITE).size == 260


def test_no_network():
    with pytest.raises(ValueError, match=r"backbone=/nowhere cannot be loaded.*hub name"):
        backbone("/nowhere")
