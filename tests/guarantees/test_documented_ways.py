"""Each way of docs/features.md and docs/localise.md, from downloaded files to a test table."""

import base64
import csv
import json
import pickle

import h5py
import numpy as np
import pytest
import pytorch_lightning as pl

import itm
from itm.app.config import compose
from itm.data.layout import read_split
from itm.phrases import phrase_split, read_phrases
from itm.phrases.localisation import localise
from itm.prepare import command as prepare

RNG = np.random.default_rng(0)
SPLITS = {"train": 24, "restval": 6, "val": 6, "test": 8}
WIDTH, HEIGHT, REGIONS = 640, 480, 4
WORDS = ("dog", "cat", "bus", "tree", "boat", "man", "cake", "bird")


class Corpus:
    """Images as COCO or Flickr30K number them, with captions, features and boxes in pixels."""

    def __init__(self, coco=True, splits=SPLITS, width=6):
        self.splits = [split for split, count in splits.items() for _ in range(count)]
        self.ids = [9 + 16 * i if coco else 1000092795 + i for i in range(len(self.splits))]
        form = "COCO_{}2014_{:012d}.jpg" if coco else "{1}.jpg"
        self.names = [
            form.format("train" if split == "train" else "val", number)
            for split, number in zip(self.splits, self.ids, strict=True)
        ]
        self.captions = [
            [f"A {WORDS[(i + j) % 8]} near a {WORDS[i % 8]}." for j in range(5 + (coco and i == 1))]
            for i in range(len(self.ids))
        ]
        shape = (len(self.ids), REGIONS)
        self.features = RNG.random((*shape, width)).astype(np.float32)
        corners = np.sort(RNG.random((*shape, 2, 2)), axis=2) * [WIDTH, HEIGHT]
        self.pixels = corners.reshape(*shape, 4).astype(np.float32)

    @property
    def fractions(self):
        return self.pixels / np.array([WIDTH, HEIGHT] * 2, np.float32)

    @property
    def spatial(self):
        """x1, y1, x2, y2, width, height as fractions."""
        boxes = self.fractions
        return np.concatenate([boxes, boxes[..., 2:] - boxes[..., :2]], -1)


def cell(array):
    return base64.b64encode(np.ascontiguousarray(array, np.float32).tobytes()).decode()


# Captions ---------------------------------------------------------------------------------------


def karpathy(corpus, path):
    """Write dataset_coco.json or dataset_flickr30k.json with all of its fields."""
    images = [
        {
            "filepath": name.split("_")[1] if "_" in name else "", "filename": name, "imgid": i,
            "split": split, "cocoid": number, "sentids": list(range(len(own))),
            "sentences": [
                {"raw": text, "tokens": text.lower().rstrip(".").split(), "imgid": i, "sentid": j}
                for j, text in enumerate(own)
            ],
        }
        for i, (name, split, number, own) in enumerate(
            zip(corpus.names, corpus.splits, corpus.ids, corpus.captions, strict=True)
        )
    ]  # fmt: skip
    path.write_text(json.dumps({"dataset": "coco", "images": images}))


# Features ---------------------------------------------------------------------------------------


def bottom_up_tsv(corpus, folder):
    """trainval_resnet101_faster_rcnn_genome_36.tsv: id, w, h, n, boxes, features."""
    lines = [
        "\t".join([str(n), str(WIDTH), str(HEIGHT), str(REGIONS), cell(b), cell(f)])
        for n, b, f in zip(corpus.ids, corpus.pixels, corpus.features, strict=True)
    ]
    path = folder / "trainval_resnet101_faster_rcnn_genome_36.tsv"
    path.write_text("\n".join(lines) + "\n")
    return "tsv", path


