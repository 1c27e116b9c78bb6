import contextlib
import dataclasses
import json
import os
import pickle
import shutil
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hostile import Hostile
from toy import MeanMatcher

import itm
from itm.data.layout import read_split
from itm.index.answers import tell_unknown
from itm.index.index import Hit
from itm.index.nearest import Nearest, choose, largest
from itm.index.stored import index_of
from itm.models import VSEPP, TwoBranchEmbedding
from itm.text.vocabulary import SPECIALS, Vocabulary
from itm.utils.errors import TakenError

SMALL = [
    "data.root.images=[40,20,30]",
    "data.min_count=1",
    "data.num_concepts=20",
    "data.num_labels=20",
    "model.embed_dim=16",
]
FAMILIES = {
    "vsrn": ["model.word_dim=8", "model.caption_dim=8", "model.caption_word_dim=8"],
    "vsepp": ["model.word_dim=8"],
    "vse_infty": ["model.word_dim=8"],
    "cvse": ["model.word_dim=8"],
    "scan_t2i": ["model.word_dim=8"],
    "scan_i2t": ["model.word_dim=8"],
    "sgr": ["model.word_dim=8", "model.sim_dim=8"],
    "saf": ["model.word_dim=8", "model.sim_dim=8"],
    "casc": ["model.word_dim=8"],
    "chan": ["model.word_dim=8"],
    "two_branch_embedding": ["model.word_dim=8", "model.hidden_dim=16"],
    "two_branch_similarity": ["model.word_dim=8", "model.hidden_dim=16"],
}
CASES = [(model, "image") for model in FAMILIES]
CASES += [(model, "region") for model in FAMILIES if "two_branch" in model]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ITM_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def build(model, *overrides):
    torch.manual_seed(0)
    matcher = itm.build(model=model, overrides=[*SMALL, *FAMILIES[model], *overrides])
    return matcher.eval(), matcher.data.test_split


def check(hits, items, scores, k):
    """Hits are k best of the scores, in order, whichever of equal ones."""
    best = np.sort(scores)[::-1][:k]
    np.testing.assert_allclose([hit.score for hit in hits], best, atol=1e-5)
    own = {}
    for item, score in zip(items, scores, strict=True):
        own.setdefault(item, []).append(score)
    assert all(np.abs(np.array(own[hit.item]) - hit.score).min() < 1e-5 for hit in hits)


@pytest.mark.parametrize("model, level", CASES)
def test_finds_what_full_scoring_finds(cache, model, level, tmp_path):
    matcher, split = build(model, *([f"model.level={level}"] if "two_branch" in model else []))
    scores = matcher.score(split.view(), split.captions)
    index = itm.Index(matcher, split)
    assert index.ids == split.ids and index.captions == split.captions
    assert matcher.ranks_by_vectors == (
        model in ("vsrn", "vsepp", "vse_infty", "cvse")
        or (model, level) == ("two_branch_embedding", "image")
    )
    index.save(tmp_path / "index")
    for found in (index, itm.Index.load(tmp_path / "index")):
        for column in (0, 7, 149):
            check(found.search(split.captions[column], top=5), split.ids, scores[:, column], 5)
        for row in (0, 29):
            check(found.search(image=split.ids[row], top=7), split.captions, scores[row], 7)
            features = split.images([row])[0]
            check(found.search(features=features, top=200), split.captions, scores[row], 150)
    assert index.recall(split.captions[:3], split.ids[:2], top=5) == 1


def test_an_order_embedding_is_searched_by_its_score(cache):
    matcher, split = build("vsrn", "model.measure=order")
    assert not matcher.ranks_by_vectors
    scores = matcher.score(split.view(), split.captions)
    index = itm.Index(matcher, split, shortlist=10)
    for column in (0, 7, 149):
        whole = itm.Index(matcher, split, shortlist=len(split.ids))
        check(whole.search(split.captions[column], 5), split.ids, scores[:, column], 5)
        check(index.search(split.captions[column], 5, exact=True), split.ids, scores[:, column], 5)


def test_the_shortlist_is_scored_exactly_and_recall_says_what_it_misses(cache):
    matcher, split = build("scan_t2i")
    scores = matcher.score(split.view(), split.captions)
    index = itm.Index(matcher, split, shortlist=6)
    vectors = matcher.embed(split.view()), matcher.embed(captions=split.captions)
    shares = []
    for column in range(10):
        near = np.argsort(-vectors[0] @ vectors[1][column])[:6]
        hits = index.search(split.captions[column], top=4)
        check(hits, [split.ids[i] for i in near], scores[near, column], 4)
        check(index.search(split.captions[column], 4, exact=True), split.ids, scores[:, column], 4)
        best = np.sort(scores[:, column])[-4]
        shares.append(np.mean([hit.score > best - 1e-5 for hit in hits]))
    assert index.recall(split.captions[:10], top=4) == pytest.approx(np.mean(shares))
    assert 0 < np.mean(shares) < 1


