"""What holds for every model of conf/model: padding, gradients, precision, files, wrong inputs."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import itm
from itm.app.config import compose, instantiate
from itm.batch import Pairs
from itm.losses import Triplet
from itm.matcher.saved import save
from itm.models import CVSE, SGRAF
from itm.published.convert import from_published, read_checkpoint, save_published
from itm.text.concepts import Concepts
from itm.text.vocabulary import SPECIALS, Vocabulary

MODELS = [name for name in itm.list_models() if name not in ("scan", "sgraf")]  # two are aliases
WORDS = Vocabulary([*SPECIALS, "a", "dog", "cat", "runs", "red", "two"])
CAPTIONS = ["a dog runs", "two red cat", "a", "a red dog runs a cat"]
TINY = {
    "vocab_size": len(WORDS),
    "img_dim": 6,
    "num_regions": 3,
    "num_labels": 3,
    "num_concepts": 3,
    "word_dim": 4,
    "embed_dim": 8,
    "hidden_dim": 8,
    "joint_dims": [8, 4],
    "sim_dim": 4,
    "hidden": 4,
    "concept_dim": 4,
    "num_gcn": 2,
    "caption_dim": 4,
    "caption_word_dim": 4,
    "caption_max_len": 8,
    "dropout": 0.0,
    "caption_dropout": 0.0,
}


def made(name, **options):
    """A tiny matcher from its configuration, with biases and statistics that are not 0 and 1."""
    node = compose([f"model={name}", "~recipe"]).model
    torch.manual_seed(0)
    sizes = {key: value for key, value in TINY.items() if key in node}
    matcher = instantiate(node, **{**sizes, **options})
    with torch.no_grad():
        for key, value in matcher.state_dict().items():
            if key.endswith("running_var") or (key.endswith("norm.weight") and value.dim() == 1):
                value.uniform_(0.5, 1.5)
            elif key.endswith(("bias", "running_mean")):
                value.normal_(0, 0.1)
    matcher.loss = Triplet(margin=5.0, negatives="all")  # no kink near by
    matcher.vocab = WORDS
    return matcher.eval()


def features(matcher, seed=0):
    """Four images, of different numbers of regions where the model takes that."""
    x = np.random.default_rng(seed).normal(size=(4, 3, 6)).astype(np.float32)
    return x if matcher.num_regions else [x[0], x[1, :2], x[2, :1], x[3]]


def batch(matcher, rows=slice(None)):
    labels = np.eye(3, dtype=np.float32)[[0, 1, 2, 0]][rows]
    return matcher.pairs(features(matcher)[rows], CAPTIONS[rows], labels=labels, concepts=labels)


def widened(pairs):
    """In float64."""
    images, captions = pairs[:2]
    labels = {k: getattr(captions, k).double() for k in ("labels", "concepts")}
    images = images._replace(regions=images.regions.double())
    return pairs._replace(images=images, captions=captions._replace(**labels))


@pytest.fixture(params=MODELS)
def name(request):
    return request.param


# Numbers ------------------------------------------------------------------------------------------


def test_neither_padding_nor_company_nor_order_change_a_score(name):
    matcher = made(name)
    images, scores = features(matcher), matcher.score(features(matcher), CAPTIONS)
    alone = [[matcher.score(images[i : i + 1], [c])[0, 0] for c in CAPTIONS] for i in range(4)]
    np.testing.assert_allclose(alone, scores, atol=1e-6)
    turned = matcher.score(images[::-1], CAPTIONS[::-1], batch_size=3)
    np.testing.assert_allclose(turned[::-1, ::-1], scores, atol=1e-6)
    matcher.memory_budget = 1  # blocks of one pair
    np.testing.assert_allclose(matcher.score(images, CAPTIONS), scores, atol=1e-6)
    pairs = matcher.pairs(images, CAPTIONS)
    if not matcher.num_regions:
        padded = F.pad(pairs.images.regions, (0, 0, 0, 2), value=9.0)
        mask = F.pad(pairs.images.mask, (0, 2))
        pairs = pairs._replace(images=pairs.images._replace(regions=padded, mask=mask))
    tokens = F.pad(pairs.captions.tokens, (0, 2), value=5)
    with torch.no_grad():
        found = matcher(pairs.images, pairs.captions._replace(tokens=tokens))
    np.testing.assert_allclose(found, scores, atol=1e-6)


class Repeated(TorchDispatchMode):
    """Note batched products in which one matrix is repeated for each row of the batch."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if "bmm" in function._schema.name:
            matrices = [x for x in args if isinstance(x, torch.Tensor) and min(x.shape) > 1]
            self.found += [tuple(x.shape) for x in matrices if x.stride(0) == 0]
        return function(*args, **(kwargs or {}))


