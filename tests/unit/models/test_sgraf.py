"""Test SGRAF: the original's numbers, a loop over captions, gradients, precision, bad input."""

import copy
import inspect
import itertools
import json
import math
import weakref
from unittest import mock

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from golden_metrics import check_metrics, check_options
from goldens_path import case, read_npz, shared
from torch import nn

from itm.app.config import compose
from itm.batch import Captions, Encoded, Images, Pairs
from itm.checkpoints.folder import load
from itm.layers.packing import pack
from itm.losses import Triplet
from itm.matcher.saved import save
from itm.models import SGRAF
from itm.models.sgraf import attention, filtration, nodes, sgraf
from itm.models.sgraf.attention import unit_attention, word_attention
from itm.models.sgraf.filtration import AttentionFiltration
from itm.models.sgraf.graph import GraphStep
from itm.models.sgraf.nodes import SimilarityNodes
from itm.published.convert import from_published, read_checkpoint, save_published
from itm.published.sgraf import write

SINGLE = [
    "sgr",
    "saf",
    "sgr_coco",
    "saf_coco",
    "sgr_step1_unigru_sumloss",
    "saf_unigru_nonorm_2layer",
]
MODULES = ["SGR", "SAF"]


# The original's numbers ---------------------------------------------------------------------------


class Golden:
    """A golden case: its matcher, images (each once), captions, options and expected arrays."""

    def __init__(self, name, checkpoint="checkpoint.pth.tar"):
        folder = case(f"sgraf/{name}")
        self.options = json.loads((folder / "options.json").read_text())
        self.expected = read_npz(folder / "expected.npz")
        self.path = folder / checkpoint
        self.matcher = from_published(self.path, vocab=folder / "vocab.json")
        negatives = "hardest" if self.options["max_violation"] else "all"
        self.matcher.loss = Triplet(self.options["margin"], negatives)
        (data,) = (folder / "data").iterdir()
        lines = (data / "test_caps.txt").read_bytes().decode().split("\n")
        self.captions = [line for line in lines if line]
        self.image = [c // 5 for c in range(len(self.captions))]
        images = np.load(data / "test_ims.npy")
        self.images = images[::5] if len(images) == len(self.captions) else images

    def batch(self):
        rows, images = self.expected["batch_captions"], self.expected["batch_images"]
        return self.matcher.pairs(self.images[images], [self.captions[row] for row in rows])

    def encoded(self, image, caption):
        pairs = self.matcher.pairs(self.images[[image]], [self.captions[caption]])
        return (
            self.matcher.encode_images(pairs.images),
            self.matcher.encode_captions(pairs.captions),
        )


def without_dropout(matcher):
    """Switch to training mode without dropout, as in the golden cases."""
    matcher.train()
    for module in matcher.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return matcher


@pytest.mark.parametrize("name", SINGLE)
def test_golden_encodings_scores_and_ranks(name):
    golden = Golden(name)
    expected, n = golden.expected, len(golden.images)
    pairs = golden.matcher.pairs(golden.images, golden.captions, image=golden.image)
    np.testing.assert_array_equal(pairs.captions.tokens, expected["token_ids"])
    np.testing.assert_array_equal(pairs.captions.lengths, expected["cap_len"])
    with torch.no_grad():
        images = golden.matcher.encode_images(pairs.images)
        captions = golden.matcher.encode_captions(pairs.captions)
    np.testing.assert_allclose(images.parts, expected["img_emb"][:n], atol=1e-6)
    np.testing.assert_allclose(captions.parts, expected["cap_emb"], atol=1e-6)
    found = golden.matcher.score(golden.images, golden.captions)
    np.testing.assert_allclose(found, expected["sims"], atol=5e-6)
    check_metrics(expected, found)


@pytest.mark.parametrize("name", SINGLE)
def test_golden_pictures_of_a_pair(name):
    golden = Golden(name)
    expected, matcher = golden.expected, golden.matcher
    with torch.no_grad():
        images, captions = golden.encoded(*expected["pair"])
        np.testing.assert_allclose(images.vector[0], expected["pair_img_glo"].ravel(), atol=1e-6)
        np.testing.assert_allclose(captions.vector[0], expected["pair_cap_glo"].ravel(), atol=1e-6)
        for side, module, key in (
            (images, matcher.image_global, "pair_vsa_weights"),
            (captions, matcher.text_global, "pair_tsa_weights"),
        ):
            (weights,) = module.weights(side.parts, side.mask)
            np.testing.assert_allclose(weights, expected[key], atol=1e-6)
        attention = matcher.attention(images, captions)[0, 0]
        np.testing.assert_allclose(attention, expected["pair_attn"], atol=1e-6)
        context = F.normalize(attention.T @ images.parts[0], dim=-1)
        np.testing.assert_allclose(context, expected["pair_context"], atol=1e-6)
        packed = pack(captions)
        ((nodes, _),) = matcher._nodes(images, captions, packed)  # (1, 1, 1 + L, K)
        np.testing.assert_allclose(nodes[0, 0], expected["pair_sim_emb"], atol=1e-6)
        for vectors in (matcher.reduce(nodes), matcher._vectors(images, captions, packed)):
            wanted = expected["pair_sim_vec"].ravel()
            np.testing.assert_allclose(vectors[0, 0], wanted, atol=1e-6)
        scores = matcher.similarity(images, captions)
        np.testing.assert_allclose(scores, expected["pair_sim"], atol=1e-6)
        if golden.options["module_name"] == "SAF":
            weights = matcher.node_weights(images, captions)[0]
            np.testing.assert_allclose(weights, expected["pair_saf_attn"], atol=1e-6)
        else:
            edges = matcher.edges(images, captions)[0, 0]
            assert len(edges) == golden.options["sgr_step"]
            for k, found in enumerate(edges):
                np.testing.assert_allclose(found, expected[f"pair_sgr_edge{k}"], atol=1e-6)
            x = nodes[0]  # (1, 1 + L, K)
            for k, step in enumerate(matcher.reduce.steps):
                x = step(x)
                np.testing.assert_allclose(x[0], expected[f"pair_sgr_out{k}"], atol=1e-6)


@pytest.mark.parametrize("name", SINGLE)
def test_golden_batch_and_five_steps(name):
    golden = Golden(name)
    matcher, expected, pairs = golden.matcher, golden.expected, golden.batch()
    np.testing.assert_array_equal(pairs.captions.tokens, expected["batch_tokens"])
    np.testing.assert_array_equal(pairs.captions.lengths, expected["batch_lengths"])
    with torch.no_grad():
        found = matcher(pairs.images, pairs.captions)
        np.testing.assert_allclose(found, expected["batch_sims_eval"], atol=5e-6)
        assert float(matcher.losses(pairs)["total"]) == pytest.approx(
            float(expected["loss_eval"]), rel=1e-5
        )
        trained = without_dropout(copy.deepcopy(matcher))(pairs.images, pairs.captions)
        np.testing.assert_allclose(trained, expected["batch_sims_train"], atol=5e-6)
    without_dropout(matcher)
    optimizer = torch.optim.Adam(matcher.parameters(), golden.options["learning_rate"])
    losses, norms = [], []
    for _ in range(5):
        optimizer.zero_grad()
        loss = matcher.losses(pairs)["total"]
        loss.backward()
        norms.append(nn.utils.clip_grad_norm_(matcher.parameters(), golden.options["grad_clip"]))
        optimizer.step()
        losses.append(loss.item())
    np.testing.assert_allclose(losses, expected["losses"], rtol=2e-5)
    np.testing.assert_allclose(norms, expected["grad_norms"], rtol=1e-3)
    after = matcher.score(golden.images, golden.captions)
    np.testing.assert_allclose(after, expected["sims_after"], atol=2e-4)
    buffers = {key[6:]: expected[key] for key in expected if key.startswith("after/")}
    assert ("SAF_module.bn.running_mean" in buffers) == (golden.options["module_name"] == "SAF")
    similarity = write(matcher)[0][2]
    for key, value in buffers.items():
        np.testing.assert_allclose(similarity[key], value, atol=2e-3, err_msg=key)


def test_golden_ensemble():
    first = Golden("ensemble_sgr_saf")
    second = Golden("ensemble_sgr_saf", "checkpoint2.pth.tar")
    found = [g.matcher.score(g.images, g.captions) for g in (first, second)]
    np.testing.assert_allclose(found[0], first.expected["sims1"], atol=5e-6)
    np.testing.assert_allclose(found[1], first.expected["sims2"], atol=5e-6)
    np.testing.assert_allclose(np.mean(found, 0), first.expected["sims"], atol=5e-6)
    for prefix, scores in (("m1_", found[0]), ("m2_", found[1]), ("", np.mean(found, 0))):
        check_metrics(first.expected, scores, prefix)


def test_golden_legacy_checkpoint():
    folder = shared("goldens/sgraf/sgr")
    new = from_published(folder / "checkpoint.pth.tar")
    old = from_published(folder / "checkpoint_legacy.pth.tar")
    assert new.hparams == old.hparams
    for name, value in new.state_dict().items():
        assert torch.equal(value, old.state_dict()[name]), name


@pytest.mark.parametrize("name", SINGLE)
def test_published_round_trip(name, tmp_path):
    golden = Golden(name)
    save_published(golden.matcher, tmp_path / "again.pth.tar")
    states, options = read_checkpoint(golden.path)
    again, written = read_checkpoint(tmp_path / "again.pth.tar")
    for before, after in zip(states, again, strict=True):
        assert before.keys() == after.keys()
        assert all(torch.equal(before[key], after[key]) for key in before)
    check_options(options, written)
    again = from_published(tmp_path / "again.pth.tar")
    assert again.hparams == golden.matcher.hparams
    again.vocab = golden.matcher.vocab
    scores = [m.score(golden.images, golden.captions) for m in (again, golden.matcher)]
    np.testing.assert_allclose(*scores, atol=1e-6)


def test_own_folder_round_trip(tmp_path):
    golden = Golden("saf")
    save(golden.matcher, tmp_path)
    again = load(tmp_path)
    scores = again.score(golden.images, golden.captions)
    np.testing.assert_allclose(scores, golden.expected["sims"], atol=5e-6)


def test_the_original_has_one_temperature_and_a_gru():
    with pytest.raises(ValueError, match=r"temperature 9; this one has GRUText, 4\.0"):
        write(small("SGR", temperature=4.0))


# A plain loop over captions -----------------------------------------------------------------------


def small(module, seed=0, num_regions=5, dropout=0.0, **options):
    """Draw random weights; biases and running statistics differ from 0 and 1."""
    torch.manual_seed(seed)
    sizes = {"vocab_size": 30, "img_dim": 8, "word_dim": 6, "embed_dim": 10, "sim_dim": 7}
    matcher = SGRAF(
        **{**sizes, **options},
        module=module,
        num_regions=num_regions,
        dropout=dropout,
        loss=Triplet(),
    )
    with torch.no_grad():
        for name, value in matcher.state_dict().items():
            if name.endswith("bias") or "norm.running_mean" in name:
                value.normal_(0, 0.1)
            elif name.endswith("running_var"):
                value.uniform_(0.2, 0.5)
    return matcher


def random_pairs(seed=0, size=6, lengths=(4, 7, 2, 4, 7, 5, 4), num_regions=5):
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.zeros(len(lengths), max(lengths), dtype=torch.long)
    for row, n in zip(tokens, lengths, strict=True):
        row[:n] = torch.randint(1, 30, (n,), generator=generator)
    regions = torch.randn(size, num_regions, 8, generator=generator)
    images = Images(regions, torch.ones(size, num_regions, dtype=torch.bool), torch.arange(size))
    columns = torch.arange(len(lengths))
    return Pairs(images, Captions(tokens, tuple(lengths), columns, columns % size))


def unit(x, dim=-1):
    return x / (x.norm(dim=dim, keepdim=True) + 1e-8)


def loop(matcher, images, captions):
    """Score caption by caption, longest first, as published, (I, C); updates SAF's statistics."""
    lengths = captions.mask.sum(1).tolist()
    columns = [None] * len(lengths)
    for c in sorted(range(len(lengths)), key=lambda c: -lengths[c]):
        words = captions.parts[c, : lengths[c]]
        nodes = []
        for regions, vector in zip(images.parts, images.vector, strict=True):
            scores = regions @ words.T  # (R, L)
            scores = unit(torch.where(scores > 0, scores, 0.1 * scores), 1)
            attention = torch.softmax(matcher.temperature * scores, 0)
            attended = unit(attention.T @ regions)  # (L, D)
            local = unit(matcher.local_node((attended - words) ** 2))
            overall = unit(matcher.global_node((vector - captions.vector[c]) ** 2))
            nodes.append(torch.cat([overall[None], local]))
        x = torch.stack(nodes)  # (I, L + 1, K)
        if isinstance(matcher.reduce, AttentionFiltration):
            raw = matcher.reduce.attend(x).transpose(1, 2)  # (I, 1, L + 1): one channel
            gate = torch.sigmoid(matcher.reduce.norm(raw))
            x = unit(((gate / (gate.sum(2, keepdim=True) + 1e-8)) @ x)[:, 0])
        else:
            for step in matcher.reduce.steps:
                edges = torch.softmax(step.query(x) @ step.key(x).transpose(1, 2), 2)
                x = torch.relu(step.graph(edges @ x))
            x = x[:, 0]
        columns[c] = torch.sigmoid(matcher.head(x)[:, 0])
    return torch.stack(columns, 1)


VARIANTS = [
    ("SGR", {"sgr_steps": 1}),
    ("SGR", {"sgr_steps": 4, "temperature": 4.0, "num_layers": 2}),
    ("SGR", {"no_imgnorm": True, "num_regions": 3}),
    ("SAF", {"bidirectional": False}),
    ("SAF", {"no_txtnorm": True, "temperature": 20.0, "num_regions": 1}),
    ("SAF", {"momentum": None}),  # of its norm: the statistics are the mean over all captions
]


@pytest.mark.parametrize("slack", [0.0, math.inf])  # captions of one length, or all with a mask
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("block", [1, 200, 1 << 22])
@pytest.mark.parametrize(("module", "options"), VARIANTS)
def test_equals_the_loop_with_gradients_and_statistics(
    module, options, block, training, slack, monkeypatch
):
    monkeypatch.setattr(nodes, "BLOCK", block)
    monkeypatch.setattr(attention, "BLOCK", block)
    monkeypatch.setattr(sgraf, "CACHE", block)  # captions of one length in one or several blocks
    monkeypatch.setattr(sgraf, "pack", lambda captions, _: pack(captions, slack))
    options = dict(options)
    momentum = options.pop("momentum", 0.1)
    matchers = [small(module, seed=3, **options).double().train(training) for _ in range(2)]
    for matcher in matchers if module == "SAF" else ():
        matcher.reduce.norm.momentum = momentum
        matcher.reduce.norm.num_batches_tracked.fill_(2)
    pairs = random_pairs(4, num_regions=matchers[0].num_regions)
    pairs = pairs._replace(images=pairs.images._replace(regions=pairs.images.regions.double()))
    weight = torch.randn(6, 7, dtype=torch.float64)
    results = []
    for matcher, score in zip(matchers, (SGRAF.similarity, loop), strict=True):
        images = matcher.encode_images(pairs.images)
        captions = matcher.encode_captions(pairs.captions)
        scores = score(matcher, images, captions)
        (scores * weight).sum().backward()
        results.append(scores.detach())
    torch.testing.assert_close(*results, atol=1e-10, rtol=0)
    if not training:
        with torch.no_grad():  # which keeps nothing for gradients
            torch.testing.assert_close(matchers[0].similarity(images, captions), results[0])
    ours, plain = (dict(matcher.named_parameters()) for matcher in matchers)
    for name, parameter in ours.items():
        if parameter.requires_grad:
            torch.testing.assert_close(
                parameter.grad, plain[name].grad, atol=1e-9, rtol=1e-7, msg=name
            )
    ours, plain = (dict(matcher.named_buffers()) for matcher in matchers)
    for name, value in ours.items():
        torch.testing.assert_close(value, plain[name], atol=1e-12, rtol=0, msg=name)


def test_saf_counts_every_caption_once():
    matcher, pairs = small("SAF").train(), random_pairs()
    before = matcher.reduce.norm.running_mean.clone()
    matcher.losses(pairs)["total"].backward()
    assert matcher.reduce.norm.num_batches_tracked == 7
    assert matcher.image_global.part_norm.num_batches_tracked == 1
    assert not torch.equal(matcher.reduce.norm.running_mean, before)
    before = copy.deepcopy(matcher.state_dict())
    matcher.node_weights(matcher.encode_images(pairs.images), matcher.encode_captions(pairs[1]))
    after = matcher.state_dict()
    assert all(torch.equal(before[k], after[k]) for k in before if k.startswith("reduce."))


@pytest.mark.parametrize("frozen", ["reduce", "text", "local_node", "reduce.norm"])
def test_frozen_parts_leave_the_gradients_of_others(frozen):
    gradients = []
    for requires_grad in (True, False):
        matcher = small("SAF").double().train()
        matcher.get_submodule(frozen).requires_grad_(requires_grad)
        pairs = random_pairs()
        regions = pairs.images.regions.double()
        pairs = pairs._replace(images=pairs.images._replace(regions=regions))
        matcher.losses(pairs)["total"].backward()
        gradients.append({k: v.grad for k, v in matcher.named_parameters() if v.requires_grad})
    both, rest = gradients
    assert set(both) - set(rest) == {k for k in both if k.startswith(frozen + ".")}
    for name, gradient in rest.items():
        torch.testing.assert_close(gradient, both[name])


@pytest.mark.parametrize("slack", [0.0, math.inf])
@pytest.mark.parametrize("training", [False, True])
def test_nodes_reduced_in_blocks_equal_those_of_other_devices(training, slack):
    found = []
    for other_device in (False, True):
        matcher, pairs = small("SAF").double().train(training), random_pairs()
        regions = pairs.images.regions.double()
        images = matcher.encode_images(pairs.images._replace(regions=regions))
        captions = matcher.encode_captions(pairs.captions)
        packed = pack(captions, slack)
        if other_device:
            groups = matcher._nodes(images, captions, packed)
            vectors = torch.cat([matcher.reduce(nodes, mask) for nodes, mask in groups], 1)
        else:
            vectors = matcher._vectors(images, captions, packed)
        (vectors * torch.arange(vectors.numel()).view_as(vectors).sin()).sum().backward()
        gradients = {k: v.grad for k, v in matcher.named_parameters() if v.grad is not None}
        statistics = dict(matcher.reduce.named_buffers())
        found.append({"vectors": vectors.detach(), **gradients, **statistics})
    torch.testing.assert_close(*found, atol=1e-10, rtol=1e-7)


def test_hooks_of_parameters_run_once():
    matcher, seen = small("SAF").train(), []
    for name, parameter in matcher.named_parameters():
        parameter.register_hook(lambda gradient, name=name: seen.append(name))
    matcher.losses(random_pairs())["total"].backward()
    assert sorted(seen) == sorted(name for name, _ in matcher.named_parameters())


def test_nodes_are_freed_by_the_backward():
    """Scores that are kept, for a metric, do not keep the nodes of their step."""
    nodes = []
    matcher, pairs = small("SAF").train(), random_pairs()
    sums = filtration.weighted_sums

    def note(weights, x, sizes):
        nodes.append(weakref.ref(x))
        return sums(weights, x, sizes)

    with mock.patch.object(filtration, "weighted_sums", note):
        loss = matcher.losses(pairs)["total"]
        assert nodes[0]() is not None
        loss.backward()
    assert all(x() is None for x in nodes)
    assert loss.grad_fn is not None


def test_pictures():
    pairs = random_pairs()
    lengths = pairs.captions.lengths
    for module in MODULES:
        matcher = small(module).eval()
        images = matcher.encode_images(pairs.images)
        captions = matcher.encode_captions(pairs.captions)
        attention = matcher.attention(images, captions)
        assert attention.shape == (6, 7, 5, 7)
        for c, n in enumerate(lengths):
            total = attention[:, c].sum(1)
            torch.testing.assert_close(total[:, :n], torch.ones(6, n))
            assert not total[:, n:].any()
        if module == "SAF":
            weights = matcher.node_weights(images, captions)
            assert weights.shape == (6, 7, 8)
            torch.testing.assert_close(weights.sum(-1), torch.ones(6, 7))
            assert not any(weights[:, c, n + 1 :].any() for c, n in enumerate(lengths))
            with pytest.raises(ValueError, match="SAF, which has node_weights"):
                matcher.edges(images, captions)
        else:
            edges = matcher.edges(images, captions)
            assert edges.shape == (6, 7, 3, 8, 8)
            for c, n in enumerate(lengths):
                real = edges[:, c, :, : n + 1, : n + 1]
                torch.testing.assert_close(real.sum(-1), torch.ones(6, 3, n + 1))
                torch.testing.assert_close(edges[:, c].sum(), real.sum())
            with pytest.raises(ValueError, match="SGR, which has edges"):
                matcher.node_weights(images, captions)


@pytest.mark.parametrize("first", [False, True])
def test_gradients_of_similarity_nodes(first):
    torch.manual_seed(0)
    shapes = [(3, 4, 5), (3, 4, 6), (5, 6), (2, 6), (2,), (3, 3, 2)]
    *inputs, vectors = (torch.randn(x, dtype=torch.float64, requires_grad=True) for x in shapes)
    attention, parts, words, weight, bias = inputs
    groups = [(1, 3), (2, 1)]
    local = F.normalize(F.linear((attention.mT @ parts - words) ** 2, weight, bias), dim=-1)
    expected = [local[:, None, :3], local[:, 3:, None]]
    if first:
        before = vectors.split([1, 2], 1)
        expected = [torch.cat([x[:, :, None], y], 2) for x, y in zip(before, expected, strict=True)]

    def similarity(vectors, *inputs):
        return SimilarityNodes.apply(groups, vectors if first else None, *inputs)

    torch.testing.assert_close(similarity(vectors, *inputs), tuple(expected))
    vectors.requires_grad_(first)
    assert torch.autograd.gradcheck(similarity, (vectors, *inputs))


@pytest.mark.parametrize("nodes", [None, 1, 2])
@pytest.mark.parametrize("masked", [False, True])
def test_a_step_of_reasoning_equals_its_formula_with_gradients(nodes, masked):
    torch.manual_seed(0)
    step = GraphStep(4).double()
    x = torch.randn(3, 5, 4, dtype=torch.float64, requires_grad=True)  # (P, n, K)
    mask = torch.ones(3, 1, 5, dtype=torch.bool)
    mask[1, 0, 3:] = not masked
    scores = (step.query(x) @ step.key(x).mT).masked_fill(~mask, -torch.inf)
    expected = step.graph(scores.softmax(-1) @ x).relu()[:, :nodes]
    found = step(x, nodes, mask if masked else None)
    torch.testing.assert_close(found, expected)
    leaves = [x, step.query.weight, step.query.bias, step.key.weight, *step.graph.parameters()]
    weights = torch.randn_like(found)
    sides = [torch.autograd.grad((y * weights).sum(), leaves) for y in (found, expected)]
    torch.testing.assert_close(*sides)


@pytest.mark.parametrize("module", MODULES)
@pytest.mark.parametrize("training", [False, True])
def test_gradcheck_of_scores(module, training):
    matcher = small(module).double().train(training)
    pairs = random_pairs(size=2, lengths=(2, 3))
    captions = matcher.encode_captions(pairs.captions)
    inputs = captions.parts.detach(), captions.vector.detach()

    def scores(regions, words, vectors):
        images = matcher.encode_images(pairs.images._replace(regions=regions))
        return matcher.similarity(images, captions._replace(parts=words, vector=vectors))

    leaves = [x.requires_grad_() for x in (pairs.images.regions.double(), *inputs)]
    assert torch.autograd.gradcheck(scores, leaves, fast_mode=True)


def test_no_attended_vector_is_kept_for_the_gradient():
    matcher, pairs = small("SAF", embed_dim=64, sim_dim=4).train(), random_pairs(size=8)
    captions, images = matcher.encode_captions(pairs.captions), matcher.encode_images(pairs.images)
    sizes = []

    def note(x):
        sizes.append(x.numel())
        return x

    with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
        matcher.similarity(images, captions)
    assert max(sizes) < 8 * sum(pairs.captions.lengths) * 64  # I W D


# In use -------------------------------------------------------------------------------------------


class Letters:
    """Make a vocabulary of letters, for captions of obvious length."""

    def __len__(self):
        return 26

    def encode(self, caption):
        return [ord(letter) - ord("a") for letter in caption]


@pytest.mark.parametrize("module", MODULES)
def test_padding_and_company_change_nothing(module):
    matcher = small(module).eval()
    matcher.vocab = Letters()
    features = np.random.default_rng(0).standard_normal((4, 5, 8)).astype(np.float32)
    captions = ["bcd", "efghijk", "lm", "nop"]
    every = matcher.score(features, captions)
    for i, c in itertools.product(range(4), range(4)):
        alone = matcher.score(features[i : i + 1], [captions[c]])
        np.testing.assert_allclose(alone, every[i : i + 1, c : c + 1], atol=1e-6)
    np.testing.assert_allclose(matcher.score(features, captions[::-1]), every[:, ::-1], atol=1e-6)
    np.testing.assert_allclose(matcher.score(features, captions, batch_size=2), every, atol=1e-6)
    matcher.memory_budget = 1
    np.testing.assert_allclose(matcher.score(features, captions), every, atol=1e-6)
    pairs = matcher.pairs(features, captions)
    longer = F.pad(pairs.captions.tokens, (0, 3), value=9)
    with torch.no_grad():
        padded = matcher(pairs.images, pairs.captions._replace(tokens=longer))
    np.testing.assert_allclose(padded, every, atol=1e-6)


@pytest.mark.parametrize("module", MODULES)
def test_padding_changes_no_training_score(module):
    pairs = random_pairs()
    longer = F.pad(pairs.captions.tokens, (0, 3), value=9)
    padded = pairs._replace(captions=pairs.captions._replace(tokens=longer))
    a, b = (small(module).train().losses(x)["total"] for x in (pairs, padded))
    torch.testing.assert_close(a, b, atol=1e-6, rtol=0)


@pytest.mark.parametrize("module", MODULES)
def test_gradients_reach_every_parameter(module):
    matcher = small(module, num_layers=2).train()
    matcher.losses(random_pairs(size=7))["total"].backward()
    frozen = {name for name, p in matcher.named_parameters() if not p.requires_grad}
    # The softmax cancels the key's bias.
    count = 3 if module == "SGR" else 0
    assert frozen == {f"reduce.steps.{k}.key.bias" for k in range(count)}
    for name, parameter in matcher.named_parameters():
        if name not in frozen:
            assert parameter.grad is not None and parameter.grad.isfinite().all(), name
            # What batch norm or a softmax subtracts again has a gradient of zero.
            cancels = name.endswith(("part.bias", "mean.bias", "score.bias", "attend.bias"))
            assert cancels or parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("module", MODULES)
def test_zero_vectors_have_finite_scores_and_gradients(module):
    matcher = small(module, no_imgnorm=True, no_txtnorm=True).train()
    images = matcher.encode_images(random_pairs().images)
    captions = matcher.encode_captions(random_pairs().captions)
    leaves = [torch.zeros_like(x).requires_grad_() for x in (images.parts, captions.parts)]
    scores = matcher.similarity(
        images._replace(parts=leaves[0]), captions._replace(parts=leaves[1])
    )
    gradients = torch.autograd.grad(scores.sum(), leaves)
    assert scores.isfinite().all() and all(g.isfinite().all() for g in gradients)


@pytest.mark.parametrize("module", MODULES)
def test_scoring_leaves_a_matcher_in_training_alone(module):
    matcher = small(module, dropout=0.4).eval()
    matcher.vocab = Letters()
    features = np.random.default_rng(0).standard_normal((3, 5, 8)).astype(np.float32)
    expected = matcher.score(features, ["bcd", "ef"])
    before = copy.deepcopy(matcher.train().state_dict())
    np.testing.assert_array_equal(matcher.score(features, ["bcd", "ef"]), expected)
    assert matcher.training and matcher.reduce.training
    assert all(torch.equal(before[k], v) for k, v in matcher.state_dict().items())


def test_dropout_acts_in_training_only():
    pairs = random_pairs()
    matcher = small("SGR", dropout=0.4).train()
    assert matcher.losses(pairs)["total"] != matcher.losses(pairs)["total"]
    matcher.eval()
    assert matcher.losses(pairs)["total"] == matcher.losses(pairs)["total"]


@pytest.mark.parametrize("module", MODULES)
@pytest.mark.parametrize("training", [False, True])
def test_bfloat16_autocast_stays_close(module, training):
    pairs = random_pairs()
    matchers = [small(module, embed_dim=32).train(training) for _ in range(2)]
    scores = matchers[0](pairs.images, pairs.captions)
    with torch.autocast("cpu", torch.bfloat16):
        reduced = matchers[1](pairs.images, pairs.captions)
    assert reduced.dtype == torch.float32
    torch.testing.assert_close(reduced, scores, atol=0.02, rtol=0)
    for value in (scores, reduced):
        value.square().sum().backward()
    for (name, a), b in zip(matchers[0].named_parameters(), matchers[1].parameters(), strict=True):
        if a.requires_grad and a.grad.norm() > 0.05:
            assert F.cosine_similarity(a.grad.flatten(), b.grad.flatten(), 0) > 0.97, name


def test_one_image_cannot_be_trained_on_but_scored():
    pairs = random_pairs(size=1, lengths=(3,))
    matcher = small("SAF").train()
    with pytest.raises(ValueError, match="batch of one.*at least two"):
        matcher.losses(pairs)
    assert matcher.eval()(pairs.images, pairs.captions).shape == (1, 1)
    assert matcher.losses(pairs)["total"] == 0


def test_several_captions_of_one_image():
    matcher = small("SAF").train()
    pairs = random_pairs(size=2, lengths=(3, 5, 4, 2))
    assert torch.isfinite(matcher.losses(pairs)["total"])


def test_another_number_of_regions_is_an_error():
    matcher = small("SGR")
    matcher.vocab = Letters()
    features = np.zeros((2, 4, 8), np.float32)
    with pytest.raises(ValueError, match="exactly 5 regions.*got 4 to 4.*num_regions"):
        matcher.score(features, ["ab"])
    with pytest.raises(ValueError, match="got 3 to 5"):
        matcher.score([np.zeros((n, 8), np.float32) for n in (5, 3)], ["ab"])
    ragged = random_pairs()
    mask = ragged.images.mask.clone()
    mask[0, 4] = False
    with pytest.raises(ValueError, match="got 4 to 5"):
        matcher.losses(ragged._replace(images=ragged.images._replace(mask=mask)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"module": "AVE"}, "module.*'SGR'.*'SAF'"),
        ({"module": "SGR", "sgr_steps": 0}, "sgr_steps=0"),
        ({"module": "SAF", "text": {"name": "mean"}}, "text=gru or text=bert"),
    ],
)
def test_unknown_options(options, message):
    with pytest.raises(ValueError, match=message):
        small(**options)