def lxmert_tsv(corpus, folder):
    """train2014_obj36.tsv: ten columns, the height first."""
    lines = [
        "\t".join([
            name.removesuffix(".jpg"), str(HEIGHT), str(WIDTH), cell(np.ones(4)), cell(np.ones(4)),
            cell(np.ones(4)), cell(np.ones(4)), str(REGIONS), cell(b), cell(f),
        ])
        for name, b, f in zip(corpus.names, corpus.pixels, corpus.features, strict=True)
    ]  # fmt: skip
    path = folder / "train2014_obj36.tsv"
    path.write_text("\n".join(lines) + "\n")
    return "tsv", path


def vinvl_tsv(corpus, folder):
    """features.tsv: id, n, float32 (n, 2054); beside it predictions.tsv and imageid2idx.json."""
    wide = np.tile(corpus.features, (1, 1, 342))[..., :2048]
    both = np.concatenate([wide, corpus.spatial], -1)
    path = folder / "features.tsv"
    lines = [f"{n}\t{REGIONS}\t{cell(f)}\n" for n, f in zip(corpus.ids, both, strict=True)]
    path.write_text("".join(lines))
    corpus.features = wide
    return "tsv", path


def vinvl_json(corpus, folder):
    """features.tsv: id, {"num_boxes", "features"}."""
    _, path = vinvl_tsv(corpus, folder)
    rows = [line.split("\t") for line in path.read_text().splitlines()]
    lines = [f"{n}\t{json.dumps({'num_boxes': int(k), 'features': f})}\n" for n, k, f in rows]
    path.write_text("".join(lines))
    return "tsv", path


def milvlg_npz(corpus, folder):
    """One .npz per image of bottom-up-attention.pytorch, with a pickled dict beside the arrays."""
    (folder / "npz").mkdir()
    for name, b, f in zip(corpus.names, corpus.pixels, corpus.features, strict=True):
        np.savez(
            folder / "npz" / f"{name}.npz", x=f, bbox=b, num_bbox=REGIONS, image_h=HEIGHT,
            image_w=WIDTH, info=np.array({"objects_id": [1], "attrs_id": [2]}, dtype=object),
        )  # fmt: skip
    return "arrays", folder / "npz"


def npy_per_image(corpus, folder):
    """cocobu_att/ID.npy of the captioning code bases: features alone."""
    (folder / "cocobu_att").mkdir()
    for number, f in zip(corpus.ids, corpus.features, strict=True):
        np.save(folder / "cocobu_att" / f"{number}.npy", f)
    corpus.pixels = None
    return "arrays", folder / "cocobu_att"


def converted_lmdb(corpus, folder):
    """What the loop of docs/features.md makes of an LMDB file."""
    (folder / "arrays").mkdir()
    for number, b, f in zip(corpus.ids, corpus.pixels, corpus.features, strict=True):
        item = {"features": f, "boxes": b, "image_w": WIDTH, "image_h": HEIGHT}
        np.savez(folder / "arrays" / f"{number}.npz", **item)
    return "arrays", folder / "arrays"


def h5_rows(corpus, folder):
    """One array of all images, and their ids."""
    with h5py.File(folder / "features.h5", "w") as file:
        file["features"], file["boxes"] = corpus.features, corpus.fractions
        file["ids"] = [name.encode() for name in corpus.names]
    return "hdf5", folder / "features.h5"


def h5_m2(corpus, folder):
    """coco_detections.hdf5 of the meshed-memory transformer: three arrays per image."""
    with h5py.File(folder / "coco_detections.hdf5", "w") as file:
        for number, b, f in zip(corpus.ids, corpus.fractions, corpus.features, strict=True):
            file[f"{number}_features"], file[f"{number}_boxes"] = f, b
            file[f"{number}_cls_prob"] = np.ones((REGIONS, 1601), np.float32)
    return "hdf5", folder / "coco_detections.hdf5"


def h5_packed(corpus, folder):
    """train.hdf5 and train_imgid2idx.pkl of ban-vqa: rows of all images one after another."""
    with h5py.File(folder / "train.hdf5", "w") as file:
        file["image_features"] = np.concatenate(corpus.features)
        file["image_bb"] = np.concatenate(corpus.pixels)
        file["spatial_features"] = np.concatenate(corpus.spatial)
        starts = np.arange(len(corpus.ids)) * REGIONS
        file["pos_boxes"] = np.stack([starts, starts + REGIONS], 1)
    rows = {number: row for row, number in enumerate(corpus.ids)}
    (folder / "train_imgid2idx.pkl").write_bytes(pickle.dumps(rows, 2))
    return "hdf5", folder / "train.hdf5"


