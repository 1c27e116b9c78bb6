"""Score and embed plain data; the matcher's mode is restored."""

import warnings
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from pytorch_lightning import Trainer
from torch import nn
from toy import MeanMatcher

import itm
from itm.batch import Captions, Encoded, Images, Pairs
from itm.data import RegionDataModule, read_split
from itm.index import Index
from itm.losses import Triplet
from itm.matcher import OBJECTS, Matcher, explain
from itm.matcher.inputs import caption_batches, image_batches
from itm.matcher.split_scores import score_split
from itm.models import SCAN, SGRAF, VSEPP, TwoBranchEmbedding, VSEInfinity
from itm.scenes import write_scenes
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


def reads(model):
    """What takes the images of a matcher."""
    return (
        lambda x: model.score(x, LINES),
        lambda x: model.embed(x),
        lambda x: model.pairs(x, LINES[: len(x)]),
        lambda x: Index(model, x),
    )


@pytest.mark.parametrize("kind", [SCAN, VSEInfinity])
def test_one_image_is_not_several_images(kind):
    """X[0] of a model of regions has the shape of as many vectors as it has regions."""
    model = build(kind)
    for use in reads(model):
        with pytest.raises(ValueError, match=rf"\(2, 6\).*{kind.__name__} reads regions.*X\[:1\]"):
            use(FEATURES[0])
        with pytest.raises(ValueError, match=r"an image of shape \(6,\).*x\[None\]"):
            use(list(FEATURES[0]))
        use(FEATURES[:1])
        use(FEATURES[0][:, None])
    with pytest.raises(ValueError, match=r"an image of shape \(6,\).*x\[None\]"):
        Index(model, FEATURES, captions=LINES).search(features=FEATURES[0, 0])
    with pytest.raises(ValueError, match=r"each image of a list must be \(R, F\), got \(3, 2, 6\)"):
        model.score([FEATURES], LINES)


def test_vectors_are_images_of_a_model_that_averages_regions():
    model = build(VSEPP)
    for use in reads(model):
        use(FEATURES[0])
    np.testing.assert_array_equal(
        model.score(FEATURES[0], LINES), model.score(FEATURES[0][:, None], LINES)
    )


@pytest.mark.parametrize("level", ["image", "region"])
def test_the_level_decides_what_a_two_branch_network_reads(level):
    model = build(TwoBranchEmbedding, hidden_dim=4, level=level)
    if level == "image":
        assert model.score(FEATURES[0], LINES).shape == (2, 4)
        return
    with pytest.raises(ValueError, match=r"TwoBranchEmbedding reads regions"):
        model.score(FEATURES[0], LINES)


def test_an_explanation_is_of_one_image():
    with pytest.raises(ValueError, match=r"must be those of one image, \(R, F\), got \(1, 2, 6\)"):
        explain(build(), FEATURES[:1], "a dog")
    with pytest.raises(ValueError, match=r"an image of shape \(6,\)"):
        explain(build(), FEATURES[0, 0], "a dog")


def test_a_data_folder_of_vectors(tmp_path):
    """A model of regions refuses it before training and before an evaluation."""
    root = write_scenes(tmp_path / "scenes", images=(8, 4, 4))
    for name in ("train", "dev", "test"):
        path = root / f"{name}_ims.npy"
        np.save(path, np.load(path).mean(1))
        (root / f"{name}_boxes.npy").unlink()
    options = {"accelerator": "cpu", "fast_dev_run": True, "enable_progress_bar": False}
    options |= {"enable_model_summary": False, "logger": False}
    message = r"train_ims.npy of .* is \(8, 64\), one vector per image, but SCAN reads regions"
    data = RegionDataModule(root, min_count=1)
    with pytest.raises(ValueError, match=message):
        Trainer(**options).fit(SCAN(embed_dim=8, loss=Triplet()), data)
    with pytest.raises(ValueError, match=message):
        itm.build("scan", overrides=[f"data.root={root}"])
    vectors = VSEPP(embed_dim=8, loss=Triplet())
    Trainer(**options).fit(vectors, RegionDataModule(root, min_count=1))
    model = SCAN(len(vectors.vocab), img_dim=64, embed_dim=8)
    model.vocab = vectors.vocab
    with pytest.raises(ValueError, match=r"test_ims.npy of .* one vector per image, but SCAN"):
        score_split(model, read_split(root, "test"))


def test_parts_in_eval_mode_stay_frozen_after_scoring():
    matcher = build().train()
    matcher.text.eval()
    matcher.score(FEATURES, LINES)
    assert matcher.training and not any(module.training for module in matcher.text.modules())


