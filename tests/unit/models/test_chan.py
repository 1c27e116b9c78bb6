"""Test CHAN: the original's numbers, a plain loop over pairs, gradients, padding, bad input."""

import itertools
import json
import math
from functools import partial

import numpy as np
import pytest
import torch
from golden_metrics import check_metrics, check_options
from goldens_path import case, read_npz
from omegaconf import OmegaConf
from torch import nn
from torch.nn.utils.rnn import pad_sequence

from itm.app.config import compose
from itm.batch import Encoded
from itm.data.augmentation import drop_words, keep_regions
from itm.data.padding import make_captions, make_images
from itm.layers import cross_attention
from itm.layers.cross_attention import Blocking
from itm.losses import Triplet
from itm.models import CHAN
from itm.models.chan import matching
from itm.models.chan.matching import CODINGS, POOLINGS, HardAlignment
from itm.published.chan import write
from itm.published.convert import from_published, read_checkpoint, save_published
from itm.text.word_vectors import word_vectors

CASES = [
    "gru_lse",
    "gru_lse_coco_allneg",
    "bert_mean",
    "bert_mean_ragged_warmup",
    "gru_basic_grid",
    "gru_augmented",
    "bert_augmented",
]


class Golden:
    """A golden case: its matcher, test images (each once), captions, training data, numbers."""

    def __init__(self, name):
        self.folder = case(f"chan/{name}")
        self.options = json.loads((self.folder / "options.json").read_text())
        self.expected = read_npz(self.folder / "expected.npz")
        self.bert = self.options["text_enc_type"] == "bert"
        self.path = self.folder / "checkpoint.pth.tar"
        self.matcher = self.read(self.path)
        self.images, self.captions = self.split("test")
        scale = 5 if self.options["pooling_type"] == "LSEPooling" else 1
        self.tolerance = scale * 1e-6

    def read(self, path):
        known = {"text": self.folder / "bert"} if self.bert else {"vocab": self.vocab}
        return from_published(path, **known)

    @property
    def vocab(self):
        return self.folder / "vocab.json"

    def split(self, name):
        (data,) = (self.folder / "data").iterdir()
        lines = (data / f"{name}_caps.txt").read_bytes().decode().split("\n")
        captions = [line for line in lines if line]
        images = np.load(data / f"{name}_ims.npy")
        images = images[::5] if len(images) == len(captions) else images
        lengths = data / f"{name}_lens.npy"
        if lengths.is_file():
            images = [x[:n] for x, n in zip(images, np.load(lengths), strict=True)]
        return images, captions

    def batch(self, step):
        """The training batch of a step, with the recorded augmentation if there is any."""
        images, captions = self.split("train")
        rows = self.expected["batch_rows"]
        tokens, features = None, [images[row // 5] for row in rows]
        if "aug_rows" in self.expected:
            rows = self.expected["aug_rows"][step]
            kept = [
                keep_regions(u, self.options["obj_drop_rate"])
                for u in self.expected["aug_region_u"][step]
            ]
            assert [x.sum() for x in kept] == self.expected["aug_regions"][step].tolist()
            features = [images[row // 5][x] for row, x in zip(rows, kept, strict=True)]
            tokens = [self.dropped(captions[row], step, k) for k, row in enumerate(rows)]
        pairs = self.matcher.pairs(features, [captions[row] for row in rows])
        if tokens is None:
            return pairs
        index = list(range(len(rows)))
        return pairs._replace(captions=make_captions(tokens, index, index))

    def dropped(self, caption, step, k):
        words, before, after = self.matcher.vocab.by_word(caption)
        draws = self.expected["aug_word_u"][step, k]
        draws = draws[~np.isnan(draws)]
        assert len(draws) == len(words)
        ids = self.expected["aug_word_random"][step, k]
        found = drop_words(words, draws, ids, 0.2, self.matcher.vocab.mask_id)
        return [*before, *found, *after]


def widened(pairs):
    return pairs._replace(images=pairs.images._replace(regions=pairs.images.regions.double()))


def double_scores(matcher, images, captions):
    owner = [c // 5 for c in range(len(captions))]
    pairs = widened(matcher.pairs(images, captions, image=owner))
    with torch.no_grad():
        return matcher.eval()(pairs.images, pairs.captions).numpy()


@pytest.fixture(params=CASES)
def golden(request):
    return Golden(request.param)


def test_golden_encodings_words_and_regions(golden):
    expected = golden.expected
    owner = [c // 5 for c in range(len(golden.captions))]
    pairs = golden.matcher.pairs(golden.images, golden.captions, image=owner)
    np.testing.assert_array_equal(pairs.captions.tokens, expected["cap_ids"])
    np.testing.assert_array_equal(pairs.captions.lengths, expected["cap_len"])
    with torch.no_grad():
        images = golden.matcher.encode_images(pairs.images)
        captions = golden.matcher.encode_captions(pairs.captions)
        weights = golden.matcher.attention(images, captions)
    np.testing.assert_allclose(images.parts, expected["img_emb"], atol=1e-6)
    np.testing.assert_allclose(captions.parts, expected["cap_emb"], atol=1e-6)
    real = np.broadcast_to(captions.mask, weights[:, :, 0].shape)
    np.testing.assert_array_equal(np.where(real, weights.argmax(2), -1), expected["word_region"])
    np.testing.assert_array_equal(weights.sum(2), real)
    best = torch.einsum("icrl,ird,cld->icl", weights, images.parts, captions.parts)
    np.testing.assert_allclose(best.numpy()[real], expected["word_max"][real], atol=1e-6)


def test_golden_similarity_and_ranks(golden):
    found = golden.matcher.score(golden.images, golden.captions)
    np.testing.assert_allclose(found, golden.expected["sims"], atol=golden.tolerance)
    check_metrics(golden.expected, found)


@pytest.mark.parametrize("masked", [False, True], ids=["published", "masked"])
def test_golden_five_steps(golden, masked):
    """In float64; with `attend_padding` as published, without it as in the masked variant."""
    expected, options = golden.expected, golden.options
    ending = "_masked" if masked else ""
    if f"losses{ending}" not in expected:
        ending = ""  # without augmentation all images have the same number of regions
    elif golden.matcher.block is not None:
        golden.matcher.block.attend_padding = not masked
    matcher = golden.matcher.double().train()
    first = widened(golden.batch(0))
    width = int(first.captions.tokens.shape[1])
    np.testing.assert_array_equal(first.captions.tokens, expected["batch_tokens"][:, :width])
    np.testing.assert_array_equal(first.captions.lengths, expected["batch_lengths"])
    scores = matcher(first.images, first.captions)
    np.testing.assert_allclose(scores.detach(), expected[f"batch_sims{ending}"], atol=1e-8)
    if not ending:
        for name in ("all", "hardest"):
            loss = float(Triplet(options["margin"], name)(scores.detach(), first))
            assert loss == pytest.approx(float(expected[f"loss_{name}"]), rel=1e-10)
    decay = 1e-4 if golden.bert else 1e-2
    matcher.optimizer = partial(torch.optim.AdamW, lr=5e-4, weight_decay=decay)
    optimizer = matcher.configure_optimizers()
    losses, norms = [], []
    for step in range(5):
        # The original's groups: text without BERT, BERT, image (with the rate of the first).
        rates = expected["lrs"][step]
        for group in optimizer.param_groups:
            group["lr"] = rates[1] if group["name"] == "bert" else rates[0]
        negatives = str(expected["negatives"][step])
        matcher.loss = Triplet(options["margin"], negatives)
        optimizer.zero_grad()
        loss = matcher.losses(widened(golden.batch(step)))["total"]
        loss.backward()
        norms.append(float(nn.utils.clip_grad_norm_(matcher.parameters(), 2.0)))
        optimizer.step()
        losses.append(loss.item())
    np.testing.assert_allclose(losses, expected[f"losses{ending}"], rtol=1e-10)
    np.testing.assert_allclose(norms, expected[f"grad_norms{ending}"], rtol=1e-10)
    after = double_scores(matcher, golden.images, golden.captions)
    np.testing.assert_allclose(after, expected[f"sims_after{ending}"], atol=1e-8)
    assert_saved(matcher, expected, ending)


def assert_saved(matcher, expected, ending):
    """Sum and norm of every tensor in the original's form."""
    image, text = write(matcher)[0][:2]
    tensors = {f"image.{k}": v for k, v in image.items()} | {
        f"text.{k}": v for k, v in text.items()
    }
    names = [str(x) for x in expected[f"after_names{ending}"]]
    sums, sizes = expected[f"after_sum{ending}"], expected[f"after_norm{ending}"]
    for name, total, size in zip(names, sums, sizes, strict=True):
        if name.startswith("text.fc."):  # never used, not kept
            continue
        value = tensors[name].double()
        np.testing.assert_allclose(value.sum(), total, atol=1e-8, err_msg=name)
        np.testing.assert_allclose(value.norm(), size, atol=1e-8, err_msg=name)


def test_golden_single_precision_losses(golden):
    matcher = golden.matcher.train()
    if golden.matcher.block is not None:
        golden.matcher.block.attend_padding = True
    matcher.loss = Triplet(golden.options["margin"], str(golden.expected["negatives"][0]))
    loss = float(matcher.losses(golden.batch(0))["total"].detach())
    assert loss == pytest.approx(float(golden.expected["losses"][0]), rel=1e-5)


def test_golden_augmented_tokens():
    for name in ("gru_augmented", "bert_augmented"):
        golden = Golden(name)
        for step in range(5):
            captions = golden.batch(step).captions
            tokens, lengths = (golden.expected[f"aug_{x}"][step] for x in ("tokens", "lengths"))
            np.testing.assert_array_equal(captions.lengths, lengths)
            width = captions.tokens.shape[1]
            np.testing.assert_array_equal(captions.tokens, tokens[:, :width])
            assert not tokens[:, width:].any()


def test_golden_grid_of_codings_and_poolings():
    golden = Golden("gru_basic_grid")
    names = {"LogSumExp": "LSE"}
    for coding, pooling in itertools.product(CODINGS, POOLINGS):
        golden.matcher.matching = HardAlignment(coding, pooling)
        found = golden.matcher.score(golden.images, golden.captions)
        assert np.isfinite(found).all()
        if pooling != "Softmax":  # NaN in the original wherever there is padding
            key = f"grid_{coding}Coding_{names.get(pooling, pooling)}Pooling"
            np.testing.assert_allclose(found, golden.expected[key], atol=1e-5, err_msg=key)


def test_golden_word_vectors():
    """Which line of the file of vectors initialises which row of the embedding."""
    golden = Golden("gru_lse")
    path = golden.folder / "wemb.txt"
    lines = path.read_text(encoding="utf-8").splitlines()
    words = golden.matcher.vocab.words
    start = np.full((len(words), 12), 7.0)
    found = word_vectors(words, path, missing=start)
    for row, line in enumerate(golden.expected["wemb_row"]):
        given = np.array(lines[line].split()[1:], np.float32) if line >= 0 else start[row]
        np.testing.assert_allclose(found[row], given, rtol=1e-6, err_msg=words[row])


def test_published_round_trip(golden, tmp_path):
    save_published(golden.matcher, tmp_path / "again.pth.tar")
    states, options = read_checkpoint(golden.path)
    again, written = read_checkpoint(tmp_path / "again.pth.tar")
    for before, after in zip(states, again, strict=True):
        assert before.keys() == after.keys()
        unused = {"fc.weight", "fc.bias"} if "rnn.weight_ih_l0" in before else set()
        assert all(torch.equal(before[key], after[key]) for key in before.keys() - unused)
    rest = {
        "word2idx",
        "wemb_type",
        "obj_drop_rate",
        *({"word_dim", "num_layers"} if golden.bert else ()),
    }
    check_options(options, written, rest)
    matcher = golden.read(tmp_path / "again.pth.tar")
    assert matcher.hparams == golden.matcher.hparams
    found = matcher.score(golden.images, golden.captions)
    scores = golden.matcher.score(golden.images, golden.captions)
    np.testing.assert_allclose(found, scores, atol=1e-6)


# Plain loops --------------------------------------------------------------------------------------


def plain_score(v, w, o):
    """Score one image (R, D) and one caption (L, D) by the equations, one word at a time."""
    s = [[float(a @ b) for b in w] for a in v]
    if o.coding == "VHA":
        u = [max(s[r][k] for r in range(len(v))) for k in range(len(w))]
    elif o.coding == "THA":
        u = [max(row) for row in s]
    else:
        u = []
        for row, region in zip(s, v, strict=True):
            e = [math.exp(x / o.alpha) for x in row]
            attended = sum(x / sum(e) * word for x, word in zip(e, w, strict=True))
            u.append(float(attended @ region) / (float(attended.norm()) + 1e-8))
    e = [math.exp(x / o.beta) for x in u]
    return {
        "LogSumExp": math.log(sum(e)) * (o.beta if o.scale_lse else 1),
        "Mean": sum(u) / len(u),
        "Max": max(u),
        "Sum": sum(u),
        "Softmax": sum(x * y for x, y in zip(e, u, strict=True)) / sum(e),
    }[o.pooling]


def sides(regions, words):
    """Make `Encoded` sides from lists of (R_i, D) and (L_c, D); padding must not matter."""

    def side(parts):
        padded = pad_sequence(parts, batch_first=True, padding_value=7.0)
        mask = pad_sequence([torch.ones(len(x)) for x in parts], batch_first=True) > 0
        return Encoded(parts=padded, mask=mask)

    return side(regions), side(words)


def random_sides(seed, regions=(4, 2, 4), words=(5, 3, 5, 2, 6, 3)):
    torch.manual_seed(seed)
    return [
        [nn.functional.normalize(torch.randn(n, 7, dtype=torch.float64), dim=-1) for n in counts]
        for counts in (regions, words)
    ]


BLOCKINGS = {  # one block, many blocks, groups with padding
    "whole": Blocking(0.0, 1 << 62, 1 << 62),
    "pieces": Blocking(0.0, 40, 12),
    "padded": Blocking(1.0, 1 << 62, 1 << 62),
    "padded pieces": Blocking(0.5, 60, 20),
}
GRID = [
    HardAlignment(coding, pooling, 0.3, 0.2, scale)
    for coding, pooling, scale in itertools.product(CODINGS, POOLINGS, (False, True))
]


@pytest.mark.parametrize("blocking", BLOCKINGS.values(), ids=BLOCKINGS)
@pytest.mark.parametrize("regions", [(4, 2, 4), (3, 3)], ids=["ragged", "equal"])
def test_scores_and_gradients_equal_a_loop_over_pairs(blocking, regions, monkeypatch):
    monkeypatch.setattr(matching, "CACHE", blocking)
    for seed, options in enumerate(GRID):
        v, w = random_sides(seed, regions)
        expected = [[plain_score(a, b, options) for b in w] for a in v]
        images, captions = sides(v, w)
        with torch.no_grad():
            found = options.similarity(images, captions)
        np.testing.assert_allclose(found, expected, atol=1e-10, err_msg=str(options))
        leaves = (images.parts.requires_grad_(), captions.parts.requires_grad_())

        def scores(a, b, options=options, images=images, captions=captions):
            return options.similarity(images._replace(parts=a), captions._replace(parts=b))

        np.testing.assert_allclose(scores(*leaves).detach(), expected, atol=1e-10)
        assert torch.autograd.gradcheck(scores, leaves, fast_mode=True), options


def test_the_gradient_goes_through_the_first_of_equal_regions_alone():
    region = nn.functional.normalize(torch.ones(1, 1, 4), dim=-1)
    images = Encoded(parts=region.repeat(1, 3, 1).requires_grad_(), mask=torch.ones(1, 3) > 0)
    captions = Encoded(parts=region.repeat(1, 2, 1), mask=torch.ones(1, 2) > 0)
    HardAlignment().similarity(images, captions).sum().backward()
    assert images.parts.grad[0, 0].abs().sum() > 0 and not images.parts.grad[0, 1:].any()
    chosen = HardAlignment().weights(images, captions)
    assert chosen[0, 0].tolist() == [[1, 1], [0, 0], [0, 0]]


@pytest.mark.parametrize("coding", CODINGS)
def test_weights_mark_what_the_score_uses(coding):
    v, w = random_sides(4)
    images, captions = sides(v, w)
    weights = HardAlignment(coding, alpha=0.3).weights(images, captions)
    for i, c in itertools.product(range(3), range(6)):
        s = v[i] @ w[c].T
        expected = torch.zeros(4, 6, dtype=s.dtype)
        part = expected[: len(v[i]), : len(w[c])]
        if coding == "VHA":
            part[s.argmax(0), torch.arange(s.shape[1])] = 1
        elif coding == "THA":
            part[torch.arange(len(s)), s.argmax(1)] = 1
        else:
            part[:] = torch.softmax(s / 0.3, 1)
        torch.testing.assert_close(weights[i, c], expected)


@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize("pooling", POOLINGS)
def test_zero_vectors_and_missing_regions_give_finite_scores_and_gradients(coding, pooling):
    torch.manual_seed(0)
    regions, words = torch.randn(3, 3, 5), torch.randn(2, 4, 5)
    regions[0], words[1, 2] = 0, 0
    mask = torch.ones(3, 3, dtype=torch.bool)
    mask[2] = False  # an image without regions
    leaves = [regions.requires_grad_(), words.requires_grad_()]
    images = Encoded(parts=leaves[0] * mask[..., None], mask=mask)
    captions = Encoded(parts=leaves[1], mask=torch.ones(2, 4, dtype=torch.bool))
    scores = HardAlignment(coding, pooling).similarity(images, captions)
    gradients = torch.autograd.grad(scores.sum(), leaves)
    assert scores.isfinite().all() and all(x.isfinite().all() for x in gradients)


# Region attention ---------------------------------------------------------------------------------


def small(seed=0, **options):
    torch.manual_seed(seed)
    sizes = {"vocab_size": 30, "img_dim": 12, "word_dim": 6, "embed_dim": 16}
    return CHAN(**{**sizes, **options}, loss=Triplet())


def plain_attention(block, x):
    """f + Attention(LN(f)) of one image (R, D), head by head, in plain loops."""
    width = x.shape[1] // 8
    normed = (x - x.mean(1, keepdim=True)) / (x.var(1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    normed = normed * block.norm.weight + block.norm.bias
    q, k, v = (normed @ block.project_in.weight.T + block.project_in.bias).chunk(3, 1)
    heads = []
    for h in range(8):
        part = slice(h * width, (h + 1) * width)
        weights = torch.softmax(q[:, part] @ k[:, part].T / math.sqrt(width), 1)
        heads.append(weights @ v[:, part])
    return x + torch.cat(heads, 1) @ block.project_out.weight.T + block.project_out.bias


def test_the_block_equals_a_loop_over_heads_and_ignores_padding():
    block = small().double().block
    for p in block.parameters():
        nn.init.normal_(p, std=0.5)
    x = torch.randn(3, 5, 16, dtype=torch.float64)
    mask = torch.arange(5) < torch.tensor([5, 3, 1])[:, None]
    found = block(x, mask)
    for row, own, real in zip(x, found, mask, strict=True):
        torch.testing.assert_close(own[real], plain_attention(block, row[real]))
    block.attend_padding = True
    leaked = block.train()(x, mask)
    for row, own in zip(x, leaked, strict=True):
        torch.testing.assert_close(own, plain_attention(block, row))


def test_masking_is_the_default_and_the_leak_an_option():
    rng = np.random.default_rng(0)
    features = [rng.standard_normal((n, 12)).astype(np.float32) for n in (5, 3)]
    for leaks in (False, True):
        matcher = small(attend_padding=leaks)
        together = matcher.encode_images(make_images(features, [0, 1])).parts[1, :3]
        alone = matcher.encode_images(make_images(features[1:], [0])).parts[0]
        assert (together - alone).abs().max() < 1e-6 or leaks
        assert (together - alone).abs().max() > 1e-4 or not leaks
        vectors = matcher.eval().encode_images(make_images(features, [0, 1])).parts[1, :3]
        alone = matcher.encode_images(make_images(features[1:], [0])).parts[0]
        assert (vectors - alone).abs().max() < 1e-6  # evaluation never reads padding


# Options and files --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"coding": "VHACoding"}, "coding must be 'VHA', 'THA'.* or 'VSA', got 'VHACoding'"),
        ({"pooling": "mean"}, "pooling must be 'LogSumExp', 'Mean'.* got 'mean'"),
        ({"beta": 0}, "beta must be above 0"),
        ({"alpha": -1}, "alpha must be above 0"),
        ({"embed_dim": 12}, "embed_dim must be a multiple of 8, got 12"),
        ({"text": {"name": "mean"}}, "text=gru or text=bert"),
    ],
)
def test_unknown_options(options, message):
    with pytest.raises(ValueError, match=message):
        small(**options)
    assert small(self_attention=False, embed_dim=12).block is None


def test_the_configuration_lists_the_arguments_in_order():
    config = OmegaConf.to_container(compose(["model=chan", "~recipe"]).model)
    assert config.pop("_target_") == "itm.models.chan.CHAN"
    defaults = dict(CHAN(9).hparams)
    given = {"vocab_size": None, "img_dim": None, "text": {"name": "gru"}}
    assert config == {**defaults, **given} and list(config) == list(defaults)


def test_the_block_starts_as_the_attention_of_pytorch():
    torch.manual_seed(0)
    block = CHAN(9, img_dim=8, embed_dim=256).block
    theirs = nn.MultiheadAttention(256, 8)
    pairs = [(block.project_in.weight, theirs.in_proj_weight)]
    pairs += [(block.project_out.weight, theirs.out_proj.weight)]
    for ours, other in pairs:
        assert ours.std().item() == pytest.approx(other.std().item(), rel=0.02)
        assert ours.abs().max().item() == pytest.approx(other.abs().max().item(), rel=0.02)
    assert not block.project_in.bias.any() and not block.project_out.bias.any()


def test_words_start_as_in_the_original():
    torch.manual_seed(0)
    table = CHAN(500, img_dim=8, word_dim=20, embed_dim=16).text.embed.weight
    assert table.abs().max().item() == pytest.approx(math.sqrt(6 / 520), rel=0.01)
    assert table.std().item() == pytest.approx(math.sqrt(2 / 520), rel=0.02)


def rewritten(golden, path, **options):
    data = torch.load(golden.path, weights_only=False)
    for name, value in options.items():
        setattr(data["opt"], name, value)
        if value is None:
            delattr(data["opt"], name)
    torch.save(data, path)
    return path


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"coding_type": None}, "chan weights without their 'coding_type'"),
        ({"belta": None}, "chan weights without their 'belta'"),
        ({"no_txtnorm": None}, "chan weights without their 'no_txtnorm'"),
        (
            {"belta": None, "alpha": None},
            r"'alpha', 'belta': give options=\{'alpha': \.\.\., 'belta': \.\.\.\}",
        ),
        ({"alpha": "0.1"}, "the option alpha must be of type float"),
        ({"pooling_type": "TopK"}, "pooling_type.*'LSEPooling'"),
        (
            {"precomp_enc_type": "selfattention"},
            "say precomp_enc_type=selfattention, its tensors b",
        ),
        ({"text_enc_type": "bert"}, "say text_enc_type=bert, its tensors bigru"),
        ({"embed_size": 20}, "say embed_size=20, its tensors 18"),
    ],
)
def test_options_that_the_tensors_do_not_tell_are_asked_for(options, message, tmp_path):
    golden = Golden("gru_basic_grid")
    path = rewritten(golden, tmp_path / "m.pth.tar", **options)
    with pytest.raises(ValueError, match=message):
        golden.read(path)


def test_two_state_dicts_with_a_coding_are_chan_and_without_are_not(tmp_path):
    golden = Golden("gru_basic_grid")
    data = torch.load(golden.path, weights_only=False)
    data["model"] = data["model"][:2]
    torch.save(data, tmp_path / "two.pth.tar")
    found = golden.read(tmp_path / "two.pth.tar").score(golden.images, golden.captions)
    np.testing.assert_allclose(found, golden.expected["sims"], atol=1e-6)


def test_attention_over_the_batch_is_refused(tmp_path):
    golden = Golden("gru_augmented")
    data = torch.load(golden.path, weights_only=False)
    image = data["model"][0]
    image["feedforward.mlp.c_fc.weight"] = torch.zeros(64, 16)
    torch.save(data, tmp_path / "m.pth.tar")
    with pytest.raises(ValueError, match="precomp_enc_type=transformer.* expected basic"):
        golden.read(tmp_path / "m.pth.tar")


def test_a_mask_is_appended_to_the_vocabulary_and_nothing_else_is_guessed(tmp_path):
    golden = Golden("gru_basic_grid")
    data = json.loads(golden.vocab.read_text(encoding="utf-8"))
    assert "<mask>" not in data["word2idx"] and golden.matcher.vocab.words[-1] == "<mask>"
    last = max(data["word2idx"], key=data["word2idx"].get)
    del data["word2idx"][last]
    data.pop("idx2word", None)
    (tmp_path / "short.json").write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(ValueError, match="55 words, but the embedding table .* has 57 rows"):
        from_published(golden.path, vocab=tmp_path / "short.json")


def test_the_word_list_in_the_options_is_read():
    golden = Golden("gru_lse")
    matcher = from_published(golden.path)
    assert matcher.vocab == golden.matcher.vocab


def test_a_bert_needs_its_folder_and_only_that(tmp_path):
    golden, gru = Golden("bert_augmented"), Golden("gru_basic_grid")
    with pytest.raises(ValueError, match="neither its configuration nor its words: give text="):
        from_published(golden.path)
    with pytest.raises(ValueError, match="words come from text=: leave vocab= out"):
        from_published(golden.path, vocab=gru.vocab, text=golden.folder / "bert")
    with pytest.raises(ValueError, match="text= belongs to weights with a BERT"):
        from_published(gru.path, vocab=gru.vocab, text=golden.folder / "bert")
    with pytest.raises(ValueError, match=r"text=/no/folder is neither a folder nor a hub name"):
        from_published(golden.path, text="/no/folder")
    with pytest.raises(ValueError, match=r"text= is bert= of itm.convert"):  # as it is run there
        from_published(golden.path)
    other = Golden("bert_augmented").folder / "bert"
    vocab = (other / "vocab.txt").read_text(encoding="utf-8")
    folder = tmp_path / "bert"
    folder.mkdir()
    for name in ("config.json", "tokenizer_config.json"):
        (folder / name).write_bytes((other / name).read_bytes())
    (folder / "vocab.txt").write_text(vocab + "zebra\n", encoding="utf-8")
    with pytest.raises(ValueError, match="110 word pieces, but .* vectors for 109"):
        from_published(golden.path, text=folder)


def test_blocks_are_those_of_cross_attention():
    assert matching.CACHE is cross_attention.CACHE
