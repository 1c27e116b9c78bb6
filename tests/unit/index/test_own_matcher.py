"""An index of a matcher of one's own, and arguments without effect."""

import numpy as np
import pytest
import torch
from toy import MeanMatcher

import itm
from itm.text import Vocabulary

VOCAB = Vocabulary.build(["a dog runs", "a red cat"], min_count=1)
FEATURES = np.random.default_rng(0).standard_normal((5, 4, 6)).astype(np.float32)


class Weighted(MeanMatcher):
    """Keeps tensors of its own for each item, under any name and of any type."""

    def encode_images(self, images):
        encoded = super().encode_images(images)
        count = images.mask.sum(1).to(torch.int32)
        return encoded._replace(aux={"Scale2": encoded.vector[:, 0].exp(), "my.count": count})

    def similarity(self, images, captions):
        weight = images.aux["Scale2"] / images.aux["my.count"]
        return weight[:, None] * (images.vector @ captions.vector.T)


def test_an_index_keeps_tensors_of_ones_own(tmp_path):
    torch.manual_seed(0)
    matcher = Weighted(len(VOCAB), 6)
    matcher.vocab = VOCAB
    index = itm.Index(matcher, FEATURES)
    index.save(tmp_path / "index")
    loaded = itm.Index.load(tmp_path / "index", model_class=f"{__name__}.Weighted")
    for hit, wanted in zip(loaded.search("a dog"), index.search("a dog"), strict=True):
        assert hit.item == wanted.item and hit.score == pytest.approx(wanted.score, rel=1e-5)


def test_ids_without_images_are_refused():
    matcher = MeanMatcher(len(VOCAB), 6)
    matcher.vocab = VOCAB
    with pytest.raises(ValueError, match="ids name images: give them with features"):
        itm.Index(matcher, ids=["a"], captions=["a dog"])