@pytest.mark.parametrize(
    "shape, kind", [((2, 4), "float32"), ((3, 5), "float32"), ((3, 4), "float64")]
)
def test_scores_go_into_an_array_of_their_own_shape_and_type(shape, kind):
    with pytest.raises(ValueError, match=r"float32 of shape \(3, 4\).*got " + kind):
        build().score(FEATURES, LINES, out=np.zeros(shape, kind))


@pytest.mark.parametrize("size", [0, -3])
def test_a_batch_has_a_row(size):
    with pytest.raises(ValueError, match=f"batch_size={size} must be at least 1"):
        build().score(FEATURES, LINES, batch_size=size)


@pytest.mark.parametrize("kind", [SCAN, SGRAF])
def test_threads_share_a_matcher_that_trains(kind):
    options = {"num_regions": 2, "sim_dim": 4, "module": "SAF"} if kind is SGRAF else {}
    matcher = build(kind, **options).train()
    matcher.text.eval()  # frozen by the user
    modes = {name: module.training for name, module in matcher.named_modules()}
    state = {name: x.clone() for name, x in matcher.state_dict().items()}
    expected = matcher.score(FEATURES, LINES)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: matcher.score(FEATURES, LINES), range(40)))
    assert all(np.array_equal(scores, expected) for scores in found)
    assert {name: module.training for name, module in matcher.named_modules()} == modes
    torch.testing.assert_close(matcher.state_dict(), state, rtol=0, atol=0)


def test_a_part_of_the_rows_needs_a_place_to_write_to():
    matcher = build()
    images = matcher.encode(image_batches(FEATURES, 1))
    captions = matcher.encode(caption_batches(matcher, LINES, 2))
    for part in (images[1:], [*images, images[0]]):
        with pytest.raises(ValueError, match="rows of the encoded images are not 0 to N-1"):
            matcher.score_encoded(part, captions)
    with pytest.raises(ValueError, match="rows of the encoded captions"):
        matcher.score_encoded(images, captions[:1])
    out = np.full((3, 4), np.nan, np.float32)
    matcher.score_encoded(images[1:], captions, out)
    assert np.isnan(out[0]).all() and np.isfinite(out[1:]).all()


@pytest.mark.parametrize("convert", ["half", "bfloat16"])
def test_weights_in_half_precision_are_refused(convert):
    matcher = getattr(build(), convert)()
    for use in (
        lambda: matcher.score(FEATURES, LINES),
        lambda: matcher.embed(captions=LINES),
        lambda: Index(matcher, FEATURES),
    ):
        with pytest.raises(ValueError, match=r"weights of this matcher are b?float16.*\.float\(\)"):
            use()


def test_the_rows_of_a_batch_are_checked():
    matcher, two = build(), FEATURES[:2]
    for wrong, said in (
        ({"image": [0.9, 1.0]}, "image must be a list of whole numbers, got float64"),
        ({"image": [True, False]}, "image must be a list of whole numbers, got bool"),
        ({"image": {0, 1}}, "image must be a list of whole numbers; got a set"),
        ({"ids": [36979.6, 36979.2]}, "ids must be a list of whole numbers, got float64"),
        ({"ids": ["a", "b"]}, "ids must be a list of whole numbers"),
        ({"ids": [5]}, "ids must hold 2 numbers, one per image; got 1"),
        ({"labels": np.ones((3, 4))}, r"labels of 2 images and 2 captions must begin with \(2,\)"),
        ({"relevance": np.ones((2, 3))}, r"relevance .* must begin with \(2, 2\)"),
    ):
        with pytest.raises(ValueError, match=said):
            matcher.pairs(two, LINES[:2], **wrong)
    same = matcher.pairs(two, LINES[:2], np.array([1, 0]), ids=torch.tensor([7, 7]))
    assert same.captions.image.tolist() == [1, 0] and same.images.index.tolist() == [7, 7]


def test_sentence_vectors_without_numbers_are_refused():
    matcher = TwoBranchEmbedding(img_dim=6, sentence_dim=5, text={"name": "vectors"}, hidden_dim=8)
    vectors = np.ones((4, 5), np.float32)
    vectors[2, 1] = np.nan
    with pytest.raises(ValueError, match="sentence vector 2 holds NaN"):
        matcher.score(FEATURES, vectors)


