"""Score and embed plain data; the matcher's mode is restored."""

import numpy as np
import pytest
import torch
from torch import nn
from toy import MeanMatcher

from itm.batch import Encoded
from itm.matcher import OBJECTS, Matcher
from itm.matcher.inputs import caption_batches, image_batches
from itm.models import SCAN
from itm.text.vocabulary import SPECIALS, Vocabulary

VOCAB = Vocabulary([*SPECIALS, "a", "dog", "cat", "runs"])
LINES = ["a dog runs", "cat", "a cat runs", "dog"]
FEATURES = np.random.default_rng(0).normal(size=(3, 2, 6)).astype(np.float32)


def build(kind=SCAN, **arguments):
    torch.manual_seed(0)
    matcher = kind(len(VOCAB), img_dim=6, embed_dim=8, **arguments)
    matcher.vocab = VOCAB
    return matcher


def test_encode_brings_chunks_in_eval_mode_without_gradients():
    matcher = build().train()
    batches = [*image_batches(FEATURES, 2), *caption_batches(matcher, LINES, 2)]
    chunks = matcher.encode(iter(batches))
    assert [rows.tolist() for _, rows in chunks] == [b.index.tolist() for b in batches]
    assert all(not x.parts.requires_grad and x.parts.device.type == "cpu" for x, _ in chunks)
    assert matcher.training
    scores = matcher.score_encoded(chunks[:2], chunks[2:])
    np.testing.assert_array_equal(scores, matcher.score(FEATURES, LINES, batch_size=2))
    out = np.empty((3, 4), np.float32)
    assert matcher.score_encoded(chunks[:2], chunks[2:], out) is out
    np.testing.assert_array_equal(out, scores)


def test_encode_refuses_other_images():
    with pytest.raises(ValueError, match="features are 5 wide, but SCAN reads 6"):
        build().encode(image_batches(FEATURES[..., :5], 2))


def test_the_mode_is_restored_after_an_error():
    matcher = build().train()
    with pytest.raises(ValueError):
        matcher.encode(image_batches(FEATURES[..., :5], 2))
    assert matcher.training


def test_embed_takes_one_side():
    for arguments in ({}, {"features": FEATURES, "captions": LINES}):
        with pytest.raises(ValueError, match="either features=... or captions=..."):
            build(MeanMatcher).embed(**arguments)


class Own(Matcher):
    """A backbone may have a plain module as text encoder, or none."""

    def __init__(self, text, *, loss=None):
        super().__init__(loss)
        self.save_hyperparameters(ignore=OBJECTS)
        self.image, self.words = nn.Linear(6, 4), nn.Embedding(len(VOCAB), 4)
        self.vocab = VOCAB
        if text:
            self.text = self.words

    def encode_images(self, images):
        return Encoded(self.image(images.regions).mean(1))

    def encode_captions(self, captions):
        return Encoded(self.words(captions.tokens).mean(1))


@pytest.mark.parametrize("text", [False, True])
def test_a_backbone_needs_no_text_encoder_of_the_library(text, tmp_path):
    matcher = Own(text)
    scores = matcher.score(FEATURES, LINES)
    assert scores.shape == (3, 4) and (matcher.text is matcher.words) == text
    (group,) = matcher.parameter_groups()
    assert group["name"] == "main" and len(group["params"]) == 3
    matcher.save_pretrained(tmp_path)
    again = Own.from_pretrained(tmp_path)
    np.testing.assert_array_equal(again.score(FEATURES, LINES), scores)