def h5_fixed(corpus, folder):
    """train36.hdf5 and train36_imgid2idx.pkl of bottom-up-attention-vqa: 36 regions each."""
    with h5py.File(folder / "train36.hdf5", "w") as file:
        file["image_features"], file["image_bb"] = corpus.features, corpus.pixels
        file["spatial_features"] = corpus.spatial
    rows = {number: row for row, number in enumerate(corpus.ids)}
    (folder / "train36_imgid2idx.pkl").write_bytes(pickle.dumps(rows, 2))
    return "hdf5", folder / "train36.hdf5"


def h5_groups(corpus, folder):
    """A group per image, its size as attributes."""
    with h5py.File(folder / "groups.h5", "w") as file:
        for name, b, f in zip(corpus.names, corpus.pixels, corpus.features, strict=True):
            group = file.create_group(name)
            group["features"], group["bbox"] = f, b
            group.attrs["image_w"], group.attrs["image_h"] = WIDTH, HEIGHT
    return "hdf5", folder / "groups.h5"


LAYOUTS = (
    bottom_up_tsv, lxmert_tsv, vinvl_tsv, vinvl_json, milvlg_npz, npy_per_image, converted_lmdb,
    h5_rows, h5_m2, h5_packed, h5_fixed, h5_groups,
)  # fmt: skip


def convert(corpus, folder, write, captions="dataset_coco.json"):
    """Call `itm.prepare from=... source=... captions=... out=...`; its folder."""
    karpathy(corpus, folder / captions)
    kind, source = write(corpus, folder)
    given = [f"from={kind}", f"source={source}", f"captions={folder / captions}", "write=[]"]
    prepare(compose([*given, f"out={folder / 'data'}", "data=flickr8k"], "prepare"))
    return folder / "data"


def test_table(matcher, data):
    """Train for a step, then test: the metrics of the table."""
    options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = pl.Trainer(
        max_epochs=1, accelerator="cpu", limit_train_batches=1, limit_val_batches=0,
        enable_model_summary=False, num_sanity_val_steps=0, **options,
    )  # fmt: skip
    trainer.fit(matcher, datamodule=data)
    return trainer.test(matcher, datamodule=data, verbose=False)[0]


test_table.__test__ = False


def build(root, *overrides, data="flickr8k", loss="triplet"):
    small = ["model.embed_dim=8", "model.word_dim=8", "model.hidden_dim=8", "data.min_count=1"]
    options = [f"data.root={root}", "data.batch_size=16", "data.workers=0", *small, *overrides]
    return itm.build("two_branch_embedding", loss, data, options)


@pytest.mark.parametrize("write", LAYOUTS, ids=lambda layout: layout.__name__)
def test_published_features_become_a_test_table(tmp_path, write):
    corpus = Corpus()
    root = convert(corpus, tmp_path, write)
    for name, splits in {"train": ("train", "restval"), "dev": ("val",), "test": ("test",)}.items():
        split, rows = read_split(root, name), np.flatnonzero(np.isin(corpus.splits, splits))
        assert split.ids == [corpus.names[row] for row in rows]
        assert split.references() == [corpus.captions[row] for row in rows]
        np.testing.assert_array_equal(split.features, corpus.features[rows].astype(np.float16))
        if corpus.pixels is None:
            assert split.boxes is None
        else:
            np.testing.assert_allclose(split.boxes, corpus.fractions[rows], atol=1e-6)
    matcher = build(root)
    assert 0 < test_table(matcher, matcher.data)["test/rsum"] <= 600