def test_images_with_different_numbers_of_regions_and_captions_alone(cache, tmp_path):
    matcher, split = build("scan_t2i")
    rng = np.random.default_rng(0)
    features = [rng.normal(size=(r, 64)).astype(np.float32) for r in (3, 12, 3, 5, 1, 12)]
    index = itm.Index(matcher, features, captions=split.captions[:9], batch_size=2)
    scores = matcher.score(features, split.captions[:9])
    index.save(tmp_path)
    for found in (index, itm.Index.load(tmp_path)):
        check(found.search(split.captions[3], top=6), range(6), scores[:, 3], 6)
        check(found.search(image=4, top=9), split.captions[:9], scores[4], 9)
    alone = itm.Index(matcher, captions=split.captions[:9])
    check(alone.search(features=features[3], top=2), split.captions[:9], scores[3], 2)
    with pytest.raises(ValueError, match="holds no images"):
        alone.search("a dog")


def test_sentence_vectors(cache):
    torch.manual_seed(0)
    matcher = TwoBranchEmbedding(
        img_dim=6, sentence_dim=5, hidden_dim=8, embed_dim=4, text={"name": "vectors"}
    )
    rng = np.random.default_rng(0)
    features, sentences = rng.normal(size=(9, 6)), rng.normal(size=(12, 5)).astype(np.float32)
    index = itm.Index(matcher, features, captions=sentences)
    scores = matcher.score(features, sentences)
    for query in (sentences[2], torch.from_numpy(sentences[2])):
        check(index.search(query, top=3), range(9), scores[:, 2], 3)
    check(index.search(image=8, top=3), range(12), scores[8], 3)


def test_arrays_data_modules_and_a_matcher_in_training(cache):
    torch.manual_seed(0)
    data = itm.build(model="vsrn", overrides=[*SMALL, *FAMILIES["vsrn"]]).data
    matcher = MeanMatcher(len(data.vocabulary), 64, 8)
    matcher.vocab = data.vocabulary
    matcher.train()
    split = data.test_split
    features = split.images(np.arange(30))
    one, two = itm.Index(matcher, data), itm.Index(matcher, features, split.ids)
    hits = one.search("two dogs", top=3)
    assert hits == two.search("two dogs", top=3) and matcher.training
    assert isinstance(hits[0], Hit) and hits[0].item in split.ids


def test_the_old_name_of_top_is_taken_with_a_note(cache):
    matcher, split = build("vsrn")
    index = itm.Index(matcher, split)
    with pytest.warns(
        FutureWarning, match=r"search\(k=3\) is now called Index.search\(top=3\)"
    ) as seen:
        found = index.search("two dogs", k=3)
    assert found == index.search("two dogs", 3) == index.search("two dogs", top=3)
    assert seen[0].filename == __file__
    with pytest.raises(TypeError, match="got top=3 and k=4, its former name: give top alone"):
        index.search("two dogs", top=3, k=4)
    with pytest.warns(FutureWarning, match="recall"):
        assert index.recall(split.captions[:2], k=3) == 1


# Nearest vectors ----------------------------------------------------------------------------------


