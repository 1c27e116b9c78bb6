import itertools
import json
import math
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from cli import run
from hostile import Hostile
from hypothesis import given, settings
from hypothesis import strategies as st

import itm
from itm.app.config import compose
from itm.batch import Encoded, Pairs
from itm.data.boxes import around, edges, in_pixels, overlaps
from itm.data.layout import Split
from itm.localise import command
from itm.losses import Logistic
from itm.models import SCAN, SGRAF, VSRN, TwoBranchEmbedding
from itm.phrases.files import entity_boxes, entity_phrases, read_phrases
from itm.phrases.localisation import (
    localisation_accuracy,
    localise,
    measure_localisation,
    rank_right_region,
    region_scores,
    word_positions,
)
from itm.phrases.source import PhraseSource
from itm.phrases.split import Phrase, phrase_split
from itm.text.vocabulary import BertVocabulary, Vocabulary

HERE = Path(__file__).parents[2] / "fixtures/phrases"
SCENES = ["data.root.images=[30,12,12]"]


# Boxes --------------------------------------------------------------------------------------------


def counted(a, b):
    """Overlap of two boxes of whole numbers by counting unit squares."""
    squares = [
        {(x, y) for x in range(box[0], box[2]) for y in range(box[1], box[3])} for box in (a, b)
    ]
    union = len(squares[0] | squares[1])
    return len(squares[0] & squares[1]) / union if union else 0.0


box = st.tuples(*[st.integers(0, 9)] * 4)


@settings(deadline=None, max_examples=200)
@given(box, box)
def test_overlap_counts_squares(a, b):
    assert overlaps(np.array([a]), np.array(b))[0] == pytest.approx(counted(a, b), abs=1e-12)


def test_overlap_of_inclusive_pixels_adds_one():
    a, b = np.array([0, 0, 9, 9]), np.array([5, 0, 14, 9])  # 10 x 10, half of each is shared
    assert overlaps(edges(a)[None], edges(b))[0] == pytest.approx(50 / 150)
    assert overlaps(np.array([[0, 0, 0, 5]]), np.array([0, 0, 0, 5]))[0] == 0  # no area, no NaN
    assert around([(1, 5, 2, 6), (0, 7, 1, 8)]) == (0, 5, 2, 8)
    assert in_pixels(np.array([[[0, 0, 200, 100]]])) and not in_pixels(np.array([[[0, 0, 1, 1]]]))


# Ranks and accuracy -------------------------------------------------------------------------------


def ranked(scores, right):
    """Place of the first right region when wrong ones win ties; -1 where there is none."""
    order = sorted(range(len(scores)), key=lambda r: (-scores[r], right[r]))
    order = [r for r in order if scores[r] > -math.inf]
    return next((place for place, r in enumerate(order) if right[r]), -1)


@settings(deadline=None, max_examples=100)
@given(st.integers(0, 2**32 - 1))
def test_ranks_by_sorting(seed):
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 4, (6, 5)).astype(float)
    scores[rng.random((6, 5)) < 0.2] = -np.inf
    right = rng.random((6, 5)) < 0.3
    expected = [ranked(s, r) for s, r in zip(scores, right, strict=True)]
    assert rank_right_region(scores, right).tolist() == expected


def test_accuracy_by_hand():
    found = np.array([[0.9, 0.1, 0.6], [0.5, 0.49, 0.0], [0.4, 0.3, 0.2], [0.0, 0.7, 0.0]])
    scores = np.array([[1.0, 2, 0], [3, 1, 2], [1, 2, 3], [5, 5, -np.inf]])
    report = localisation_accuracy(scores, found, ["people", "animals", "people/other", ""])
    assert report["all"] == pytest.approx(
        # phrase 0: second place; 1: first; 2: nothing right; 3: tie with a wrong one, second
        {"phrases": 4, "r1": 25, "r5": 75, "r10": 75, "bound": 75, "chance": 100 * 1.5 / 4}
    )
    assert list(report) == ["all", "animals", "other", "people"]
    assert report["people"]["phrases"] == 2 and report["people"]["bound"] == 50
    assert report["animals"]["r1"] == 100 and report["other"]["bound"] == 0