def test_coco_from_bottom_up_features_and_karpathys_captions(tmp_path):
    corpus = Corpus(splits={"train": 20, "val": 8, "test": 5000}, width=4)
    root = convert(corpus, tmp_path, bottom_up_tsv)
    with pytest.raises(FileNotFoundError, match="read the test split .* data.test=test"):
        build(root, data="coco").data.split("test")
    matcher = build(root, "data.test=test", data="coco")
    found = test_table(matcher, matcher.data)
    assert 0 < found["test/rsum"] < 600


def test_flickr30k_from_token_file_lists_and_features(tmp_path):
    corpus = Corpus(coco=False)
    lines = [
        f"{name}#{j}\t{text}\n"
        for name, own in zip(corpus.names, corpus.captions, strict=True)
        for j, text in enumerate(own)
    ]
    (tmp_path / "results_20130124.token").write_text("".join(lines))
    lists = []
    for name, splits in {"train": ("train", "restval"), "dev": ("val",), "test": ("test",)}.items():
        rows = [n for n, s in zip(corpus.ids, corpus.splits, strict=True) if s in splits]
        (tmp_path / f"{name}.txt").write_text("".join(f"{n}\n" for n in rows))  # as Entities' lists
        lists.append(f"splits.{name}={tmp_path / name}.txt")
    kind, source = npy_per_image(corpus, tmp_path)
    given = [f"from={kind}", f"source={source}", f"captions={tmp_path / 'results_20130124.token'}"]
    out = [f"out={tmp_path / 'data'}", "write=[vocab]", "data=flickr8k"]
    prepare(compose([*given, *lists, *out], "prepare"))
    assert read_split(tmp_path / "data", "test").ids == [
        n for n, s in zip(corpus.names, corpus.splits, strict=True) if s == "test"
    ]
    matcher = build(tmp_path / "data")
    assert test_table(matcher, matcher.data)["test/rsum"] > 0


# Tables of captions, by the names and columns of their downloads ----------------------------------


def pairs_of(corpus):
    return [(n, j, t) for n, own in zip(corpus.names, corpus.captions, strict=True)
            for j, t in enumerate(own)]  # fmt: skip


def write_rows(path, header, rows, **options):
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, **options).writerows([header, *rows])
    return path, {}


def lists_of(corpus, folder, form):
    """Write a list of pictures for each split."""
    given = {}
    for name, splits in {"train": ("train", "restval"), "dev": ("val",), "test": ("test",)}.items():
        rows = [n for n, s in zip(corpus.names, corpus.splits, strict=True) if s in splits]
        given[name] = folder / form.format(name)
        given[name].write_text("".join(f"{n}\n" for n in rows))
    return given


def kaggle_flickr30k(corpus, folder):
    """flickr30k_images/results.csv of Kaggle."""
    lines = [f"{n}| {j}| {t}\n" for n, j, t in pairs_of(corpus)]
    lines[3] = lines[3].replace("| ", "   ").replace("   ", "| ", 1)  # as one published row
    path = folder / "results.csv"
    path.write_text("image_name| comment_number| comment\n" + "".join(lines))
    return path, {}


def huggingface_flickr30k(corpus, folder):
    """flickr_annotations_30k.csv of nlphuji/flickr30k: a JSON list per row, Karpathy's splits."""
    split = {"restval": "train"}
    rows = [
        (json.dumps(own), json.dumps([*range(len(own))]), split.get(s, s), n, i)
        for i, (n, s, own) in enumerate(
            zip(corpus.names, corpus.splits, corpus.captions, strict=True)
        )
    ]
    header = ["raw", "sentids", "split", "filename", "img_id"]
    return write_rows(folder / "flickr_annotations_30k.csv", header, rows)


def kaggle_flickr8k(corpus, folder):
    """captions.txt of Kaggle's Flickr8k: quotes only where a caption holds a comma."""
    corpus.captions[0][0] = "A dog , a cat , and a bus ."
    rows = [(n, t) for n, _, t in pairs_of(corpus)]
    return write_rows(folder / "captions.txt", ["image", "caption"], rows)


