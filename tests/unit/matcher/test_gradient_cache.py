import numpy as np
import pytest
import torch
from torch import nn
from toy import MeanMatcher

from itm.losses import SAM, Neighborhood, Triplet
from itm.matcher.gradient_cache import caption_chunks, image_chunks
from itm.matcher.loss_terms import encode_pairs
from itm.models import CASC, CHAN, CVSE, SCAN, VSEPP, VSRN, TwoBranchEmbedding, VSEInfinity
from itm.text.vocabulary import SPECIALS, Vocabulary

WORDS = Vocabulary([*SPECIALS, "a", "dog", "cat", "runs", "red", "fast"])
LINES = ["a dog runs fast", "red cat", "a cat", "dog", "a red dog runs", "fast cat runs", "red dog"]
SMALL = {"vocab_size": len(WORDS), "img_dim": 6, "embed_dim": 8}
MODELS = {
    "mean": lambda: MeanMatcher(**SMALL),
    "scan": lambda: SCAN(**SMALL, word_dim=4),
    "chan": lambda: CHAN(**SMALL, word_dim=4),
    "casc": lambda: CASC(**SMALL, word_dim=4, num_labels=3, hidden=4),
    "vsepp": lambda: VSEPP(**SMALL, word_dim=4),
    "pcmepp": lambda: VSEInfinity(**SMALL, word_dim=4, mlp=False, probabilistic=True),
    "cvse": lambda: CVSE(
        **SMALL, word_dim=4, num_concepts=3, concept_dim=4, use_batchnorm=False, dropout=0.0
    ),
}


def built(make, loss=None):
    torch.manual_seed(0)
    matcher = make().double()
    matcher.vocab, matcher.loss = WORDS, loss or Triplet()
    return matcher.train()


def batch(matcher, per_image=1):
    rng = np.random.default_rng(0)
    image = np.arange(len(LINES)) // per_image
    regions = [rng.normal(size=(3 - i % 2, 6)) for i in range(image[-1] + 1)]
    pairs = matcher.pairs(
        regions, LINES, image=image.tolist(), labels=np.eye(3)[np.arange(len(LINES)) % 3],
        relevance=rng.random((len(regions), len(LINES))),
    )  # fmt: skip
    captions = pairs.captions._replace(labels=pairs.captions.labels.double())
    images = pairs.images._replace(regions=pairs.images.regions.double())
    return pairs._replace(images=images, captions=captions, relevance=pairs.relevance.double())


def gradients(matcher, pairs, size):
    matcher.zero_grad()
    matcher.chunk_size = size
    terms = matcher.losses(pairs)
    terms["total"].backward()
    return terms, {name: p.grad.clone() for name, p in matcher.named_parameters()}


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
@pytest.mark.parametrize("name", MODELS)
def test_gradients_are_those_of_the_whole_batch(name, size):
    matcher = built(MODELS[name])
    pairs = batch(matcher)
    terms, whole = gradients(matcher, pairs, None)
    same, chunked = gradients(matcher, pairs, size)
    for key, value in terms.items():
        torch.testing.assert_close(same[key], value, rtol=1e-9, atol=1e-9)
    for key, value in whole.items():
        torch.testing.assert_close(chunked[key], value, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("loss", [SAM(), Neighborhood(top_k=2)])
def test_with_other_losses_and_several_captions_per_image(loss):
    matcher = built(MODELS["mean"], loss)
    pairs = batch(matcher, per_image=2)
    torch.manual_seed(1)  # SAM draws
    _, whole = gradients(matcher, pairs, None)
    torch.manual_seed(1)
    _, chunked = gradients(matcher, pairs, 2)
    for key, value in whole.items():
        torch.testing.assert_close(chunked[key], value, rtol=1e-6, atol=1e-9)


class Dropped(MeanMatcher):
    """Use dropout on both sides."""

    def encode_images(self, images):
        kept = nn.functional.dropout(images.regions, 0.5, self.training)
        return super().encode_images(images._replace(regions=kept))


def test_both_passes_drop_the_same():
    matcher = built(lambda: Dropped(**SMALL))
    pairs = batch(matcher)
    torch.manual_seed(7)
    loss, chunked = gradients(matcher, pairs, 3)
    # The same chunks, drawn in the same order, with one graph for all.
    matcher.zero_grad()
    torch.manual_seed(7)
    images = [matcher.encode_images(x).vector for x in image_chunks(pairs.images, 3)]
    captions = [matcher.encode_captions(x).vector for x in caption_chunks(pairs.captions, 3)]
    total = matcher.loss(torch.cat(images) @ torch.cat(captions).T, pairs)
    total.backward()
    torch.testing.assert_close(loss["total"], total)
    for name, p in matcher.named_parameters():
        torch.testing.assert_close(chunked[name], p.grad, rtol=1e-9, atol=1e-12)
    assert gradients(matcher, pairs, 3)[0]["total"] != total  # it does draw


def test_the_first_pass_keeps_no_graph():
    """Measure the bytes kept for the backward pass: those of one chunk, not of the batch."""
    matcher = built(MODELS["scan"])
    pairs = batch(matcher)
    held = []

    def pack(x):
        held[-1] += x.nbytes
        return x

    for size in (None, 1):
        held.append(0)
        matcher.chunk_size = size
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            sides = encode_pairs(matcher, pairs)
        assert all(side.parts.requires_grad for side in sides)
    assert held[1] < held[0] / 10


@pytest.mark.parametrize(
    "make", [lambda: VSRN(**SMALL, word_dim=4), lambda: TwoBranchEmbedding(**SMALL, hidden_dim=8)]
)
def test_batch_norm_is_refused(make):
    matcher = built(make)
    matcher.chunk_size = 2
    with pytest.raises(ValueError, match=r"batch norm .* leave chunk_size out"):
        matcher.losses(batch(matcher))


def test_a_size_below_one_is_refused():
    matcher = built(MODELS["mean"])
    matcher.chunk_size = 0
    with pytest.raises(ValueError, match="chunk_size must be at least 1.* got 0"):
        matcher.losses(batch(matcher))