def test_constant_scores_find_nothing_and_nan_is_an_error():
    found = np.array([[0.9, 0.1], [0.0, 0.9]])
    assert localisation_accuracy(np.zeros((2, 2)), found)["all"]["r1"] == 0
    with pytest.raises(ValueError, match="1 phrases have scores that are NaN"):
        localisation_accuracy(np.array([[0, np.nan], [1, 2]]), found)
    with pytest.raises(ValueError, match=r"scores are \(2, 3\), the overlaps \(2, 2\)"):
        rank_right_region(np.zeros((2, 3)), found > 0.5)


# Readers ------------------------------------------------------------------------------------------


def split_of(ids, boxes, captions=(), folder=HERE):
    features = np.zeros((*boxes.shape[:2], 3), np.float32)
    rows = np.arange(len(boxes))
    image = np.zeros(len(captions), np.int64)
    return Split("test", folder, features, rows, list(captions), image, ids, boxes)


PIXELS = np.array([[[10, 20, 49, 79], [100, 60, 179, 99]], [[0, 0, 29, 19], [5, 5, 9, 9]]], float)
FRACTIONS = (PIXELS + [0, 0, 1, 1]) / np.array([[[200, 100] * 2], [[60, 40] * 2]])


def test_entities_by_hand():
    split = split_of(["101.jpg", "102"], PIXELS)
    phrases = read_phrases(HERE / "entities", split)
    assert [(p.image, p.text, p.type) for p in phrases] == [
        (0, "A man", "people"),
        (0, "a red shirt", "clothing"),
        (0, "a ball", "other"),
        (0, "Two dogs", "people"),
        (0, "him", "people"),
        (0, "Someone dressed as a bear", "people/other"),
        (1, "A car", "vehicles"),
    ]  # neither the scene, nor what is not visual, nor what has no box
    boxes = [p.box for p in phrases]
    assert boxes[0] == boxes[4] == boxes[5] == (10, 20, 50, 80)  # one chain
    assert boxes[2] == (140, 70, 180, 100)
    assert boxes[3] == (100, 60, 180, 100)  # the union of its two boxes
    assert phrases[1].caption == (
        "A", "man", "in", "a", "red", "shirt", "throws", "a", "ball", "."
    )  # fmt: skip
    assert phrases[1].caption[slice(*phrases[1].span)] == ("a", "red", "shirt")
    whole = phrase_split(split, phrases)
    found = whole.overlaps(range(7))
    assert found[0].tolist() == [1, 0]  # region 0 is the man's box, pixel for pixel
    assert found[3].tolist() == [0, 1]
    assert found[6] == pytest.approx([1, 25 / 600])
    assert whole.target([0, 3]).tolist() == [[1, -1], [-1, 1]]
    first = whole.head(1)
    assert len(first.phrases) == len(first.captions) == 6 and first.num_images == 1
    np.testing.assert_array_equal(first.overlaps(range(6)), found[:6])


def test_entities_with_boxes_as_fractions():
    phrases = read_phrases(HERE / "entities", split_of(["101", "102"], FRACTIONS))
    assert phrases[0].box == pytest.approx((0.05, 0.2, 0.25, 0.8))
    pixels = phrase_split(
        split_of(["101", "102"], PIXELS),
        read_phrases(HERE / "entities", split_of(["101", "102"], PIXELS)),
    )
    same = phrase_split(split_of(["101", "102"], FRACTIONS), phrases)
    np.testing.assert_allclose(same.overlaps(range(7)), pixels.overlaps(range(7)), atol=1e-12)