@pytest.mark.parametrize(("module", "copies"), [("SGR", 6), ("SAF", 4)])
def test_numbers_of_a_pair_written_out(module, copies):
    attention, nodes, edges = 3 * (36 * 14), copies * (15 * 256), 2 * (15 * 15)
    expected = attention + nodes + edges
    assert small(module, sim_dim=256).pair_floats(regions=36, words=14) == expected


@pytest.mark.parametrize(
    ("name", "chosen"), [("sgr", {}), ("saf", {"module": "SAF"}), ("sgraf", {})]
)
def test_configurations_list_the_arguments_in_order(name, chosen):
    config = dict(compose([f"model={name}", "~recipe"]).model)
    assert config.pop("_target_") == "itm.models.sgraf.SGRAF"
    signature = inspect.signature(SGRAF).parameters
    assert list(config) == [k for k in signature if k not in ("loss", "optimizer", "scheduler")]
    defaults = {k: v.default for k, v in signature.items() if k in config}
    given = {"vocab_size": None, "img_dim": None, "num_regions": None, "text": {"name": "gru"}}
    assert config == {**defaults, **given, **chosen}


@pytest.mark.parametrize("slack", [0.0, math.inf])  # groups of equal length, one with a mask
def test_unit_attention_is_that_of_the_attended_vectors(slack, monkeypatch):
    monkeypatch.setattr("itm.models.sgraf.attention.BLOCK", 2 * 3 * 9)  # two blocks of images
    torch.manual_seed(0)
    lengths, words = torch.tensor([4, 2, 3]), torch.randn(3, 4, 6, dtype=torch.float64)
    packed = pack(Encoded(None, words, None, {"lengths": lengths}), slack)
    parts = torch.randn(3, 3, 6, dtype=torch.float64, requires_grad=True)
    scores = (parts @ packed.words.T).detach().requires_grad_()
    found = unit_attention(scores, parts, packed, 4.0)
    starts = torch.tensor(packed.sizes).cumsum(0) - torch.tensor(packed.sizes)
    for start, n in zip(packed.inverse, lengths, strict=True):
        if slack == 0:  # every caption is a group of its own
            rows = slice(starts[start], starts[start] + n)
        else:
            rows = slice(4 * start, 4 * start + n)
        raw = F.leaky_relu(scores[..., rows], 0.1)
        plain = torch.softmax(4.0 * F.normalize(raw, dim=-1), dim=1)
        attended = F.normalize(plain.mT @ parts, dim=-1)
        torch.testing.assert_close(found[..., rows].mT @ parts, attended)
        torch.testing.assert_close(word_attention(scores, packed, 4.0)[..., rows], plain)
    assert torch.autograd.gradcheck(lambda x, y: unit_attention(x, y, packed, 4.0), (scores, parts))