def clusters(count, width, seed=0):
    torch.manual_seed(seed)
    x = torch.randn(count // 20, width).repeat(20, 1) + 0.3 * torch.randn(count // 20 * 20, width)
    return torch.nn.functional.normalize(x, dim=1)


def test_largest_takes_the_first_of_equal_scores():
    assert largest(torch.tensor([1.0, 3, 2, 3, 1, 1]), 4).tolist() == [1, 3, 2, 0]
    assert largest(torch.zeros(5), 3).tolist() == [0, 1, 2]
    assert largest(torch.zeros(0), 3).tolist() == [] == largest(torch.zeros(3), 0).tolist()
    infinite = torch.tensor([1, -torch.inf, 3, 3, torch.inf])
    assert largest(infinite, 5).tolist() == [4, 2, 3, 0, 1]  # they made all others tie


@pytest.mark.parametrize("kind", ["flat", "ivf", "hnsw"])
def test_nearest_against_all_products(kind, tmp_path):
    pytest.importorskip("faiss")
    vectors = clusters(3000, 16)
    made = Nearest(vectors, kind)
    made.save(tmp_path / "x.faiss")
    for nearest in (made, Nearest.load(tmp_path / "x.faiss", vectors)):
        assert nearest.kind == kind
        hit = 0
        for query in clusters(200, 16, seed=1)[:50]:
            truth = np.argsort(-(vectors @ query).numpy(), kind="stable")[:10]
            assert nearest.find(query, 10, exact=True).tolist() == truth.tolist()
            hit += len(set(nearest.find(query, 10).tolist()) & set(truth.tolist()))
        assert hit >= (500 if kind == "flat" else 450)
    assert sorted(made.find(vectors[0], 9999).tolist()) == list(range(3000))


def test_the_size_chooses_the_kind():
    pytest.importorskip("faiss")
    assert [choose(n) for n in (1, 50_000, 50_001, 10**6)] == ["flat", "flat", "ivf", "ivf"]


def test_without_faiss(cache, monkeypatch, tmp_path):
    matcher, split = build("vsrn")
    index = itm.Index(matcher, split, kind="ivf")
    index.save(tmp_path)
    expected = index.search(split.captions[0], exact=True)
    monkeypatch.setitem(sys.modules, "faiss", None)
    assert choose(10**6) == "flat"
    with pytest.raises(ImportError, match=r"pip install -e '\.\[search\]'"):
        itm.Index(matcher, split, kind="hnsw")
    with pytest.warns(UserWarning, match=r"s.faiss is not used.*pip install -e '\.\[search\]'"):
        found = itm.Index.load(tmp_path)
    assert found.kinds == {"images": "flat", "captions": "flat"}
    assert found.search(split.captions[0]) == expected


# Folders ------------------------------------------------------------------------------------------


def test_an_index_is_saved_over_itself(cache, tmp_path):
    pytest.importorskip("faiss")
    matcher, split = build("scan_t2i")
    itm.Index(matcher, split, kind="ivf").save(tmp_path)
    loaded = itm.Index.load(tmp_path)
    expected = loaded.search("a dog", top=30)
    loaded.save(tmp_path)  # what it is mapped from
    assert (
        loaded.search("a dog", top=30) == expected == itm.Index.load(tmp_path).search("a dog", 30)
    )
    itm.Index(matcher, split.head(3), kind="flat").save(tmp_path)
    assert not list(tmp_path.glob("*.faiss")) and len(itm.Index.load(tmp_path).ids) == 3
    assert not list(tmp_path.glob("*.unfinished"))


@pytest.fixture(scope="module")
def saved(cache, tmp_path_factory):
    matcher, split = build("scan_t2i")
    folder = tmp_path_factory.mktemp("saved") / "index"
    itm.Index(matcher, split, kind="ivf").save(folder)
    return folder


def tensors(folder):
    from safetensors.torch import load_file

    return load_file(folder / "images.safetensors")


def rewrite(folder, **changes):
    from safetensors.torch import save_file

    kept = {k: v.clone() for k, v in tensors(folder).items()} | changes
    (folder / "images.safetensors").unlink()
    save_file({k: v for k, v in kept.items() if v is not None}, folder / "images.safetensors")


def replace(folder, name, content):
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())


def facts(**changes):
    return json.dumps({"format": 1, "sides": ["images", "captions"], "shortlist": 5} | changes)