def flickr8k(corpus, folder):
    """Flickr8k.token.txt and Flickr_8k.trainImages.txt, devImages, testImages."""
    lines = [f"{n}#{j}\t{t}\n" for n, j, t in pairs_of(corpus)]
    (folder / "Flickr8k.token.txt").write_text("".join(lines))
    return folder / "Flickr8k.token.txt", lists_of(corpus, folder, "Flickr_8k.{}Images.txt")


def open_clip(corpus, folder):
    """The .csv of open_clip: TABs between filepath and title."""
    rows = [(f"/data/flickr/{n}", t) for n, _, t in pairs_of(corpus)]
    return write_rows(folder / "train_data.csv", ["filepath", "title"], rows, delimiter="\t")


def metadata_csv(corpus, folder):
    """metadata.csv of a Hugging Face image folder."""
    rows = [(f"images/{n}", t) for n, _, t in pairs_of(corpus)]
    return write_rows(folder / "metadata.csv", ["file_name", "text"], rows)


def metadata_jsonl(corpus, folder):
    """metadata.jsonl of a Hugging Face image folder."""
    lines = [json.dumps({"file_name": n, "text": t}) for n, _, t in pairs_of(corpus)]
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    return folder / "metadata.jsonl", {}


def coco_annotations(corpus, folder):
    """captions_train2014.json of COCO."""
    images = [{"id": i, "file_name": n} for i, n in enumerate(corpus.names)]
    number = {n: i for i, n in enumerate(corpus.names)}
    notes = [
        {"id": k, "image_id": number[n], "caption": t}
        for k, (n, _, t) in enumerate(pairs_of(corpus))
    ]
    path = folder / "captions_train2014.json"
    path.write_text(json.dumps({"info": {}, "images": images, "annotations": notes}))
    return path, {}


TABLES = (
    kaggle_flickr30k, huggingface_flickr30k, kaggle_flickr8k, flickr8k, open_clip, metadata_csv,
    metadata_jsonl, coco_annotations,
)  # fmt: skip


@pytest.mark.parametrize("write", TABLES, ids=lambda table: table.__name__)
def test_published_tables_of_captions_become_a_test_table(tmp_path, write):
    corpus = Corpus(coco=False)
    if "flickr8k" in write.__name__:
        corpus.names = [f"{number}_{i:03x}b08cb0e.jpg" for i, number in enumerate(corpus.ids)]
    (tmp_path / "features").mkdir()
    for name, features in zip(corpus.names, corpus.features, strict=True):
        np.save(tmp_path / "features" / f"{name.removesuffix('.jpg')}.npy", features)
    captions, lists = write(corpus, tmp_path)
    given = [f"source={tmp_path / 'features'}", f"captions={captions}", f"out={tmp_path / 'data'}"]
    given += [f"splits.{name}={path}" for name, path in lists.items()]
    prepare(compose(["from=arrays", *given, "write=[]", "data=flickr8k"], "prepare"))
    found = {}
    for name in ("train", "dev", "test"):
        split = read_split(tmp_path / "data", name)
        rows = zip(split.ids, split.references(), split.features, strict=True)
        found |= {image.rpartition("/")[2]: (own, features) for image, own, features in rows}
        if lists or write is huggingface_flickr30k:
            wanted = {"train": ("train", "restval"), "dev": ("val",)}.get(name, ("test",))
            pairs = zip(corpus.names, corpus.splits, strict=True)
            assert split.ids == [n for n, s in pairs if s in wanted]
    assert sorted(found) == sorted(corpus.names)
    for name, own, features in zip(corpus.names, corpus.captions, corpus.features, strict=True):
        assert found[name][0] == own
        np.testing.assert_array_equal(found[name][1], features.astype(np.float16))
    matcher = build(tmp_path / "data")
    assert 0 < test_table(matcher, matcher.data)["test/rsum"] <= 600


# Phrases ----------------------------------------------------------------------------------------


