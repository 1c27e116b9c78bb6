"""Every reader of the library on damaged files: a value, or an error that names the file.

Each input is a small valid file with up to four random changes. The readers run in a process of
their own, so that a crash, a hang or a huge allocation is an outcome like any other.
"""

import base64
import csv
import json
import os
import pickle
import random
import resource
import signal
import sys
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from tensorflow_file import HEADER, entry, table

import itm
from itm.data.layout import read_array, read_captions, read_split
from itm.features.arrays import read_arrays as read_folder
from itm.features.hdf5 import read_hdf5
from itm.features.sentences import read_sentences
from itm.features.tsv import COLUMNS, read_tsv
from itm.metrics.eccv import judge, load_tables
from itm.metrics.pmrp import category_codes
from itm.metrics.ranking import topk
from itm.models import SCAN
from itm.phrases.files import read_phrases
from itm.published.convert import save_published
from itm.published.files import read_checkpoint
from itm.published.tensorflow import read_variables
from itm.published.vocabulary import read_vocabulary
from itm.relevance import CiderIndex
from itm.runs.history import find_runs
from itm.text.concepts import Concepts
from itm.text.labels import Labels
from itm.text.vocabulary import SPECIALS, Vocabulary
from itm.text.word_vectors import word_vectors
from itm.training.checkpoint_files import CheckpointFiles
from itm.utils.archive import read_npz
from itm.utils.manifest import read_manifest
from itm.utils.readers import read_json
from itm.utils.safe_pickle import read_arrays
from itm.utils.torch_files import read_torch

SECONDS, MEMORY = 20, 4 * 2**30  # that one input may take
WORDS = [*SPECIALS, "a", "dog", "runs"]


def small():
    torch.manual_seed(0)
    matcher = SCAN(vocab_size=7, img_dim=4, word_dim=3, embed_dim=5)
    matcher.vocab = Vocabulary(WORDS)
    return matcher.eval()


def unsigned(folder, name):
    """Leave out the checksums: hostile files bring the right ones."""
    content = json.loads((folder / name).read_text())
    plain = {key: value for key, value in content.items() if key not in ("files", "crc32")}
    assert plain != content
    (folder / name).write_text(json.dumps(plain))
    return folder


def unsealed(content, folder, name):
    """Save without a checksum."""
    content.save(folder / name)
    return unsigned(folder, name) / name


def saved(folder, signed=False):
    folder = small().save_pretrained(folder / "saved")
    return folder if signed else unsigned(folder, "config.json")


def index(folder, signed=False):
    matcher, features = small(), np.ones((3, 2, 4), np.float32)
    captions = ["a dog", "a dog runs", "runs"]
    folder = itm.Index(matcher, features, captions=captions).save(folder / "index")
    if not signed:
        unsigned(folder, "index.json")
        unsigned(folder / "matcher", "config.json")
    return folder


def split(folder):
    np.save(folder / "test_ims.npy", np.random.default_rng(0).random((3, 2, 4), np.float32))
    np.save(folder / "test_boxes.npy", np.full((3, 2, 4), 0.5, np.float32))
    (folder / "test_caps.txt").write_text("a dog\n" * 3)
    (folder / "test_ids.txt").write_text("1\n2\n3\n")
    return folder


def text(folder, name, content):
    (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))
    return folder / name


def run_folder(folder):
    results = {"test/rsum": 300.0, "test/i2t_r1": 50.0, "split": "test", "root": "x"}
    text(folder, "results.json", {**results, "images": 3, "protocol": "full"})
    (folder / ".hydra").mkdir()
    text(folder / ".hydra", "config.yaml", "model: {a: 1, b: [1, 2]}\nseed: 1\n")
    text(folder / ".hydra", "hydra.yaml", "hydra: {runtime: {choices: {model: scan}}}\n")
    text(folder, "run.json", {"overrides": []})
    (folder / "csv").mkdir()
    text(folder / "csv", "metrics.csv", "step,val/rsum\n1,2.5\n2,3\n")
    np.savez_compressed(folder / "ranks.npz", **{k: np.arange(3) for k in ("i2t", "t2i", "image")})
    return folder


def evaluation_folder(folder):
    """Without results of a training, which would be found if only the report is damaged."""
    text(folder, "report.json", {"results": {"scan": {"rsum": 1.0}}, "checkpoints": ["x.ckpt"]})
    return folder


def hdf5(folder):
    h5py = pytest.importorskip("h5py")
    with h5py.File(folder / "f.h5", "w") as file:
        file["features"], file["boxes"] = np.ones((2, 3, 4)), np.ones((2, 3, 4))
        # Not of variable length: libhdf5 may loop forever in a damaged heap of such strings.
        file["ids"] = np.array([b"a", b"b"])
    return folder / "f.h5"