BOMB = Hostile(exec, "raise SystemExit('pickled code ran')")
HOSTILE = {
    "pickled tensors": lambda f: replace(f, "images.safetensors", pickle.dumps(BOMB)),
    "pickled array": lambda f: np.save(f / "x.npy", np.array([BOMB]), allow_pickle=True)
    or (f / "x.npy").rename(f / "images.safetensors"),
    "torch pickle": lambda f: torch.save(BOMB, f / "images.safetensors"),
    "truncated": lambda f: replace(
        f, "images.safetensors", (f / "images.safetensors").read_bytes()[:-9]
    ),
    "too few vectors": lambda f: rewrite(f, vectors=torch.zeros(7, 16)),
    "double vectors": lambda f: rewrite(f, vectors=torch.zeros(30, 16, dtype=torch.double)),
    "no vectors": lambda f: rewrite(f, vectors=None),
    "path as a name": lambda f: rewrite(f, **{"../../x": torch.zeros(3)}),
    "rows beyond": lambda f: rewrite(f, **{"0.rows": torch.arange(30) + 1}),
    "negative rows": lambda f: rewrite(f, **{"0.rows": torch.arange(30) - 1}),
    "rows twice": lambda f: rewrite(f, **{"0.rows": torch.zeros(30, dtype=torch.long)}),
    "rows of another length": lambda f: rewrite(f, **{"0.rows": torch.arange(29)}),
    "no rows": lambda f: rewrite(f, **{"0.rows": None}),
    "flat parts": lambda f: rewrite(f, **{"0.parts": torch.zeros(30, 4)}),
    "nothing": lambda f: rewrite(f, **{"0.parts": None}),
    "path as a side": lambda f: replace(f, "index.json", facts(sides=["../../images"])),
    "a side that is a list": lambda f: replace(f, "index.json", facts(sides=[["images"]])),
    "another version": lambda f: replace(f, "index.json", facts(format=99)),
    "shortlist": lambda f: replace(f, "index.json", facts(shortlist="9")),
    "no JSON": lambda f: replace(f, "index.json", "{"),
    "a list": lambda f: replace(f, "index.json", "[]"),
    "ids": lambda f: replace(f, "images.json", json.dumps([[1]] * 30)),
    "equal ids": lambda f: replace(f, "images.json", json.dumps(["a"] * 30)),
    "fewer ids": lambda f: replace(f, "images.json", json.dumps(list(range(29)))),
    "deep JSON": lambda f: replace(f, "images.json", "[" * 200_000),
    "other FAISS index": lambda f: replace(f, "images.faiss", b"IxFI" + bytes(80)),
    "pickled FAISS index": lambda f: replace(f, "images.faiss", pickle.dumps(BOMB)),
    "truncated FAISS index": lambda f: replace(
        f, "images.faiss", (f / "images.faiss").read_bytes()[:-50]
    ),
    "FAISS index of others": lambda f: Nearest(clusters(200, 8), "ivf").save(f / "images.faiss"),
    "other class": lambda f: replace(
        f, "matcher/config.json",
        (f / "matcher/config.json").read_text().replace('"SCAN"', '"os.system"'),
    ),
}  # fmt: skip


DAMAGED = r"images\.safetensors is damaged"
OTHER_VERSION = "index.json is not an index of this version"
NO_INDEX = "images.faiss: expected a FAISS index with inverted lists or HNSW"
SAID = {
    "pickled tensors": DAMAGED,
    "pickled array": DAMAGED,
    "torch pickle": DAMAGED,
    "truncated": DAMAGED,
    "too few vectors": r"float32 \(7, 16\), expected float32 \(30, D\)",
    "double vectors": r"float64 \(30, 16\), expected float32 \(30, D\)",
    "no vectors": r"float32 \(0,\), expected float32 \(30, D\)",
    "path as a name": r"unexpected tensor '\.\./\.\./x'",
    "rows beyond": "rows must be from 0 to 29, got 1 to 30",
    "negative rows": "rows must be from 0 to 29, got -1 to 28",
    "rows twice": "hold 30 rows, expected each of 30 once",
    "rows of another length": "tensors of a group must have 29 rows",
    "no rows": r"a group must have rows \(n,\)",
    "flat parts": "expected float32 with 3 dimensions",
    "nothing": "a group must have vectors or parts",
    "path as a side": OTHER_VERSION,
    "a side that is a list": OTHER_VERSION,
    "another version": OTHER_VERSION,
    "shortlist": "shortlist must be at least 1, got '9'",
    "no JSON": "index.json is not a JSON file",
    "a list": "index.json holds a list, expected a JSON object",
    "ids": "images.json must hold only strings or whole numbers",
    "equal ids": "images.json names two images alike",
    "fewer ids": r"float32 \(30, 16\), expected float32 \(29, D\)",
    "deep JSON": "images.json is not a JSON file",
    "other FAISS index": NO_INDEX,
    "pickled FAISS index": NO_INDEX,
    "truncated FAISS index": "images.faiss cannot be read, build it again",
    "FAISS index of others": "images.faiss holds 200 vectors of width 8, expected 30 of width 16",
    "other class": "'os.system' is not a model of this library",
}


def without_checksums(path):
    """Remove them, as an attacker does."""
    with contextlib.suppress(ValueError):
        content = json.loads(path.read_text())
        if isinstance(content, dict) and content.pop("files", None):
            path.write_text(json.dumps(content))


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_and_broken_folders_are_errors(saved, tmp_path, name):
    if "FAISS" in name:
        pytest.importorskip("faiss")
    folder = shutil.copytree(saved, tmp_path / "index")
    assert itm.Index.load(folder).search("a dog")
    HOSTILE[name](folder)
    for manifest in ("index.json", "matcher/config.json"):
        without_checksums(folder / manifest)
    with pytest.raises(ValueError, match=SAID[name]):
        itm.Index.load(folder)


