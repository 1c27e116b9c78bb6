"""Test what training batches leave out: the rule, the draws, and what must not change them."""

import json
from functools import partial

import numpy as np
import pytest
import torch
from corpus import write
from goldens_path import case, read_npz

from itm.data.augmentation import Augmentation, drop_words, keep_regions
from itm.data.module import RegionDataModule
from itm.matcher.attachment import check_region_drop
from itm.models import VSEPP
from itm.text.bert_vocabulary import BertVocabulary
from itm.text.vocabulary import SPECIALS, Vocabulary, with_mask

LINES = [f"image {i} caption {k} a dog" for i in range(6) for k in range(5)]


@pytest.fixture
def folder(tmp_path):
    for name, repeat in (("train", 5), ("dev", 1), ("test", 1)):
        write(tmp_path, name, repeat=repeat, shape=(9, 4))
    return tmp_path


def module(folder, **options):
    options = {"region_drop": 0.3, "word_drop": 0.4, "min_count": 1, "seed": 3, **options}
    data = RegionDataModule(folder, batch_size=8, **options)
    data.setup()
    return data


def epoch(data, number=0, start=0):
    loader = data.train_dataloader()
    loader.batch_sampler.set_epoch(number)
    loader.batch_sampler.start = start
    return list(loader)


def by_caption(batches):
    """Token ids and region features of each caption that occurs in the batches."""
    found = {}
    for images, captions, *_ in batches:
        for k, row in enumerate(captions.index.tolist()):
            ids = captions.tokens[k, : captions.lengths[k]].tolist()
            own = int(captions.image[k])
            found[row] = ids, images.regions[own][images.mask[own]]
    return found


def assert_same(one, other):
    assert one.keys() == other.keys()
    for row, (ids, regions) in one.items():
        assert ids == other[row][0] and torch.equal(regions, other[row][1]), row


# The rule -----------------------------------------------------------------------------------------

GOLDENS = ["chan/gru_augmented", "chan/bert_augmented"]
GOLDENS += ["vse_infty/bigru_augmented", "vse_infty/bert_augmented"]


@pytest.mark.parametrize("name", GOLDENS)
def test_recorded_draws_give_what_the_original_made_of_them(name):
    folder = case(name)
    expected = read_npz(folder / "expected.npz")
    options = json.loads((folder / "options.json").read_text())
    (data,) = (folder / "data").iterdir()
    lines = (data / "train_caps.txt").read_bytes().decode().split("\n")
    captions = [line for line in lines if line]
    if (folder / "bert").is_dir():
        vocab = BertVocabulary.from_pretrained(str(folder / "bert"))
    else:
        vocab = with_mask(Vocabulary.load(folder / "vocab.json"))
    masked = 0
    for step, rows in enumerate(expected["aug_rows"]):
        for k, row in enumerate(rows):
            draws = expected["aug_word_u"][step, k]
            draws, random = draws[~np.isnan(draws)], expected["aug_word_random"][step, k]
            words, before, after = vocab.by_word(captions[row])
            assert [i for word in words for i in word] == vocab.encode(captions[row])[
                len(before) : len(vocab.encode(captions[row])) - len(after)
            ]
            assert len(words) == len(draws)
            found = [*before, *drop_words(words, draws, random, 0.2, vocab.mask_id), *after]
            length = expected["aug_lengths"][step, k]
            assert found == expected["aug_tokens"][step, k, :length].tolist()
            masked += vocab.mask_id in found
            kept = keep_regions(
                expected["aug_region_u"][step, k], options.get("obj_drop_rate", 0.2)
            )
            assert kept.sum() == expected["aug_regions"][step, k]
    assert masked > 5


def test_the_rule_word_by_word():
    words, random = [[10], [20, 21], [30], [40]], [[5], [6, 7], [8], [9]]
    drop = partial(drop_words, words, random=random, rate=0.2, mask=99)
    assert drop([0.2, 0.5, 0.99, 0.2]) == [10, 20, 21, 30, 40]
    assert drop([0.099, 0.0, 0.5, 0.5]) == [99, 99, 99, 30, 40]
    assert drop([0.1, 0.119, 0.5, 0.5]) == [5, 6, 7, 30, 40]
    assert drop([0.12, 0.199, 0.5, 0.5]) == [30, 40]
    assert drop([0.15] * 4) == []
    assert keep_regions(np.array([0.19, 0.2, 0.21]), 0.2).tolist() == [False, False, True]


def test_shares_over_many_draws():
    vocab = Vocabulary([*SPECIALS, *(f"w{i}" for i in range(2000)), "<mask>"])
    draw = Augmentation(vocab, 0.2, 0.2, seed=1)
    caption = " ".join(f"w{i}" for i in range(100))
    ids, kept = zip(*(draw.draw(caption, 36, (0, k)) for k in range(300)), strict=True)
    assert np.mean(kept) == pytest.approx(0.8, abs=0.01)
    given = [i for x in ids for i in x]
    total = 300 * 102
    assert len(given) / total == pytest.approx(1 - 0.2 * 0.4, abs=0.005)
    assert given.count(vocab.mask_id) / total == pytest.approx(0.2 * 0.5, abs=0.006)
    true = set(vocab.encode(caption))
    assert sum(i not in true and i != vocab.mask_id for i in given) / total > 0.2 * 0.1 * 0.8


def test_something_always_stays():
    vocab = Vocabulary([*SPECIALS, "a", "<mask>"])
    draw = Augmentation(vocab, 0.99, 0.99, seed=0)
    for k in range(200):
        ids, kept = draw.draw("a", 2, (0, k))
        assert ids and kept.any()