@pytest.mark.parametrize(
    "change", [lambda s: s.T, lambda s: s[:, :1], lambda s: s.sum(), lambda s: s.tolist()]
)
def test_scores_of_another_shape_are_refused(change):
    """numpy would broadcast them."""

    class Own(MeanMatcher):
        def similarity(self, images, captions):
            return change(super().similarity(images, captions))

    matcher = Own(len(VOCAB), 6)
    matcher.vocab = VOCAB
    with pytest.raises(ValueError, match=r"similarity\(images, captions\) must return a tensor"):
        matcher.score(FEATURES, LINES)


def test_an_encoder_must_return_encodings():
    class Bare(MeanMatcher):
        def encode_captions(self, captions):
            return super().encode_captions(captions).vector

    matcher = Bare(len(VOCAB), 6, loss=Triplet())
    matcher.vocab = VOCAB
    with pytest.raises(TypeError, match="encode_captions must return itm.batch.Encoded.*a Tensor"):
        matcher.score(FEATURES, LINES)
    for matcher.chunk_size in (None, 2):
        with pytest.raises(
            TypeError, match="encode_captions must return itm.batch.Encoded.*a Tens"
        ):
            matcher.losses(matcher.pairs(FEATURES, LINES[:3]))


@pytest.mark.parametrize("kind", [SCAN, SGRAF])
def test_no_images_and_no_captions_are_an_empty_batch(kind):
    sizes = {"num_regions": 2, "sim_dim": 4} if kind is SGRAF else {}
    pairs = build(kind, **sizes).pairs(FEATURES[:0], [])
    assert pairs.images.regions.shape == (0, 2, 6)


def test_half_a_character_is_named():
    with pytest.raises(ValueError, match=r"the caption 'a \\ud800 dog' is not valid text"):
        build().score(FEATURES, ["a dog", "a \ud800 dog"])


def test_the_mask_of_a_batch_marks_its_regions():
    """SCAN took a mask of another shape, and `forward` features of another width."""
    matcher = SCAN(20, 6, word_dim=4, embed_dim=8, loss=Triplet())
    row, regions = torch.arange(2), torch.rand(2, 5, 6)
    captions = Captions(torch.ones(2, 3).long(), (3, 3), row, row)
    wrong = Images(regions, torch.ones(2, 4, dtype=torch.bool), row)
    message = r"regions \(I, R, F\) and a mask \(I, R\), got \(2, 5, 6\) and \(2, 4\)$"
    for call in (
        lambda: matcher(wrong, captions),
        lambda: matcher.losses(Pairs(wrong, captions)),
        lambda: matcher.encode([wrong]),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    with pytest.raises(ValueError, match="only a trainer looks up the features of data.resident"):
        matcher(wrong._replace(regions=regions[:, :0]), captions)
    with pytest.raises(ValueError, match="7 wide, but SCAN reads 6"):
        matcher(Images(torch.rand(2, 5, 7), torch.ones(2, 5) > 0, row), captions)


def test_captions_are_checked_before_images_are_encoded(monkeypatch):
    matcher = build()
    monkeypatch.setattr(matcher, "encode_images", lambda images: pytest.fail("encoded"))
    with pytest.raises(ValueError, match="caption 1 must be a string, got int"):
        matcher.score(FEATURES, ["a dog", 3])
    split = SimpleNamespace(
        view=lambda: FEATURES, captions=["a dog", 3], num_images=len(FEATURES), caption_image=[0, 1]
    )
    with pytest.raises(ValueError, match="caption 1 must be a string, got int"):
        score_split(matcher, split)


class PartsOnly(Matcher):
    """Defines no score, and no global vectors for the score of `Matcher`."""

    def encode_images(self, images):
        return Encoded(parts=images.regions, mask=images.mask)

    def encode_captions(self, captions):
        parts = torch.zeros(*captions.tokens.shape, 6)
        return Encoded(parts=parts, mask=captions.tokens > 0)


def test_a_matcher_of_parts_must_define_its_score():
    matcher = PartsOnly()
    matcher.vocab = VOCAB
    with pytest.raises(TypeError, match=r"PartsOnly has no global vectors.*define similarity"):
        matcher.score(FEATURES, LINES)


def test_what_belongs_to_a_batch_is_copied():
    """It may be read-only, such as a memory map, and is the caller's own."""
    matcher, relevance = build(), np.ones((3, 3), np.float32)
    pairs = matcher.pairs(FEATURES, LINES[:3], relevance=relevance)
    pairs.relevance.zero_()
    assert relevance.all()
    relevance.setflags(write=False)
    for given in (relevance, relevance[::-1], torch.ones(3, 3, requires_grad=True)):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert matcher.pairs(FEATURES, LINES[:3], relevance=given).relevance.all()
