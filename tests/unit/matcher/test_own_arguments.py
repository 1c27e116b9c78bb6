"""A matcher of one's own that extends another one is loaded as it was made."""

from pathlib import Path

import numpy as np
import pytest
import torch
from toy import MeanMatcher

import itm
from itm.batch import Encoded
from itm.losses import Triplet
from itm.matcher.matcher import OBJECTS, Matcher
from itm.models import SCAN, VSEPP
from itm.text import Vocabulary

VOCAB = Vocabulary.build(["a dog runs", "a red cat"], min_count=1)
FEATURES = np.random.default_rng(0).standard_normal((3, 4, 6)).astype(np.float32)
CAPTIONS = ["a red dog", "cat", "a dog runs"]


def scaled(self, images, captions):
    return self.scale * images.vector @ captions.vector.T


class Scaled(MeanMatcher):
    """Only the parent calls `save_hyperparameters`."""

    def __init__(self, vocab_size=None, img_dim=6, embed_dim=8, scale=2.0, loss=None):
        super().__init__(vocab_size, img_dim, embed_dim, loss=loss)
        self.scale = scale

    similarity = scaled


class Wider(Scaled):
    """Gives its parent another value of an argument that both have."""

    def __init__(self, vocab_size=None, img_dim=6, embed_dim=4, more=1.0, loss=None):
        super().__init__(vocab_size, img_dim, 2 * embed_dim, scale=3.0, loss=loss)
        self.more = more

    def similarity(self, images, captions):
        return self.more + super().similarity(images, captions)


class Collects(MeanMatcher):
    """Passes what it does not know to its parent, and does not name `vocab_size`."""

    def __init__(self, scale=2.0, **options):
        super().__init__(**options)
        self.scale = scale

    similarity = scaled


class Narrow(VSEPP):
    """Fixes options of a model of the library, and saves its own arguments."""

    def __init__(self, vocab_size=None, img_dim=6, scale=2.0, activation=torch.tanh, loss=None):
        super().__init__(vocab_size, img_dim, word_dim=4, embed_dim=8, loss=loss)
        self.save_hyperparameters(ignore=[*OBJECTS, "activation"])
        self.scale = scale

    similarity = scaled


class Grouped(SCAN):
    """Fixes one option of a group."""

    def __init__(self, vocab_size=None, img_dim=6, scale=2.0, activation=torch.tanh, loss=None):
        super().__init__(vocab_size, img_dim, word_dim=4, embed_dim=8, direction="i2t", loss=loss)
        self.scale = scale

    def similarity(self, images, captions):
        return self.scale * super().similarity(images, captions)


class Wordless(Matcher):
    """Has neither `vocab_size` nor a call of `save_hyperparameters`."""

    def __init__(self, scale=2.0, loss=None):
        super().__init__(loss)
        self.scale = scale
        self.image, self.text = torch.nn.Linear(6, 8), torch.nn.EmbeddingBag(20, 8)

    def encode_images(self, images):
        return Encoded(self.image(images.regions.mean(1)))

    def encode_captions(self, captions):
        return Encoded(self.text(captions.tokens))

    similarity = scaled


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (Scaled, {"scale": 5.0}),
        (Wider, {"embed_dim": 6, "more": 4.0}),
        (Collects, {"scale": 5.0, "img_dim": 6, "embed_dim": 8}),
        (Narrow, {"scale": 5.0}),
        (Grouped, {"scale": 5.0}),
        (Wordless, {"scale": 5.0}),
    ],
    ids=lambda x: getattr(x, "__name__", ""),
)
def test_a_matcher_that_extends_another_is_loaded_with_its_own_arguments(kind, options, tmp_path):
    size = {} if kind is Wordless else {"vocab_size": len(VOCAB)}
    matcher = kind(**size, **options)
    matcher.vocab = VOCAB
    wanted = matcher.score(FEATURES, CAPTIONS)
    matcher.save_pretrained(tmp_path / "saved")
    for loaded in (
        kind.from_pretrained(tmp_path / "saved"),
        itm.load(tmp_path / "saved", model_class=kind),
    ):
        np.testing.assert_array_equal(loaded.score(FEATURES, CAPTIONS), wanted)


@pytest.mark.parametrize("value", [Path("folder"), torch.ones(2)], ids=["path", "tensor"])
def test_an_argument_that_no_file_holds_is_named_before_the_training(value, tmp_path):
    class Odd(MeanMatcher):
        def __init__(self, vocab_size=None, img_dim=6, where=None, loss=None):
            super().__init__(vocab_size, img_dim, 8, loss=loss)
            self.save_hyperparameters(ignore=OBJECTS)

    with pytest.warns(UserWarning, match="Odd can be trained, but not loaded .* because of where"):
        matcher = Odd(len(VOCAB), where=value, loss=Triplet())
    with pytest.raises(ValueError, match=r"Odd cannot be saved with where=.*must be plain data"):
        matcher.save_pretrained(tmp_path / "saved")


def test_a_subclass_that_passes_no_sizes_on_says_so():
    """It had ended with a bare AssertionError of its parent."""

    class Passes(SCAN):
        def __init__(self, scale=2.0, **options):
            super().__init__(**options)
            self.scale = scale

    with pytest.raises(TypeError, match="Passes extends .*vocab_size=None.*or give vocab_size"):
        Passes(embed_dim=8)
    assert Passes(vocab_size=20, img_dim=6, embed_dim=8).scale == 2.0