def test_pieces_of_a_word_stay_together_and_markers_stay():
    folder = case("chan/bert_augmented") / "bert"
    vocab = BertVocabulary.from_pretrained(str(folder))
    caption = (case("chan/bert_augmented") / "data/f30k_precomp/train_caps.txt").read_text()
    caption = max(caption.splitlines(), key=lambda x: len(vocab.by_word(x)[0]))
    words, before, after = vocab.by_word(caption)
    assert vocab.decode(before) == ["[CLS]"] and vocab.decode(after) == ["[SEP]"]
    assert any(len(word) > 1 for word in words)
    assert all(not x.startswith("##") for word in words for x in vocab.decode(word[:1]))
    for k in range(100):
        ids, _ = Augmentation(vocab, 0, 0.5).draw(caption, 3, (0, k))
        assert ids[0] == before[0] and ids[-1] == after[0]


# The draws ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("sentences", [1, 3])
def test_epochs_and_seeds_differ_and_repeat(folder, sentences):
    data = module(folder, sentences=sentences)
    first = by_caption(epoch(data))
    assert_same(first, by_caption(epoch(module(folder, sentences=sentences))))
    second, other = by_caption(epoch(data, 1)), by_caption(epoch(module(folder, seed=4)))
    for found in (second, other):
        assert any(found[row][0] != ids for row, (ids, _) in first.items() if row in found)
    plain = by_caption(epoch(module(folder, region_drop=0, word_drop=0, sentences=sentences)))
    assert all(len(regions) == 9 for _, regions in plain.values())
    assert any(len(regions) < 9 for _, regions in first.values())


@pytest.mark.parametrize("sentences", [1, 3])
def test_workers_and_a_restart_change_nothing(folder, sentences):
    alone = epoch(module(folder, sentences=sentences), 2)
    shared = epoch(module(folder, sentences=sentences, workers=2), 2)
    assert len(alone) == len(shared) > 2
    for one, other in zip(alone, shared, strict=True):
        assert torch.equal(one.captions.tokens, other.captions.tokens)
        assert torch.equal(one.images.regions, other.images.regions)
    rest = epoch(module(folder, sentences=sentences), 2, start=1)
    assert_same(by_caption(alone[1:]), by_caption(rest))


def test_two_processes_draw_what_one_draws(folder, monkeypatch):
    whole = by_caption(epoch(module(folder)))
    halves = {}
    for rank in (0, 1):
        monkeypatch.setattr("itm.data.module.rank_and_size", lambda rank=rank: (rank, 2))
        data = module(folder)
        data.batch_size = 4
        halves |= by_caption(epoch(data))
    assert_same(whole, halves)


@pytest.mark.parametrize("sentences", [1, 3])
def test_features_on_the_device_are_dropped_alike(folder, sentences):
    from types import SimpleNamespace

    read = epoch(module(folder, sentences=sentences))
    data = module(folder, sentences=sentences, resident=True)
    data.trainer = SimpleNamespace(training=True, testing=False)
    for one, batch in zip(read, epoch(data), strict=True):
        other = data.on_after_batch_transfer(batch, 0)
        assert torch.equal(one.images.regions, other.images.regions)
        assert torch.equal(one.images.mask, other.images.mask)


def test_evaluation_and_the_order_of_training_stay_as_they_are(folder):
    data, plain = module(folder), module(folder, region_drop=0, word_drop=0)
    for mine, theirs in zip(data.val_dataloader(), plain.val_dataloader(), strict=True):
        for one, other in zip(mine, theirs, strict=True):
            assert all(
                torch.equal(a, b) for a, b in zip(one, other, strict=True) if torch.is_tensor(a)
            )
    mine = [sorted(x.captions.index.tolist()) for x in epoch(data)]
    assert mine == [sorted(x.captions.index.tolist()) for x in epoch(plain)]
    batch = epoch(data)[0].captions
    assert list(batch.lengths) == sorted(batch.lengths, reverse=True)


# Options ------------------------------------------------------------------------------------------


def test_the_mask_joins_the_vocabulary_only_where_it_is_used(folder):
    words = module(folder).vocabulary.words
    assert words[-1] == "<mask>" and module(folder, word_drop=0).vocabulary.words == words[:-1]
    given = Vocabulary([*SPECIALS, "<mask>", "a"])
    assert module(folder, vocab=given).vocabulary.words == given.words


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"region_drop": 1.0}, "data.region_drop=1.0 must be at least 0 and below 1"),
        ({"word_drop": -0.1}, "data.word_drop=-0.1 must be at least 0 and below 1"),
        ({"vectors": True}, "text=vectors reads vectors of whole sentences"),
        ({"phrases": object()}, "phrases are matched with labelled regions"),
        (
            {"phrases": object(), "region_drop": 0, "noise_ratio": 0.2},
            "data.noise_ratio and data.noise_file give captions another image, but phrases",
        ),
    ],
)
def test_wrong_options(folder, options, message):
    with pytest.raises(ValueError, match=message):
        module(folder, **options)


def test_dropping_the_only_region_is_told(tmp_path, capsys):
    for name in ("train", "dev", "test"):
        write(tmp_path, name, shape=(4,))
    data = module(tmp_path)
    check_region_drop(VSEPP(len(data.vocabulary), img_dim=4, word_dim=3, embed_dim=5), data)
    assert "data.region_drop=0.3 has no effect: each image has one" in capsys.readouterr().out


def test_a_vocabulary_that_cannot_drop_words_is_refused(folder):
    padded = Vocabulary([SPECIALS[0], "a", "dog"], markers=False, tokenizer="whitespace", pad_to=8)
    with pytest.raises(ValueError, match="a mask and without fixed padding; this Vocabulary"):
        module(folder, vocab=padded).train_dataloader()