def write_refs(folder, name="refs(unc).p", protocol=2):
    refs = [
        {"ref_id": 1, "ann_id": 1, "image_id": 101, "split": "test", "sentences": [
            {"raw": "Man, left!", "sent": "man left"}, {"raw": "him", "sent": "him"}]},
        {"ref_id": 2, "ann_id": 2, "image_id": 9, "split": "test", "sentences": [
            {"raw": "car", "sent": "car"}]},
        {"ref_id": 3, "ann_id": 3, "image_id": 55, "split": "train", "sentences": [
            {"raw": "dog", "sent": "dog"}]},
    ]  # fmt: skip
    folder.mkdir(exist_ok=True)
    (folder / "instances.json").write_bytes((HERE / "refer" / "instances.json").read_bytes())
    (folder / name).write_bytes(pickle.dumps(refs, protocol))


@pytest.mark.parametrize("protocol", [0, 2])
def test_refer_by_hand(tmp_path, protocol):
    write_refs(tmp_path, protocol=protocol)
    split = split_of(["101", "COCO_train2014_000000000102.jpg"], PIXELS)
    phrases = read_phrases(tmp_path, split)
    assert [(p.image, p.text) for p in phrases] == [(0, "man left"), (0, "him"), (1, "car")]
    assert phrases[0].box == (10, 20, 50, 80) and phrases[2].box == (0, 0, 30, 20)
    assert phrase_split(split, phrases).overlaps([0, 2])[:, 0].tolist() == [1, 1]
    split = split_of(["101", "9"], FRACTIONS)
    assert phrase_split(split, read_phrases(tmp_path, split)).overlaps([0, 2])[
        :, 0
    ] == pytest.approx(1)
    by_number = split_of(["101", "9"], PIXELS)  # ids may also be the data set's numbers
    assert [p.image for p in read_phrases(tmp_path / "refs(unc).p", by_number)] == [0, 0, 1]


def test_refer_runs_no_pickled_code(tmp_path):
    write_refs(tmp_path)
    (tmp_path / "refs(unc).p").write_bytes(pickle.dumps([Hostile(print, "run")]))
    with pytest.raises(ValueError, match="could not be read safely"):
        read_phrases(tmp_path, split_of(["101", "102"], PIXELS))


def test_lines(tmp_path):
    lines = [
        {"image": 0, "caption": 0, "phrase": "a man", "span": [0, 2], "type": "people",
         "boxes": [[10, 20, 29, 79], [30, 20, 49, 79]]},
        {"image": 1, "phrase": "a car", "boxes": [[0, 0, 29, 19]]},
    ]  # fmt: skip
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / "test_phrases.jsonl").write_text(text)
    split = split_of(None, PIXELS, ["a man runs ."], tmp_path)
    first, second = read_phrases(None, split)
    assert first == Phrase(
        0, "a man", (10, 20, 50, 80), "people", ("a", "man", "runs", "."), (0, 2)
    )
    assert second == Phrase(1, "a car", (0, 0, 30, 20))
    assert [p.text for p in read_phrases(tmp_path / "test_phrases.jsonl", split.head(1))] == [
        "a man"
    ]