def entities(corpus, folder):
    """Sentences/ID.txt and Annotations/ID.xml of Flickr30K Entities; the first region is meant."""
    for name in ("Sentences", "Annotations"):
        (folder / name).mkdir(parents=True)
    for number, boxes in zip(corpus.ids, corpus.pixels, strict=True):
        text = "[/EN#1/animals A dog] near [/EN#2/other a tree] .\n"
        (folder / "Sentences" / f"{number}.txt").write_text(text * 5)
        ends = np.maximum(np.rint(boxes[0]).astype(int), 1)
        tags = zip(("xmin", "ymin", "xmax", "ymax"), ends, strict=True)
        box = "".join(f"<{tag}>{value}</{tag}>" for tag, value in tags)
        (folder / "Annotations" / f"{number}.xml").write_text(
            f"<annotation><filename>{number}.jpg</filename><size><width>{WIDTH}</width><height>"
            f"{HEIGHT}</height><depth>3</depth></size><object><name>1</name><bndbox>{box}</bndbox>"
            "</object><object><name>2</name><nobndbox>1</nobndbox></object></annotation>"
        )
    return folder, corpus.ids


def refer(corpus, folder):
    """instances.json, refs(google).p and refs(unc).p of RefCOCO."""
    folder.mkdir()
    images = [
        {"id": n, "file_name": name, "width": WIDTH, "height": HEIGHT}
        for n, name in zip(corpus.ids, corpus.names, strict=True)
    ]
    corners = [[float(x) for x in boxes[0]] for boxes in corpus.pixels]
    annotations = [
        {"id": 7 * n, "image_id": n, "category_id": 1, "bbox": [a, b, c - a, d - b]}
        for n, (a, b, c, d) in zip(corpus.ids, corners, strict=True)
    ]
    content = {"images": images, "annotations": annotations, "categories": []}
    (folder / "instances.json").write_text(json.dumps(content))
    refs = [
        {
            "ref_id": i, "ann_id": 7 * n, "image_id": n, "split": "testA", "category_id": 1,
            "file_name": f"COCO_train2014_{n:012d}_{i}.jpg", "sent_ids": [i],
            "sentences": [{"raw": "Dog!", "sent": "dog", "sent_id": i, "tokens": ["dog"]}],
        }
        for i, n in enumerate(corpus.ids)
    ]  # fmt: skip
    for name in ("refs(google).p", "refs(unc).p"):
        (folder / name).write_bytes(pickle.dumps(refs, 2))
    return folder / "refs(unc).p", corpus.ids


@pytest.mark.parametrize(("write", "coco"), [(entities, False), (refer, True)])
def test_published_phrases_become_a_test_table(tmp_path, write, coco):
    corpus = Corpus(coco=coco)
    corpus.pixels[..., 2:] = np.minimum(corpus.pixels[..., 2:] + 40, [WIDTH, HEIGHT])
    root = convert(corpus, tmp_path, h5_groups, "dataset.json")
    path, _ = write(corpus, tmp_path / "phrases")
    matcher = build(root, "model.level=region")
    test_table(matcher, matcher.data)
    split = read_split(root, "test")
    phrases = phrase_split(split, read_phrases(path, split))
    report = localise(matcher, phrases)
    assert report["all"]["phrases"] == len(split.ids) * (1 if coco else 5)
    assert report["all"]["bound"] == 100 and 0 <= report["all"]["r1"] <= 100
    if coco:  # the folder has two files, and the message names one to give
        with pytest.raises(ValueError, match=r"2 files refs\(NAME\)\.p .*give the path of one"):
            read_phrases(path.parent, split)


# Data folders of other code bases ---------------------------------------------------------------