def tsv(folder):
    code = {
        k: base64.b64encode(np.ones((2, 4), np.float32)).decode() for k in ("features", "boxes")
    }
    row = {"image_id": "1", "image_w": "9", "image_h": "9", "num_boxes": "2", **code}
    with (folder / "f.tsv").open("w") as file:
        csv.DictWriter(file, COLUMNS[6], delimiter="\t").writerow(row)
    return folder / "f.tsv"


def arrays(folder):
    (folder / "arrays").mkdir()
    np.savez(folder / "arrays/1.npz", features=np.ones((2, 4)), boxes=np.ones((2, 4)))
    return folder / "arrays"


def picture(folder, kind, **options):
    image = pytest.importorskip("PIL.Image")
    image.new("RGB", (8, 8), (9, 99, 200)).save(folder / f"p.{kind}", **options)
    return folder / f"p.{kind}"


def profile():
    """Make a colour profile of another name than sRGB, whose pictures are converted."""
    cms = pytest.importorskip("PIL.ImageCms")
    data = cms.ImageCmsProfile(cms.createProfile("sRGB")).tobytes()
    return data.replace(b"s\0R\0G\0B", b"o\0t\0h\0r").replace(b"sRGB", b"othr")


def pixels(path):
    from itm.utils.picture_files import read_picture  # late: Pillow is optional

    return read_picture(path)


def phrases(folder, kind):
    found = split(folder)
    if kind == "lines":
        line = {
            "image": 0,
            "phrase": "a dog",
            "boxes": [[0, 0, 1, 1]],
            "caption": 0,
            "span": [0, 2],
        }
        path = text(folder, "test_phrases.jsonl", line)
    elif kind == "entities":
        for name in ("Sentences", "Annotations"):
            (folder / name).mkdir()
        for name in "123":
            text(folder / "Sentences", f"{name}.txt", "[/EN#1/people A dog] runs .\n")
            size = "<size><width>9</width><height>9</height></size>"
            box = "<xmin>1</xmin><ymin>1</ymin><xmax>5</xmax><ymax>5</ymax>"
            thing = f"<object><name>1</name><bndbox>{box}</bndbox></object>"
            text(folder / "Annotations", f"{name}.xml", f"<annotation>{size}{thing}</annotation>")
        path = folder
    else:
        boxes = [{"id": 1, "bbox": [0, 0, 5, 5]}]
        images = [{"id": 1, "file_name": "1.jpg", "width": 9, "height": 9}]
        text(folder, "instances.json", {"annotations": boxes, "images": images})
        refs = [{"image_id": 1, "ann_id": 1, "sentences": [{"sent": "a dog"}]}]
        (folder / "refs(x).p").write_bytes(pickle.dumps(refs))
        path = folder
    return path, read_split(found, "test")


def checkpoint(folder, **options):
    matcher = small()
    content = {"state_dict": matcher.state_dict(), "hyper_parameters": dict(matcher.hparams)}
    matcher.on_save_checkpoint(content)
    torch.save(content, folder / "best.ckpt", **options)
    return folder / "best.ckpt"


def published(folder, name):
    if name == "npz":
        np.savez(folder / "m.npz", w=np.ones((2, 3)), **{"opt/a": np.array(1)})
        return folder / "m.npz"
    save_published(small(), folder / "m.pth.tar")
    if name == "zip":
        content = torch.load(folder / "m.pth.tar", weights_only=False)
        torch.save(content, folder / "m.pth.tar")
    return folder / "m.pth.tar"


def tensorflow(folder):
    (folder / "m.data-00000-of-00001").write_bytes(b"\0" * 8)
    (folder / "m.index").write_bytes(table([HEADER, (0, b"w", entry())]))
    return folder / "m"


def vectors(folder):
    np.save(folder / "v.npy", np.ones((2, 3)))
    return folder / "v.npy"


def concepts(folder):
    made = Concepts(["dog", "runs"], ["OBJ", "MOT"], [1, 2], [[0, 1], [1, 0]], [[0.5], [1.0]])
    return unsealed(made, folder, "c.json")


def original_concepts(folder):
    text(folder, "category_concepts.json", {"dog": 0, "runs": 1})
    counts = {"nums": np.arange(2), "adj_all": np.ones((2, 2))}
    (folder / "a_concepts.pkl").write_bytes(pickle.dumps(counts, 2))
    groups = {"words": ["dog", "runs"], "poss": ["OBJ", "MOT"]}
    (folder / "b_concepts.pkl").write_bytes(pickle.dumps(groups, 2))
    (folder / "c_concepts.pkl").write_bytes(pickle.dumps(np.ones((2, 3)), 2))
    return folder


class Pickled:
    """Pickled under the name of the original's class."""

    def __init__(self):
        self.word2idx = {word: i for i, word in enumerate(WORDS)}