def test_broken_files_are_named(tmp_path):
    split = split_of(["101", "102"], PIXELS)
    with pytest.raises(FileNotFoundError, match="Flickr30K Entities"):
        read_phrases(tmp_path, split)
    with pytest.raises(FileNotFoundError, match="103.xml is missing"):
        read_phrases(HERE / "entities", split_of(["103"], PIXELS[:1]))
    with pytest.raises(ValueError, match="no test_ids.txt"):
        read_phrases(HERE / "entities", split_of(None, PIXELS))
    with pytest.raises(ValueError, match="no closing bracket"):
        entity_phrases("[/EN#1/people A man runs .")
    bad = tmp_path / "bad.xml"
    for content in ("<annotation>", "<annotation><size/></annotation>"):
        bad.write_text(content)
        with pytest.raises(ValueError, match="bad.xml is not an annotation"):
            entity_boxes(bad)
    (tmp_path / "test_phrases.jsonl").write_text('{"image": 0, "phrase": "a", "boxes": []}\n')
    with pytest.raises(ValueError, match=r"test_phrases.jsonl:1: boxes=\[\] must be"):
        read_phrases(tmp_path / "test_phrases.jsonl", split)
    write_refs(tmp_path / "refer")
    write_refs(tmp_path / "refer", "refs(google).p")
    with pytest.raises(ValueError, match="2 files"):
        read_phrases(tmp_path / "refer", split)
    with pytest.raises(ValueError, match="no test_boxes.npy"):
        phrase_split(replace(split, boxes=None), [])
    with pytest.raises(ValueError, match="no phrase belongs"):
        phrase_split(split, [])
    for options in ({"negative_iou": 0.7}, {"positive_iou": 1.2}, {"negative_iou": 0}):
        with pytest.raises(ValueError, match="negative_iou <= positive_iou"):
            PhraseSource(**options)


@pytest.mark.parametrize("block", [3, 4096])
def test_training_keeps_phrases_that_a_region_matches(block, monkeypatch):
    monkeypatch.setattr("itm.phrases.split.BLOCK", block)
    split = split_of(["101", "102"], PIXELS)
    source = PhraseSource(HERE / "entities")
    whole, kept = source.split(split), source.split(split, train=True)
    best = whole.overlaps(range(7)).max(1)
    expected = [p for p, found in zip(whole.phrases, best, strict=True) if found >= 0.6]
    assert list(kept.phrases) == expected and 0 < len(kept.phrases) < 7
    with pytest.raises(ValueError, match="no region of .* overlaps"):
        source.split(split_of(["101", "102"], PIXELS + 500), train=True)


def test_overlaps_are_computed_in_blocks(monkeypatch):
    """The overlaps need a hundred bytes for each pair on the way: Flickr30K has 500,000 phrases."""
    sizes = []

    def counted_overlaps(boxes, truth):
        sizes.append(len(boxes))
        return overlaps(boxes, truth)

    monkeypatch.setattr("itm.phrases.split.overlaps", counted_overlaps)
    whole = PhraseSource(HERE / "entities").split(split_of(["101", "102"], PIXELS))
    scores = np.random.default_rng(0).normal(size=(7, 2))
    rows = np.array([6, 0, 3, 3, 1])
    plain = whole.overlaps(rows), measure_localisation(whole, scores)
    assert sizes == [5, 7]
    sizes.clear()
    monkeypatch.setattr("itm.phrases.split.BLOCK", 3)
    found = whole.overlaps(rows)
    np.testing.assert_array_equal(found, plain[0])
    assert measure_localisation(whole, scores) == plain[1] and sizes == [3, 2, 3, 3, 1]
    assert found.shape == (5, 2) and whole.overlaps([]).shape == (0, 2)


def test_target_by_loop():
    split = split_of(["101", "102"], PIXELS)
    whole = PhraseSource(HERE / "entities", 0.6, 0.1).split(split)
    found, target = whole.overlaps(range(7)), whole.target(range(7))
    for row, region in itertools.product(range(7), range(2)):
        overlap = found[row, region]
        assert target[row, region] == (1 if overlap >= 0.6 else -1 if overlap < 0.1 else 0)
    assert set(target.ravel()) == {-1, 0, 1}


# Scores of regions --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scenes():
    data = itm.build("two_branch_embedding", "regions", "phrases", SCENES).data
    return data.split("test")


def small(cls, split, **options):
    torch.manual_seed(0)
    vocab = Vocabulary.build([" ".join(p.caption) for p in split.phrases], 1)
    matcher = cls(len(vocab), split.width, embed_dim=16, word_dim=8, **options)
    matcher.vocab = vocab
    return matcher