def test_checksums_notice_what_looks_right(saved, tmp_path):
    folder = shutil.copytree(saved, tmp_path / "index")
    rewrite(folder, vectors=tensors(folder)["vectors"] + 1)
    with pytest.raises(ValueError, match="images.safetensors .*checksum"):
        itm.Index.load(folder)


def test_no_folder_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="no index at .*index.json is missing"):
        itm.Index.load(tmp_path)


# Wrong inputs -------------------------------------------------------------------------------------


def test_wrong_inputs(cache):
    matcher, split = build("vsrn")
    for arguments, message in (
        ({}, "nothing to index"),
        ({"features": np.zeros((0, 3, 4), np.float32), "captions": []}, "nothing to index"),
        ({"features": split, "shortlist": 0}, "shortlist=0"),
        (
            {"features": split, "kind": "annoy"},
            "kind must be 'flat', 'ivf'.*'hnsw'.* got 'annoy'",
        ),
        ({"features": split, "ids": ["a"] * 30}, "got 30 ids, 1 of them different"),
        ({"features": split, "ids": ["a"]}, "got 1 ids, 1 of them different"),
        ({"features": split, "ids": [*range(30), 0]}, "got 31 ids, 30 of them different"),
    ):
        with pytest.raises(ValueError, match=message):
            itm.Index(matcher, **arguments)
    index = itm.Index(matcher, split)
    for arguments in ({}, {"sentence": "a", "image": "b"}, {"sentence": "a", "top": 0}):
        with pytest.raises(ValueError, match="give one of sentence"):
            index.search(**arguments)
    with pytest.raises(ValueError, match="the query is empty"):
        index.search("  ")
    with pytest.raises(ValueError, match="NaN"):
        index.search(features=np.full((12, 64), np.nan))
    with pytest.raises(ValueError, match=r"\(12, 5\), expected \(regions, 64\)"):
        index.search(features=np.zeros((12, 5)))
    with pytest.raises(KeyError, match="no image 'nobody' among 30"):
        index.search(image="nobody")
    with pytest.raises(ValueError, match="recall needs"):
        index.recall()
    with torch.no_grad():
        matcher.text.embed.weight.fill_(float("nan"))
    with pytest.raises(ValueError, match="broken weights"):
        index.search("a dog")


def test_broken_encodings_and_ids_that_json_cannot_hold_are_refused(tmp_path):
    torch.manual_seed(0)
    matcher = itm.models.SCAN(vocab_size=7, img_dim=4, word_dim=3, embed_dim=5).eval()
    features = np.ones((3, 2, 4), np.float32)
    index = itm.Index(matcher, features, ids=np.arange(3))
    assert index.ids == [0, 1, 2] and itm.Index.load(index.save(tmp_path / "x")).ids == [0, 1, 2]
    for ids in ([0, 1, None], [True, 1, 2], [(0,), (1,), (2,)]):
        with pytest.raises(ValueError, match="ids must be strings or whole numbers, got"):
            itm.Index(matcher, features, ids=ids)
    features[1] = np.nan
    with pytest.raises(ValueError, match=r"(item|image|row) 1 .*NaN"):
        itm.Index(matcher, features)


@pytest.mark.parametrize(
    "wrong", [{"kind": "annoy"}, {"kind": "hnsw"}, {"ids": ["a", "b", "a"]}, {"ids": ["a", "a"]}]
)
def test_wrong_options_are_told_before_encoding(wrong, monkeypatch):
    """Encoding a million images takes hours."""
    monkeypatch.setitem(sys.modules, "faiss", None)
    matcher = itm.models.SCAN(vocab_size=7, img_dim=4, word_dim=3, embed_dim=5)
    monkeypatch.setattr(matcher, "encode", lambda *_: pytest.fail("items were encoded"))
    with pytest.raises((ValueError, ImportError), match="kind must be|different ids|needs FAISS"):
        itm.Index(matcher, np.ones((2, 3, 4), np.float32), **wrong)