def pickled_vocabulary(folder):
    data = (
        pickle.dumps(Pickled(), 0)
        .decode()
        .replace(f"{__name__}\nPickled", "v\nVocabulary")
        .encode()
    )
    (folder / "v.pkl").write_bytes(data)
    return folder / "v.pkl"


def eccv(folder):
    folder = folder / "tables"
    folder.mkdir()
    np.save(folder / "coco_test_ids.npy", np.array([1, 2, 3]))
    text(folder, "original_caption_to_image.json", {"1": [10], "2": [10], "3": [11]})
    for name in ("cxc", "eccv"):
        text(folder, f"{name}_image_to_caption.json", {"10": [1, 2, 3], "11": [3]})
        text(folder, f"{name}_caption_to_image.json", {"1": [10], "2": [10, 11], "3": [11]})
    return folder


def judged(folder):
    tables = load_tables(folder)
    scores = np.ones((len(tables.image_ids), len(tables.caption_ids)), np.float32)
    for sides in tables.judgements.values():
        for own, side in ((scores, sides["i2t"]), (scores.T, sides["t2i"])):
            judge(topk(own, 3)[side.queries], side)


def scores(matcher):
    return matcher.score(np.ones((1, 2, 4), np.float32), ["a dog"])


KARPATHY = {"images": [{"filename": "1.jpg", "split": "train", "sentences": [{"raw": "a dog"}]}]}
READERS = {
    "captions": (lambda f: text(f, "caps.txt", "a dog\nzwei Hünde\n"), read_captions),
    "array": (vectors, lambda path: np.array(read_array(path))),
    "split": (split, lambda f: read_split(f, "test").view()[:]),
    "table of captions": (
        lambda f: text(f, "c.csv", 'image,caption\n1.jpg,"a, b"\n'), read_sentences,
    ),
    "captions by name": (lambda f: text(f, "c.txt", "1.jpg#0\ta dog\n"), read_sentences),
    "captions, JSON": (lambda f: text(f, "c.json", KARPATHY), read_sentences),
    "captions, JSON lines": (
        lambda f: text(f, "c.jsonl", {"image": "1", "caption": "a"}), read_sentences,
    ),
    "features, HDF5": (hdf5, lambda path: list(read_hdf5(path))),
    "features, TSV": (tsv, lambda path: list(read_tsv(path))),
    "features, npz": (arrays, lambda path: list(read_folder(path))),
    "picture, PNG": (lambda f: picture(f, "png"), pixels),
    "picture, JPEG": (lambda f: picture(f, "jpg"), pixels),
    "picture, GIF": (lambda f: picture(f, "gif"), pixels),
    "picture, WebP": (lambda f: picture(f, "webp"), pixels),
    "picture, colour profile": (lambda f: picture(f, "jpg", icc_profile=profile()), pixels),
    "picture, TIFF": (lambda f: picture(f, "tiff", compression="tiff_lzw"), pixels),
    "word vectors": (
        lambda f: text(f, "v.txt", "a 0.1 0.2\ndog 1 2\n"), lambda p: word_vectors(["a", "dog"], p),
    ),
    "word vectors, npy": (vectors, lambda p: word_vectors(["a", "dog"], p)),
    "phrases, lines": (lambda f: phrases(f, "lines"), lambda x: read_phrases(*x)),
    "phrases, Entities": (lambda f: phrases(f, "entities"), lambda x: read_phrases(*x)),
    "phrases, REFER": (lambda f: phrases(f, "refer"), lambda x: read_phrases(*x)),
    "vocabulary": (lambda f: small().vocab.save(f / "v.json") or f / "v.json", read_vocabulary),
    "vocabulary, pickle": (pickled_vocabulary, read_vocabulary),
    "concepts": (concepts, Concepts.load),
    "concepts, original": (original_concepts, Concepts.load),
    "labels": (lambda f: unsealed(Labels(["dog"], [1], 2), f, "l.json"), Labels.load),
    "CIDEr-D": (
        lambda f: CiderIndex(["a dog", "a cat"], [0, 1]).save(f / "c.npz") or f / "c.npz",
        CiderIndex.load,
    ),
    "JSON": (lambda f: text(f, "x.json", {"a": [1, 2.5, None]}), read_json),
    "npz": (lambda f: published(f, "npz"), read_npz),
    "pickle of arrays": (lambda f: original_concepts(f) / "a_concepts.pkl", read_arrays),
    "torch, zip": (checkpoint, read_torch),
    "torch, legacy": (lambda f: checkpoint(f, _use_new_zipfile_serialization=False), read_torch),
    "published, zip": (lambda f: published(f, "zip"), itm.from_published),
    "published, legacy": (lambda f: published(f, "legacy"), itm.from_published),
    "published, npz": (lambda f: published(f, "npz"), read_checkpoint),
    "published, TensorFlow": (tensorflow, read_variables),
    "checkpoint": (checkpoint, lambda path: scores(itm.load(path))),
    "checkpoint of Lightning": (checkpoint, CheckpointFiles().load_checkpoint),
    "saved folder": (saved, lambda path: scores(itm.load(path))),
    "index": (index, lambda path: itm.Index.load(path).search("a dog")),
    "manifest": (lambda f: saved(f, signed=True) / "config.json", read_manifest),
    "COCO instances": (
        lambda f: text(f, "i.json", {"annotations": [{"image_id": 1, "category_id": 2}]}),
        lambda path: category_codes(path, [1]),
    ),
    "ECCV tables": (eccv, judged),
    "runs": (run_folder, lambda f: find_runs([f])),
    "evaluations": (evaluation_folder, lambda f: find_runs([f])),
}  # fmt: skip