def test_grounding_by_loop(scenes):
    matcher = small(TwoBranchEmbedding, scenes, hidden_dim=16, level="region")
    matcher.train()
    scores = region_scores(matcher, scenes, batch_size=5)
    assert matcher.training
    matcher.eval()
    for row in range(0, len(scenes.phrases), 17):
        image = scenes.images(scenes.caption_image[[row]])
        with torch.no_grad():
            alone = matcher.ground(*matcher.pairs(image, [scenes.captions[row]])[:2])
        np.testing.assert_allclose(scores[row], alone[0].numpy(), atol=1e-6)


@pytest.mark.parametrize("context", ["caption", "phrase"])
@pytest.mark.parametrize("direction", ["t2i", "i2t"])
def test_attention_by_loop(scenes, direction, context):
    matcher = small(SCAN, scenes, direction=direction).eval()
    scores = region_scores(matcher, scenes, context)
    for row in range(0, len(scenes.phrases), 17):
        phrase = scenes.phrases[row]
        image = scenes.images(np.array([phrase.image]))
        text = " ".join(phrase.caption) if context == "caption" else phrase.text
        pairs = matcher.pairs(image, [text])
        with torch.no_grad():
            encoded = matcher.encode_images(pairs[0]), matcher.encode_captions(pairs[1])
            weights = matcher.attention(*encoded)[0, 0].numpy()
        start = phrase.span[0] if context == "caption" else 0
        columns = [1 + start + k for k in range(len(phrase.text.split()))]  # behind <start>
        expected = sum(weights[:, k] for k in columns) / len(columns)
        np.testing.assert_allclose(scores[row], expected, atol=1e-6)


def test_words_are_found_behind_cut_ones():
    class Cut:
        vocab = Vocabulary.build(["don't stop the man ."], 1)

    phrase = Phrase(0, "the man", (0, 0, 1, 1), "", ("don't", "stop", "the", "man", "."), (2, 4))
    # <start> do n't stop the man . <end>
    assert word_positions(Cut, phrase.caption, phrase) == (4, 6)
    assert word_positions(Cut, ("the", "man")) == (1, 3)
    smith = Phrase(0, "Smith", (0, 0, 1, 1), "", ("Mr.", "Smith", "runs", "."), (1, 2))
    assert word_positions(Cut, smith.caption, smith) == (2, 3)  # <start> mr. smith runs . <end>
    flag = ("the", "U.S.", "flag")
    assert word_positions(Cut, flag, smith._replace(caption=flag, span=(0, 2))) == (1, 3)
    Cut.vocab = Vocabulary(["<pad>", "the", "man"], markers=False, tokenizer="whitespace")
    assert word_positions(Cut, ("the", "man")) == (0, 2)