def test_no_weight_is_repeated_for_each_row(name):
    # `linear` does so with rows that are not contiguous, if nothing needs a gradient; SGR's
    # scoring in bfloat16 took three times as long.
    matcher = made(name)
    with Repeated() as repeated:
        matcher.score(features(matcher), CAPTIONS)
    assert not repeated.found


class Total(nn.Module):
    """The total loss as a function of all parameters."""

    def __init__(self, matcher):
        super().__init__()
        self.matcher = matcher

    def forward(self, pairs: Pairs):
        return self.matcher.losses(pairs)["total"]


def test_gradients_are_exact_and_reach_every_parameter_that_does_something(name):
    matcher = made(name).double().train()
    pairs = widened(batch(matcher))
    total, used = Total(matcher), {k: p for k, p in matcher.named_parameters() if p.requires_grad}

    def loss(regions, *values):
        state = {f"matcher.{key}": x for key, x in zip(used, values, strict=True)}
        given = pairs._replace(images=pairs.images._replace(regions=regions))
        return torch.func.functional_call(total, state, (given,))

    leaves = [x.detach().clone().requires_grad_() for x in (pairs.images.regions, *used.values())]
    assert torch.autograd.gradcheck(loss, leaves, fast_mode=True, atol=1e-6)
    value = loss(*leaves)
    gradients = torch.autograd.grad(value, leaves, allow_unused=True)[1:]
    for k, (key, gradient) in enumerate(zip(used, gradients, strict=True), 1):
        if gradient is None or gradient.abs().max() < 1e-9:
            moved = [x + 0.5 * (j == k) for j, x in enumerate(leaves)]
            torch.testing.assert_close(loss(*moved), value, rtol=1e-9, atol=0, msg=key)
            # A bias before a batch norm, a softmax or a ranking; edges between nodes that two steps
            # of averaging have made equal.
            assert key.endswith(("bias", "steps.2.query.weight", "steps.2.key.weight")), key


def test_bfloat16_stays_within_its_precision(name):
    """Its numbers have 8 bits: a few roundings by 2^-9 one after the other."""
    matcher = made(name, embed_dim=32)
    pairs = batch(matcher)
    exact, losses = matcher(*pairs[:2]), matcher.losses(pairs)
    with torch.autocast("cpu", torch.bfloat16):
        rough, reduced = matcher(*pairs[:2]), matcher.losses(pairs)
    assert rough.dtype == torch.float32
    spread = max(1.0, float(exact.detach().abs().max()))
    torch.testing.assert_close(rough, exact, atol=4 * 2**-9 * spread, rtol=0)
    torch.testing.assert_close(reduced["total"], losses["total"], atol=0, rtol=2 * 2**-9)
    reduced["total"].backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in matcher.parameters())


def test_a_batch_of_one(name):
    matcher = made(name)
    pairs = batch(matcher, slice(1))
    assert matcher(*pairs[:2]).shape == (1, 1) and matcher.losses(pairs)["total"].isfinite()
    matcher.train()
    if isinstance(matcher, SGRAF | CVSE):
        with pytest.raises(ValueError, match=r"cannot train on a batch of (1|one)"):
            matcher.losses(pairs)
    else:
        matcher.losses(pairs)["total"].backward()
        assert all(p.grad is None or p.grad.isfinite().all() for p in matcher.parameters())


# Files --------------------------------------------------------------------------------------------

# The forms of which weights were published, where the configuration's own is none of them.
ORIGINAL = {
    "two_branch_similarity": {
        "text": {"name": "vectors"}, "sentence_dim": 5, "level": "region", "norm_axis": "regions",
        "bn_eps": 1e-3,
    },
}  # fmt: skip


def reads_words(matcher):
    return getattr(matcher.text, "needs_words", False)


def sentences(matcher):
    if reads_words(matcher):
        return CAPTIONS
    return np.random.default_rng(1).normal(size=(4, 5)).astype(np.float32)


def again(matcher, path):
    """The matcher, written as the original would and read."""
    save_published(matcher, path)
    concepts = None
    if isinstance(matcher, CVSE):
        concepts = Concepts(["dog", "cat", "red"], vectors=matcher.graph.vectors.numpy())
    read = from_published(path, WORDS if reads_words(matcher) else None, concepts)
    read.concepts = matcher.concepts
    return read