def gsmn(corpus, folder, split, rows):
    """precomp of GSMN, also used by RCAR: rows of dev and test five times, boxes in pixels."""
    rows = rows if split == "train" else np.repeat(rows, 5)
    sizes = [{"image_w": WIDTH, "image_h": HEIGHT} for _ in rows]
    np.save(folder / f"{split}_ims.npy", corpus.features[rows])
    np.save(folder / f"{split}_ims_bbx.npy", corpus.pixels[rows])
    np.save(folder / f"{split}_ims_size.npy", np.array(sizes), allow_pickle=True)
    (folder / f"{split}_caps.json").write_text("[]")  # parses of the captions
    captions = [c for row in dict.fromkeys(rows.tolist()) for c in five(corpus, row)]
    write_lines(folder / f"{split}_caps.txt", captions)


def camera(corpus, folder, split, rows):
    """coco_precomp of CAMERA and DIME: boxes and sizes as arrays."""
    np.save(folder / f"{split}_ims.npy", corpus.features[rows])
    np.save(folder / f"{split}_boxes.npy", corpus.pixels[rows])
    np.save(folder / f"{split}_img_sizes.npy", np.tile([WIDTH, HEIGHT], (len(rows), 1)))
    write_lines(folder / f"{split}_ids.txt", [corpus.ids[row] for row in rows])
    write_lines(folder / f"{split}_caps.txt", [c for row in rows for c in five(corpus, row)])


def cc152k(corpus, folder, split, rows):
    """cc152k_precomp of NCR: id<TAB>caption, one caption an image, ids in a file of their own."""
    np.save(folder / f"{split}_ims.npy", corpus.features[rows])
    write_lines(folder / f"{split}_ids.txt", [corpus.ids[row] for row in rows])
    table = [f"{corpus.ids[row]}\t{corpus.captions[row][0]}" for row in rows]
    write_lines(folder / f"{split}_caps.tsv", table)


def five(corpus, row):
    return corpus.captions[row][:5]


def write_lines(path, lines):
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


@pytest.mark.parametrize("layout", [gsmn, camera, cc152k], ids=lambda layout: layout.__name__)
def test_published_folders_become_a_test_table(tmp_path, layout):
    corpus = Corpus()
    names = {"train": ("train", "restval"), "dev": ("val",), "test": ("test",)}
    for name, splits in names.items():
        rows = np.flatnonzero(np.isin(corpus.splits, splits))
        layout(corpus, tmp_path, name, rows)
        split = read_split(tmp_path, name)
        count = 1 if layout is cc152k else 5
        assert split.references() == [corpus.captions[row][:count] for row in rows]
        np.testing.assert_array_equal(split.features[split.row], corpus.features[rows])
        assert split.ids == (None if layout is gsmn else [str(corpus.ids[row]) for row in rows])
        if layout is not cc152k:
            np.testing.assert_array_equal(split.boxes[split.row], corpus.pixels[rows])
    matcher = build(tmp_path)
    assert 0 < test_table(matcher, matcher.data)["test/rsum"] <= 600


def test_cc152k_that_contradicts_itself_is_refused(tmp_path):
    corpus = Corpus()
    rows = np.arange(8)
    cc152k(corpus, tmp_path, "test", rows)
    (tmp_path / "test_ids.txt").unlink()
    assert read_split(tmp_path, "test").ids == [str(corpus.ids[row]) for row in rows]
    write_lines(tmp_path / "test_ids.txt", range(8))
    with pytest.raises(ValueError, match="name the images differently"):
        read_split(tmp_path, "test")
    (tmp_path / "test_ids.txt").unlink()
    write_lines(tmp_path / "test_caps.txt", ["a dog"] * 8)
    with pytest.raises(ValueError, match="test_caps.txt and test_caps.tsv; remove one"):
        read_split(tmp_path, "test")
    (tmp_path / "test_caps.txt").unlink()
    for line, message in {
        "9": "has 1 cells",
        "9\ta dog\tin": "has 3 cells",
        '9\t""': "empty id or caption",
        '9\t"a dog\n10\ta cat"': "a quote that is not closed",
    }.items():
        write_lines(tmp_path / "test_caps.tsv", [line] + ["1\ta dog"] * 7)
        with pytest.raises(ValueError, match=f"test_caps.tsv:1: .*{message}"):
            read_split(tmp_path, "test")