@pytest.mark.parametrize(
    ("captions", "message"), [(["a dog", None], "caption 1 must be"), (["a dog"], "no vocabulary")]
)
def test_captions_that_cannot_be_read_are_told_before_images_are_encoded(
    captions, message, monkeypatch
):
    matcher = itm.models.SCAN(vocab_size=7, img_dim=4, word_dim=3, embed_dim=5)
    if captions[-1] is None:
        matcher.vocab = Vocabulary([*SPECIALS, "a", "dog", "cat"])
    monkeypatch.setattr(matcher, "encode", lambda *_: pytest.fail("items were encoded"))
    with pytest.raises(ValueError, match=message):
        itm.Index(matcher, np.ones((2, 3, 4), np.float32), captions=captions)


def test_scores_that_are_nan_are_told(cache, monkeypatch):
    """They gave no hits, or only some."""
    matcher, split = build("scan_t2i")
    index = itm.Index(matcher, split)
    similarity = matcher.similarity

    def broken(images, captions):
        scores = similarity(images, captions)
        return scores.where(torch.arange(len(scores))[:, None] != 2, torch.nan)

    monkeypatch.setattr(matcher, "similarity", broken)
    with pytest.raises(ValueError, match="the matcher scores 1 of 30 images as NaN"):
        index.search("a dog")


def test_files_of_others_stay_and_the_index_goes_beside_them(cache, tmp_path):
    """Encodings may have taken hours, so `save` keeps them; what is there is never replaced."""
    matcher, split = build("vsrn")
    index = itm.Index(matcher, split)
    names = ("index.json", "images.json", "captions.json")
    for name in names:
        (tmp_path / name).write_text("mine")
    for _ in range(2):
        with pytest.warns(UserWarning, match="holds files of others .* written to .*index"):
            found = index.save(tmp_path)
    assert found == tmp_path / "index" and itm.Index.load(found).ids == index.ids
    assert all((tmp_path / name).read_text() == "mine" for name in names)
    with pytest.raises(ValueError, match=r"index\.json is not a JSON file"):
        itm.Index.load(tmp_path)
    (found / "index.json").write_text("mine")
    with pytest.raises(TakenError, match="which this command did not write"):
        index.save(tmp_path)


def test_the_place_of_an_index_is_checked_before_encoding(cache, tmp_path):
    _, split = build("vsrn")
    (tmp_path / "images.json").write_text("mine")
    with pytest.raises(TakenError, match="holds images.json, which this command did not write"):
        index_of(split, "no such checkpoint", tmp_path)


@pytest.mark.parametrize("change", ["cut", "write"])
def test_an_index_whose_mapped_file_changes_is_an_error(change, cache, tmp_path):
    matcher, split = build("scan_t2i")
    index = itm.Index.load(itm.Index(matcher, split).save(tmp_path / "index"))
    path = tmp_path / "index/images.safetensors"
    if change == "cut":
        os.truncate(path, 100)
    else:
        os.utime(path, ns=(1, 1))
    with pytest.raises(ValueError, match=r"images\.safetensors was changed while it was in use"):
        index.search(split.captions[0])
    itm.Index(matcher, split).save(tmp_path / "other")
    index = itm.Index.load(tmp_path / "other")
    itm.Index(matcher, split).save(tmp_path / "other")  # replaced as a whole: the old one is whole
    assert index.search(split.captions[0])


def test_an_index_that_names_two_images_alike(cache, tmp_path):
    folder = itm.Index(*build("vsrn")).save(tmp_path / "index")
    ids = json.loads((folder / "images.json").read_text())
    (folder / "images.json").write_text(json.dumps([*ids[:-1], ids[0]]))
    facts = json.loads((folder / "index.json").read_text())
    del facts["files"]  # the checksums
    (folder / "index.json").write_text(json.dumps(facts))
    with pytest.raises(ValueError, match=r"images\.json names two images alike"):
        itm.Index.load(folder)


def test_an_index_of_other_features_or_of_another_kind_is_refused(cache, tmp_path):
    matcher, split = build("vsrn")
    matcher.save_pretrained(tmp_path / "matcher")
    given = (str(tmp_path / "matcher"), tmp_path / "index")
    index_of(split, *given)
    index_of(split, *given)
    with pytest.raises(ValueError, match="kind=hnsw, but the index .* is flat"):
        index_of(split, *given, kind="hnsw")
    for row in (-1, 7):  # any image
        other = np.array(split.features)
        other[row] += 1
        changed = dataclasses.replace(split, features=other, file=None)
        with pytest.raises(ValueError, match="made from other features than those of split test"):
            index_of(changed, *given)