def pieces(max_length=128):
    """A tokeniser of word pieces in BERT's form."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    pieces = ["[UNK]", "[CLS]", "[SEP]", "a", "play", "##ing", "dog"]
    ids = {piece: i for i, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.WordPiece(ids, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    special = [("[CLS]", 1), ("[SEP]", 2)]
    tokenizer.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", None, special)
    return BertVocabulary(tokenizer.to_str(), max_length)


def test_words_are_found_among_word_pieces():
    class Pieces:
        vocab = pieces()

    caption = ("playing", "a", "dog")
    phrase = Phrase(0, "a dog", (0, 0, 1, 1), "", caption, (1, 3))
    assert word_positions(Pieces, caption, phrase) == (3, 5)  # [CLS] play ##ing a dog [SEP]


def test_a_phrase_behind_the_end_of_a_cut_caption_is_read_alone(scenes, capsys):
    """Its place had been taken by the last word that was left."""
    matcher = small(SCAN, scenes)
    matcher.vocab = pieces(max_length=5)  # [CLS] a dog play [SEP]
    caption = ("a", "dog", "playing", "a", "dog")
    spans = [(0, 2), (3, 5)]
    phrases = [Phrase(0, "a dog", scenes.phrases[0].box, "", caption, span) for span in spans]
    split = phrase_split(scenes, phrases)
    within, behind = region_scores(matcher, split)
    assert "1 of 2 phrases are read alone, as with context=phrase" in capsys.readouterr().out
    alone = region_scores(matcher, split, "phrase")
    np.testing.assert_allclose(behind, alone[1], atol=1e-6)
    assert not np.allclose(within, alone[0], atol=1e-6)
    assert not capsys.readouterr().out


def test_matchers_without_regions_say_so(scenes):
    matcher = small(VSRN, scenes, caption_weight=0.0)
    with pytest.raises(ValueError, match="VSRN compares whole images .* scores no regions"):
        region_scores(matcher, scenes)
    with pytest.raises(ValueError, match="context must be 'caption' or 'phrase', got 'sentence'"):
        region_scores(matcher, scenes, "sentence")
    with pytest.raises(ValueError, match="3 phrase vectors for"):
        grounding = small(TwoBranchEmbedding, scenes, hidden_dim=16, level="region")
        region_scores(grounding, scenes, vectors=np.zeros((3, 4)))
    with pytest.raises(ValueError, match="context=phrase has no effect: TwoBranchEmbedding always"):
        region_scores(grounding, scenes, "phrase")
    with pytest.raises(ValueError, match="VSRN reads words"):
        region_scores(matcher, scenes, vectors=np.zeros((len(scenes.phrases), 4)))


def test_phrase_vectors(scenes):
    vectors = np.random.default_rng(0).standard_normal((len(scenes.phrases), 6), np.float32)
    matcher = TwoBranchEmbedding(
        img_dim=scenes.width, sentence_dim=6, hidden_dim=8, embed_dim=8, level="region",
        text={"name": "vectors"},
    ).eval()  # fmt: skip
    scores = region_scores(matcher, scenes, vectors=vectors)
    image = scenes.images(scenes.caption_image[[7]])
    with torch.no_grad():
        alone = matcher.ground(*matcher.pairs(image, vectors[[7]])[:2])
    np.testing.assert_allclose(scores[7], alone[0].numpy(), atol=1e-6)


def test_sgraf_localises(scenes):
    report = localise(small(SGRAF, scenes, num_regions=12, sim_dim=8), scenes)
    assert report["all"]["phrases"] == len(scenes.phrases)
    assert {"people", "scene"} <= report.keys()
    assert sum(row["phrases"] for row in list(report.values())[1:]) == len(scenes.phrases)


def test_logistic_draws_negative_regions():
    generator = torch.Generator().manual_seed(0)
    target = torch.randint(-1, 2, (40, 12), generator=generator).float()
    target[0] = -1
    matches, wrong = (target > 0).sum(1), (target < 0).sum(1)
    pairs = Pairs(None, None, target=target)
    scores = torch.zeros_like(target, requires_grad=True)
    seen = torch.zeros_like(target)
    for seed in range(60):
        torch.manual_seed(seed)
        terms = Logistic(negatives=2).ground(scores, pairs, (Encoded(), Encoded()))
        (gradient,) = torch.autograd.grad(terms["ranking"], scores)
        labelled = gradient != 0
        assert torch.equal(labelled & (target > 0), target > 0)
        assert not (labelled & (target == 0)).any()
        drawn = (labelled & (target < 0)).sum(1)
        assert torch.equal(drawn, torch.minimum(2 * matches, wrong))
        seen += labelled
    kept = 2 * matches >= wrong
    assert (seen[~kept & (matches > 0)][target[~kept & (matches > 0)] < 0] > 0).all()  # any one


# Training and the command -------------------------------------------------------------------------


def test_phrases_of_another_folder(scenes):
    source = scenes.folder / "test_phrases.jsonl"
    overrides = [f"data.root={scenes.folder}", f"data.phrases.path={source}", "data.train=test"]
    data = itm.build("two_branch_embedding", "regions", "phrases", [*overrides, "data.val=test"])
    split = data.data.split("val")
    assert split.phrases == scenes.phrases and split.positive_iou == 0.6


def test_batches_carry_targets():
    data = itm.build("two_branch_embedding", "regions", "phrases", [*SCENES, "data.batch_size=4"])
    data = data.data
    batch = next(iter(data.train_dataloader()))
    split, rows = data.split("train"), batch.captions.index.numpy()
    images = batch.images.index.tolist()
    assert len(images) == len(set(images)) <= 4
    assert np.array_equal(batch.target, split.target(rows))
    assert np.array_equal(batch.images.index[batch.captions.image], split.caption_image[rows])
    data.sentences = 1
    batch = next(iter(data.train_dataloader()))
    assert np.array_equal(batch.target, split.target(batch.captions.index.numpy()))


@pytest.mark.parametrize("model, loss", [
    ("two_branch_embedding", "regions"), ("two_branch_similarity", "logistic"),
])  # fmt: skip
def test_training_finds_regions(model, loss):
    import pytorch_lightning as pl

    torch.manual_seed(0)
    overrides = ["data.root.images=[100,4,20]", "data.batch_size=32", "optimizer.lr=5e-3"]
    matcher = itm.build(model, loss, "phrases", overrides)
    trainer = pl.Trainer(
        max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
        limit_val_batches=0,
    )  # fmt: skip
    trainer.fit(matcher, datamodule=matcher.data)
    report = localise(matcher, matcher.data.split("test"))["all"]
    assert report["r1"] > 3 * report["chance"], report


def test_command(tmp_path):
    common = ["data.root.images=[40,8,8]", f"hydra.run.dir={tmp_path}/run"]
    small = ["model.embed_dim=16", "model.word_dim=16", "model.hidden_dim=16"]
    fast = ["trainer=fast", "data.batch_size=8"]
    arguments = ["model=two_branch_embedding", "loss=regions", "data=phrases"]
    run("train", *arguments, *common, *small, *fast, cwd=tmp_path)
    common[1] = f"hydra.run.dir={tmp_path}/out"
    text = run("localise", f"checkpoint={tmp_path}/run", *common, cwd=tmp_path)
    assert "upper bound" in text and "clothing" in text
    report = json.loads((tmp_path / "out" / "localisation.json").read_text())
    assert 0 <= report["results"]["all"]["r1"] <= report["results"]["all"]["bound"] <= 100
    known = {key: report[key] for key in ("images", "phrases", "refer_split", "context")}
    assert known == {"images": 8, "phrases": None, "refer_split": None, "context": "caption"}
    assert (Path(report["root"]) / "test_phrases.jsonl").is_file()
    with pytest.raises(ValueError, match="give checkpoint=RUN"):
        command(compose(name="localise"))


def test_phrases_have_no_lines_of_captions(scenes):
    """A protocol of COCO keeps some captions of each image; phrases can be cut all the same."""
    cut = replace(scenes, caption_row=np.arange(3))
    phrases = phrase_split(cut, [Phrase(i, f"a ball {i}", (0, 0, 1, 1)) for i in (0, 0, 1, 2)])
    assert phrases.caption_row is None
    assert phrases.head(2).captions == ["a ball 0", "a ball 0", "a ball 1"]


def test_vectors_of_captions_are_not_those_of_phrases(scenes):
    for read in (scenes.sentence_width, scenes.sentence_file, scenes.sentence_vectors):
        with pytest.raises(ValueError, match="holds vectors of captions, not of phrases: choose"):
            read()


def test_a_split_of_refer_needs_refer(scenes):
    with pytest.raises(ValueError, match="refer_split=testA chooses a split of REFER, but .*jsonl"):
        read_phrases(None, scenes, "testA")


def test_frozen_modules_stay_frozen(scenes):
    matcher = small(SCAN, scenes).train()
    matcher.text.eval()
    region_scores(matcher, scenes)
    assert matcher.training and not any(module.training for module in matcher.text.modules())