def test_published_form_and_folder_keep_every_score(name, tmp_path):
    matcher = made(name, **ORIGINAL.get(name, {}))
    images, captions = features(matcher), sentences(matcher)
    scores = matcher.score(images, captions)
    first = again(matcher, tmp_path / "model_best.pth.tar")
    second = again(first, tmp_path / "again.pth.tar")
    for read in (first, second):
        assert type(read) is type(matcher)
        np.testing.assert_allclose(read.score(images, captions), scores, atol=1e-6)
    files = (tmp_path / file for file in ("model_best.pth.tar", "again.pth.tar"))
    for one, other in zip(*(read_checkpoint(file)[0] for file in files), strict=True):
        assert one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)
    save(matcher, tmp_path / "folder")
    np.testing.assert_array_equal(itm.load(tmp_path / "folder").score(images, captions), scores)


CHANGES = {
    "scan_t2i": [
        {"direction": "i2t"}, {"temperature": 3.0}, {"aggregation": "Max"}, {"raw_norm": "softmax"},
        {"aggregation": "LogSumExp", "lambda_lse": 2.0}, {"normalize_words": False},
        {"normalize_images": False}, {"weight_norm": True}, {"bidirectional": False},
        {"num_layers": 2},
    ],
    "vsrn": [
        {"use_abs": True}, {"no_imgnorm": True}, {"region_norm": "none"}, {"final_bn": True},
        {"region_norm": "none", "final_bn": True}, {"num_layers": 2}, {"caption_weight": 0.0},
    ],
    "vsepp": [
        {"measure": "order"}, {"measure": "order", "use_abs": True}, {"use_abs": True},
        {"no_imgnorm": True}, {"num_layers": 2},
    ],
    "vse_infty": [
        {"no_imgnorm": True}, {"no_txtnorm": True}, {"num_layers": 2}, {"mlp": False},
        {"probabilistic": True}, {"probabilistic": True, "mlp": False},
    ],
    "sgr": [
        {"temperature": 4.0}, {"sgr_steps": 2}, {"no_imgnorm": True}, {"no_txtnorm": True},
        {"bidirectional": False}, {"num_layers": 2},
    ],
    "saf": [{"temperature": 4.0}, {"bidirectional": False}],
    "cvse": [
        {"eval_alpha": 0.5}, {"consensus_weight": 0.5}, {"concept_ratio": 0.7}, {"num_layers": 2},
        {"activation": "sigmoid"}, {"fusion": "multiple"}, {"use_batchnorm": False}, {"alpha": 0.5},
        {"bidirectional": False},
    ],
    "casc": [
        {"alpha": 0.3}, {"direction": "t2i"}, {"direction": "i2t"}, {"t2i_temperature": 3.0},
        {"i2t_temperature": 3.0}, {"t2i_aggregation": "LogSumExp"}, {"i2t_aggregation": "Max"},
        {"lambda_lse": 2.0}, {"raw_norm": "l2norm"}, {"weight_norm": True},
        {"normalize_words": False}, {"normalize_images": False}, {"bidirectional": False},
    ],
    "chan": [
        {"coding": "THA"}, {"coding": "VSA"}, {"coding": "VSA", "alpha": 0.5}, {"beta": 0.3},
        {"pooling": "Mean"}, {"pooling": "Max"}, {"pooling": "Sum"}, {"pooling": "Softmax"},
        {"scale_lse": True}, {"self_attention": False}, {"attend_padding": True},
        {"normalize_words": False}, {"normalize_images": False}, {"num_layers": 2},
    ],
    "two_branch_embedding": [
        {"level": "region"}, {"bn_eps": 0.1}, {"text": {"name": "attend"}},
        {"text": {"name": "vectors"}, "sentence_dim": 5}, {"text": {"name": "gru"}},
        {"text": {"name": "vectors"}, "sentence_dim": 5, "level": "region"},
    ],
    "two_branch_similarity": [
        {"level": "image", "norm_axis": "features"}, {"norm_axis": "features"}, {"num_experts": 2},
        {"bn_eps": 0.1}, {"text": {"name": "mean"}},
    ],
}  # fmt: skip