def test_an_index_of_the_same_weights_with_other_words_is_refused(cache, tmp_path):
    """Converted again with the right vocabulary, a matcher reads other sentences."""
    matcher, split = build("scan_t2i")
    matcher.save_pretrained(tmp_path / "one")
    index_of(split, str(tmp_path / "one"), tmp_path / "index")
    index_of(split, str(tmp_path / "one"), tmp_path / "index")
    words = matcher.vocab.words
    matcher.vocab = Vocabulary([*words[:4], *reversed(words[4:])])
    matcher.save_pretrained(tmp_path / "other")
    with pytest.raises(ValueError, match="another matcher .*vocabulary or word lists differ"):
        index_of(split, str(tmp_path / "other"), tmp_path / "index")
    matcher, _ = build("scan_t2i", "model.temperature=1")
    matcher.save_pretrained(tmp_path / "other")
    with pytest.raises(ValueError, match="another matcher"):
        index_of(split, str(tmp_path / "other"), tmp_path / "index")
    with pytest.raises(ValueError, match="shortlist must be at least 1, got 0"):
        index_of(split, str(tmp_path / "one"), tmp_path / "index", shortlist=0)


def test_an_index_of_a_bert_is_its_own(cache, tmp_path):
    from transformers import BertConfig, BertModel, BertTokenizer

    folder, (_, split) = tmp_path / "bert", build("vsepp")
    words = sorted({word for caption in split.captions for word in caption.split()})
    (tmp_path / "vocab.txt").write_text(
        "\n".join([*["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"], *words])
    )
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = BertConfig(vocab_size=len(words) + 5, intermediate_size=16, **sizes)
    BertModel(config).save_pretrained(folder)
    BertTokenizer(str(tmp_path / "vocab.txt")).save_pretrained(folder)
    matcher, split = build("vsepp", "text=bert", f"model.text.path={folder}")
    matcher.save_pretrained(tmp_path / "one")
    index_of(split, str(tmp_path / "one"), tmp_path / "index")
    index_of(split, str(tmp_path / "one"), tmp_path / "index")


def test_an_index_of_other_sentence_vectors_is_refused(cache, tmp_path):
    from corpus import write

    torch.manual_seed(0)
    write(tmp_path, "test", images=6)
    vectors = np.random.default_rng(0).normal(size=(30, 5)).astype(np.float32)
    np.save(tmp_path / "test_caps.npy", vectors)
    split = read_split(tmp_path, "test")
    matcher = TwoBranchEmbedding(
        img_dim=split.width, sentence_dim=5, hidden_dim=8, embed_dim=4, text={"name": "vectors"}
    )
    given = str(matcher.save_pretrained(tmp_path / "matcher") or tmp_path / "matcher")
    index_of(split, given, tmp_path / "index")
    index_of(split, given, tmp_path / "index")
    np.save(tmp_path / "test_caps.npy", vectors[::-1])
    with pytest.raises(ValueError, match="made from other sentence vectors than those of split"):
        index_of(read_split(tmp_path, "test"), given, tmp_path / "index")


class OwnSimilarity(VSEPP):
    """A subclass with a similarity of its own: its ranking is not that of the dot products."""

    def similarity(self, images, captions):
        return captions.vector[:, 0] * 3 - (images.vector[:, None] - captions.vector).abs().sum(-1)


@pytest.mark.parametrize("shortlist", [2000, 5])
def test_a_similarity_of_a_subclass_ranks(shortlist):
    torch.manual_seed(0)
    matcher = OwnSimilarity(7, img_dim=6, word_dim=4, embed_dim=8)
    captions = ["a b c", "c b", "a"]
    matcher.vocab = Vocabulary.build(captions, 1)
    features = np.random.default_rng(0).normal(size=(20, 3, 6)).astype(np.float32)
    index = itm.Index(matcher, features, captions=captions, shortlist=shortlist)
    assert not matcher.ranks_by_vectors and VSEPP(7, img_dim=6).ranks_by_vectors
    scores = matcher.score(features, captions)
    for column, caption in enumerate(captions):
        expected = np.argsort(-scores[:, column])[:4]
        assert [hit.item for hit in index.search(caption, 4, exact=True)] == expected.tolist()
    assert (index.recall(captions, top=4) == 1) == (shortlist == 2000)


def test_equal_images_come_in_the_order_of_their_rows():
    matcher = VSEPP(7, img_dim=6, word_dim=4, embed_dim=8)
    matcher.vocab = Vocabulary.build(["a b c"], 1)
    index = itm.Index(matcher, np.ones((37, 3, 6), np.float32))
    hits = index.search("a b", top=37)
    rounded = [(-round(hit.score, 5), hit.item) for hit in hits]
    assert rounded == sorted(rounded)


