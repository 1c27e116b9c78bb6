"""From the files of ECCV Caption and Crisscrossed Captions, as downloaded, to a test table."""

import json

import numpy as np
import pytest
from cli import run

from itm.app.splits import split_tables
from itm.data.layout import read_split
from itm.features.convert import write_data_folder
from itm.features.sentences import read_sentences

IMAGES = [391895, 60623, 483108, 384213]  # in the order of Karpathy's file
CAPTIONS = [[770337 + 10 * row + i for i in range(5)] for row in range(len(IMAGES))]


def eccv_caption(folder):
    """Write the `data` folder of the package eccv-caption."""
    folder.mkdir()
    np.save(folder / "coco_test_ids.npy", np.array(CAPTIONS).ravel())
    own = dict(zip(IMAGES, CAPTIONS, strict=True))
    tables = {
        "original_image_to_caption": own,
        "original_caption_to_image": {c: [i] for i, cs in own.items() for c in cs},
    }
    more = {**own, IMAGES[0]: [*CAPTIONS[0], CAPTIONS[1][0]]}
    for name in ("eccv", "cxc"):
        tables[f"{name}_image_to_caption"] = more
        tables[f"{name}_caption_to_image"] = {
            c: [i for i, cs in more.items() if c in cs] for cs in CAPTIONS for c in cs
        }
    for name, table in tables.items():
        (folder / f"{name}.json").write_text(json.dumps({str(k): v for k, v in table.items()}))


def crisscrossed(folder):
    """Write the folder `data` of the release of Crisscrossed Captions."""
    (folder / "data").mkdir(parents=True)
    caption, image = "COCO_val2014:sentid:{}".format, "COCO_val2014_{:012d}.jpg".format
    for split in ("val", "test"):
        rows = {
            "sits": ("caption,image", caption(CAPTIONS[0][0]), image(IMAGES[1]), "c2i_intrasim"),
            "sis": ("image1,image2", image(IMAGES[0]), image(IMAGES[1]), "i2i_csim"),
            "sts": ("caption1,caption2", caption(7), caption(9), "c2c_cocaption"),
        }
        for name, (header, one, other, method) in rows.items():
            text = f"{header},agg_score,sampling_method\n{one},{other},2.2,{method}\n"
            (folder / "data" / f"{name}_{split}.csv").write_text(text)


def write_testall(folder, order=range(4), split="testall"):
    """Convert features and Karpathy's file, whose test images become `testall`."""
    features, text = folder / "features", folder / "dataset_coco.json"
    features.mkdir(exist_ok=True)
    images = []
    for row in order:
        name = f"COCO_val2014_{IMAGES[row]:012d}.jpg"
        np.save(features / f"{IMAGES[row]}.npy", np.random.default_rng(row).random((3, 6)))
        sentences = [{"raw": f"Caption {i} of {row}.", "sentid": i} for i in CAPTIONS[row]]
        images.append({"filename": name, "split": "test", "sentences": sentences})
    text.write_text(json.dumps({"images": images}))
    lists = {split: folder / "names.txt"}
    lists[split].write_text("".join(f"{image['filename']}\n" for image in images))
    out = folder / "data"
    write_data_folder("arrays", features, text, out, lists)
    np.save(folder / "scores.npy", np.eye(4, dtype=np.float32).repeat(5, 1))
    return out


def test_eccv_captions_tables_become_a_test_table(tmp_path):
    eccv_caption(tmp_path / "tables (1)")
    root = write_testall(tmp_path)
    run(
        "evaluate", "similarity=scores.npy", "data=flickr8k", f"data.root={root}",
        "data.split=testall", "eccv=tables (1)", "plot=false", "hydra.run.dir=out", cwd=tmp_path,
    )  # fmt: skip
    (row,) = json.loads((tmp_path / "out" / "report.json").read_text())["results"].values()
    assert row["i2t_eccv_r1"] == row["t2i_cxc_r1"] == 100
    # Of the six right captions of the first image, one is the first of the next image, which has
    # the same score as the other wrong captions and the lowest number.
    assert row["i2t_eccv_map_at_r"] == 100
    assert "i2t_coco_1k_r1" not in row


@pytest.mark.parametrize(
    ("order", "split", "message"),
    [
        ([1, 0, 2, 3], "testall", "image 0 is COCO_val2014_000000060623.jpg, but 391895 in the t"),
        (range(4), "dev", None),  # judged although of that name: the ids say what it is
    ],
)
def test_judged_images_in_another_order_are_refused(tmp_path, order, split, message, capsys):
    eccv_caption(tmp_path / "tables")
    root = write_testall(tmp_path, order, split)
    if message is None:
        assert len(split_tables(read_split(root, split), tmp_path / "tables").image_ids) == 4
    else:
        with pytest.raises(ValueError, match=message):
            split_tables(read_split(root, split), tmp_path / "tables")
    (root / f"{split}_ids.txt").unlink()
    if split == "dev":
        with pytest.raises(ValueError, match="COCO's test images, not those of split dev"):
            split_tables(read_split(root, split), tmp_path / "tables")
    else:
        split_tables(read_split(root, split), tmp_path / "tables")
        assert "the order of the images is taken to be that of SCAN" in capsys.readouterr().out


def test_crisscrossed_captions_as_released_are_named(tmp_path):
    eccv_caption(tmp_path / "tables")
    crisscrossed(tmp_path / "Crisscrossed-Captions")
    split = read_split(write_testall(tmp_path), "testall")
    for folder in ("Crisscrossed-Captions", "Crisscrossed-Captions/data"):
        with pytest.raises(ValueError, match="of Crisscrossed Captions as released; its judgem"):
            split_tables(split, tmp_path / folder)
    for name, message in {
        "sits": "captions are names or numbers, such as 'COCO_val2014:sentid:770337'",
        "sis": "sis_test.csv:1: the header .* is not understood",
        "sts": "sts_test.csv:1: the header .* is not understood",
    }.items():
        with pytest.raises(ValueError, match=message):
            read_sentences(tmp_path / "Crisscrossed-Captions" / "data" / f"{name}_test.csv")