def mutated(data, rng):
    data = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        place = rng.randrange(len(data)) if data else 0
        change = rng.randrange(5)
        if change == 0:
            data[place : place + 1] = [rng.randrange(256)]
        elif change == 1:
            del data[place : place + rng.randint(1, 4)]
        elif change == 2:
            data[place:place] = bytes(rng.randrange(256) for _ in range(rng.randint(1, 4)))
        elif change == 3:
            data[place : place + 1] = rng.choice(b'0123456789[]{},:"-.\n\t \xff').to_bytes(1, "big")
        else:
            data = data[: rng.choice([place, len(data)])]
    return bytes(data)


def outcome(read, given, *names):
    """What a reader does with a file: "value", "error" or a description of anything else."""
    try:
        read(given)
    except (ValueError, OSError) as error:
        return (
            "error"
            if any(name in str(error) for name in names)
            else f"{type(error).__name__} without {' or '.join(names)}: {error}"[:200]
        )
    except BaseException as error:
        return f"{type(error).__name__}: {error}"[:200]
    return "value"


def try_reader(kind, count, folder, log):
    """Read `count` damaged files; write each new outcome to `log`, then the numbers."""
    warnings.simplefilter("ignore")
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    rng = random.Random(kind)
    make, read = READERS[kind]
    given = make(folder)
    place = given[0] if isinstance(given, tuple) else given
    files = [place] if place.is_file() else sorted(p for p in place.rglob("*") if p.is_file())
    if not place.exists():
        files = [folder / "m.index"]
    whole = [file.read_bytes() for file in files]
    name = place.name if place.exists() else f"{place.name}."  # of TensorFlow: the start of all
    assert (found := outcome(read, given, name)) == "value", found
    counts = Counter()
    for number in range(count):
        at = rng.randrange(len(files))
        files[at].unlink()  # memory maps of the last one stay valid
        files[at].write_bytes(mutated(whole[at], rng))
        signal.alarm(SECONDS)
        found = outcome(read, given, name, files[at].name)
        signal.alarm(0)
        counts[found] += 1
        if found not in ("value", "error") and counts[found] == 1:
            log.write(f"input {number} of {files[at].name}: {found}\n")
            log.flush()
        files[at].unlink()
        files[at].write_bytes(whole[at])
    assert counts["error"] or count < 25, "no damage was noticed"
    log.write(f"done: {counts['value']} values, {counts['error']} errors of {count}\n")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc and forks")
@pytest.mark.parametrize("count", [25, pytest.param(20_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", READERS)
def test_a_damaged_file_is_a_value_or_an_error_that_names_it(kind, count, tmp_path):
    count = min(count, int(os.environ.get("ITM_FUZZ", count)))
    (tmp_path / "data").mkdir()
    path = tmp_path / "log"
    process = os.fork()
    if process == 0:
        code = 1
        try:
            with path.open("w") as log:
                try:
                    try_reader(kind, count, tmp_path / "data", log)
                    code = 0
                except BaseException as error:
                    log.write(f"the test itself: {error!r}\n")
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    lines = path.read_text().splitlines()
    print(kind, lines[-1] if lines else "nothing")
    assert code == 0 and len(lines) == 1, f"ended with {code}: {lines}"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
@pytest.mark.parametrize("kind", READERS)
def test_a_pipe_in_place_of_a_file_is_refused_at_once(kind, tmp_path):
    (tmp_path / "data").mkdir()
    make, read = READERS[kind]
    given = make(tmp_path / "data")
    place = given[0] if isinstance(given, tuple) else given
    files = [place] if place.is_file() else sorted(p for p in place.rglob("*") if p.is_file())
    file = files[0] if files else tmp_path / "data/m.index"
    file.unlink()
    os.mkfifo(file)
    process = os.fork()
    if process == 0:
        signal.alarm(SECONDS)  # ends the process that waits for the pipe
        warnings.simplefilter("ignore")
        found = outcome(read, given, place.name, file.name)
        os._exit(0 if found in ("value", "error") else 1)  # other files may make a value
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0
