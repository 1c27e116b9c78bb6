"""What matchers make of a split."""

import numpy as np
import pytest
import torch

from itm.app.model_outputs import score_completed, write_sentences
from itm.data.layout import read_split
from itm.matcher.split_scores import score_split
from itm.models import SCAN, VSRN
from itm.text.vocabulary import Vocabulary

CAPTIONS = ["a red dog", "a dog runs", "two cats", "a cat sits", "a bird", "one blue bird"]


@pytest.fixture
def split(tmp_path):
    rng = np.random.default_rng(0)
    np.save(tmp_path / "test_ims.npy", rng.normal(size=(3, 4, 8)).astype(np.float32))
    (tmp_path / "test_caps.txt").write_text("\n".join(CAPTIONS) + "\n")
    return read_split(tmp_path, "test")


def make(kind, **options):
    torch.manual_seed(0)
    vocab = Vocabulary.build(CAPTIONS, 1)
    matcher = kind(len(vocab), img_dim=8, word_dim=4, embed_dim=8, **options).eval()
    matcher.vocab = vocab
    return matcher


def test_a_split_is_scored_as_its_features_and_captions(split):
    matcher = make(SCAN)
    expected = matcher.score(np.asarray(split.features), CAPTIONS, 2)
    np.testing.assert_array_equal(score_split(matcher, split, 2), expected)


def test_only_matchers_that_can_write_sentences(split):
    writer = make(VSRN, caption_dim=8, caption_word_dim=4)
    found = write_sentences({"scan": make(SCAN), "vsrn": writer}, split)
    assert list(found) == ["vsrn"] and len(found["vsrn"].sentences) == 3
    assert found["vsrn"].scores["bleu_1"] >= 0
    with pytest.raises(ValueError, match="describe=true needs a matcher that writes sentences"):
        write_sentences({"scan": make(SCAN)}, split)
    with pytest.raises(ValueError, match="transductive= completes the concept labels of CVSE"):
        score_completed({"scan": make(SCAN)}, split, "f30k")