def test_given_sentence_vectors_are_indexed(tmp_path):
    rng = np.random.default_rng(0)
    for name, values in (("ims", rng.normal(size=(4, 3, 6))), ("caps", rng.normal(size=(8, 5)))):
        np.save(tmp_path / f"test_{name}.npy", values.astype(np.float32))
    (tmp_path / "test_caps.txt").write_text("a dog\n" * 8)
    split = read_split(tmp_path, "test")
    matcher = TwoBranchEmbedding(
        img_dim=6, sentence_dim=5, text={"name": "vectors"}, hidden_dim=8, embed_dim=8
    ).eval()
    mine = rng.normal(size=(3, 5)).astype(np.float32)
    index = itm.Index(matcher, split, captions=mine)
    assert index.captions == [0, 1, 2]
    scores = matcher.score(split.view(), mine)
    best = index.search(image=index.ids[1], top=1)[0]
    assert best.item == scores[1].argmax() and best.score == pytest.approx(scores[1].max())
    assert itm.Index(matcher, split).captions == split.captions


def test_an_index_does_not_outlive_the_weights_that_made_it(cache, tmp_path):
    matcher, split = build("vsrn")
    index = itm.Index(matcher, split)
    first = index.search("a red ball")[0]
    matcher.double()
    assert index.search("a red ball")[0].item == first.item  # other numbers of the same weights
    matcher.float()
    optimizer = torch.optim.Adam(matcher.parameters(), lr=1e-4, fused=True)
    pairs = matcher.pairs(split.view()[:4], split.captions[:4])
    matcher(pairs.images, pairs.captions).sum().backward()
    optimizer.step()
    for use in (lambda: index.search("a red ball"), lambda: index.save(tmp_path / "index")):
        with pytest.raises(ValueError, match="weights of the matcher have changed.*build the ind"):
            use()
    assert not (tmp_path / "index").exists()


@pytest.mark.parametrize("kind", ["flat", "ivf", "hnsw"])
def test_a_number_of_results_may_be_one_of_numpy(cache, kind):
    pytest.importorskip("faiss")
    matcher, split = build("vsepp")
    index = itm.Index(matcher, split, kind=kind)
    assert len(index.search("a red ball", np.int64(3))) == 3


@pytest.mark.parametrize("top", ["3", 1.5, True])
def test_a_number_of_results_is_whole(cache, top):
    matcher, split = build("vsepp")
    with pytest.raises(ValueError, match="top must be a whole number"):
        itm.Index(matcher, split).search("a red ball", top)


def test_recall_refuses_one_string_as_queries(cache):
    matcher, split = build("scan_t2i")
    index = itm.Index(matcher, split)
    for queries in ({"sentences": "dog"}, {"images": "ab"}):
        with pytest.raises(TypeError, match="must be a list of queries, got the string"):
            index.recall(**queries)


def test_a_word_that_is_known_in_another_form_of_unicode_is_told(capsys):
    """The same letter in one character (NFC) and in two (NFD) looks the same."""
    for known, other, form in (
        ("caf\u00e9", "cafe\u0301", "NFC"),
        ("cafe\u0301", "caf\u00e9", "NFD"),
    ):
        matcher = SimpleNamespace(vocab=Vocabulary.build([f"blue {known}"], min_count=1))
        tell_unknown(matcher, [f"blue {known}"])
        assert capsys.readouterr().out == ""
        tell_unknown(matcher, [f"blue {other}"])
        assert f"looks the same in Unicode's form {form}" in capsys.readouterr().out
        tell_unknown(matcher, ["blue tea"])
        assert "Unicode" not in capsys.readouterr().out


def test_queries_of_another_kind_are_told(cache):
    """Integers were taken for features here alone, and features of an image for an id."""
    matcher, split = build("vsepp")
    index = itm.Index(matcher, split)
    features = split.images([0])[0]
    whole = (10 * features).astype(np.int64)
    for call in (lambda: index.search(features=whole), lambda: matcher.score([whole], ["a dog"])):
        with pytest.raises(ValueError, match="features must be floats, got int64"):
            call()
    for given, kind in ((features, "ndarray"), (index.ids[:1], "list")):
        with pytest.raises(ValueError, match=f"image= is one id, got a {kind}.*features=..."):
            index.search(image=given)
    same = index.search(features=features.astype(np.float64))
    assert same == index.search(features=features) != []