@pytest.mark.parametrize(("name", "change"), [(n, x) for n in CHANGES for x in CHANGES[n]])
def test_what_the_original_cannot_say_is_refused_not_lost(name, change, tmp_path):
    """Every option that changes scores is in the published form, or there is no published form."""
    matcher = made(name, **{**ORIGINAL.get(name, {}), **change})
    images, captions = features(matcher), sentences(matcher)
    try:
        read = again(matcher, tmp_path / "model_best.pth.tar")
    except ValueError as error:
        assert "original" in str(error) or "published" in str(error)  # noqa: PT017
        return
    expected = matcher.score(images, captions)
    np.testing.assert_allclose(read.score(images, captions), expected, atol=1e-6)


# Wrong inputs -------------------------------------------------------------------------------------


def test_features_of_another_width_are_named(name):
    matcher, wide = made(name), np.zeros((2, 3, 7), np.float32)
    uses = (
        lambda: matcher.score(wide, ["a dog"]),
        lambda: matcher.embed(wide),
        lambda: matcher.pairs(wide, CAPTIONS[:2]),
        lambda: matcher.score(wide[0, :2], ["a dog"]),  # (N, F), one vector for each image
    )
    for use in uses:
        with pytest.raises(ValueError, match=rf"7 wide, but {type(matcher).__name__} reads 6.*=7"):
            use()


@pytest.mark.parametrize("name", ["sgr", "saf", "cvse"])
def test_another_number_of_regions_is_named(name):
    matcher = made(name)
    assert matcher.num_regions == 3
    for regions in (2, 4):
        with pytest.raises(ValueError, match=rf"exactly 3 regions.*got {regions} to {regions}"):
            matcher.score(np.zeros((2, regions, 6), np.float32), ["a dog"])
    short = [np.zeros((n, 6), np.float32) for n in (3, 2)]
    with pytest.raises(ValueError, match="exactly 3 regions.*got 2 to 3"):
        matcher.score(short, ["a dog"])


def concepts_of(name):
    return Concepts(["dog", "cat", "red"], vectors=np.zeros((3, 4))) if name == "cvse" else None


def test_a_vocabulary_of_another_size_is_named(name, tmp_path):
    matcher = made(name, **ORIGINAL.get(name, {}))
    if reads_words(matcher):
        more = Vocabulary([*WORDS.words, "zebra"])
        concepts = concepts_of(name)
        save_published(matcher, tmp_path / "m.pth.tar")
        with pytest.raises(ValueError, match="has 11 words, but the embedding .* 10"):
            from_published(tmp_path / "m.pth.tar", more, concepts)
        matcher.vocab = more
        with pytest.raises(ValueError, match="the vocabulary has 11 words, but .* for only 10"):
            matcher.score(features(matcher), CAPTIONS)


FAMILY = {"SCAN": "scan", "CHAN": "chan", "VSRN": "vsrn", "VSEPP": "vsepp", "SGRAF": "sgraf",
          "VSEInfinity": "vse_infty", "CVSE": "cvse", "CASC": "casc",
          "TwoBranchEmbedding": "two_branch_embedding",
          "TwoBranchSimilarity": "two_branch_similarity"}  # fmt: skip


@pytest.mark.parametrize("name", CHANGES)
def test_foreign_missing_and_additional_tensors_are_named(name, tmp_path):
    matcher = made(name, **ORIGINAL.get(name, {}))
    family, path = FAMILY[type(matcher).__name__], tmp_path / "model_best.pth.tar"
    concepts = concepts_of(name)
    save_published(matcher, path)
    data = torch.load(path, weights_only=False)
    for other in set(FAMILY.values()) - {family}:
        with pytest.raises(ValueError, match=f"are not those of {other}"):
            from_published(path, concepts=concepts, family=other)

    def read():
        torch.save({"model": data["model"], "opt": data["opt"]}, path)
        return from_published(path, concepts=concepts, family=family)

    whole = read().state_dict()
    for state in data["model"]:
        for key, value in list(state.items()):
            del state[key]
            try:  # an error, or nothing is lost: CVSE has copies; a port has no word vectors
                found = read().state_dict()
            except ValueError:
                pass
            else:
                same = all(torch.equal(found[k], whole[k]) for k in whole.keys() & found.keys())
                assert same and (found.keys() == whole.keys() or key == "words.weight"), key
            state[key] = value
    text = data["model"][min(1, len(data["model"]) - 1)]
    key, value = next(reversed(text.items()))
    for wrong, message in (
        ({key: value[:0]}, r"is \(0,[ \d]*\), expected"),
        ({key: value, f"{key}_odd": value}, "unexpected .*_odd"),
    ):
        text.update(wrong)
        with pytest.raises(ValueError, match=message):
            read()
