"""Test the two-branch networks: numbers of the original code, properties of small random ones."""

import copy
import json

import numpy as np
import pytest
import torch
from goldens_path import case, read_npz
from torch import nn

from itm.batch import Images, same_image
from itm.layers.functional import distances
from itm.layers.sentence import sentence_encoder
from itm.losses import Logistic, Neighborhood, Triplet
from itm.metrics.retrieval import evaluate
from itm.models.two_branch.branches import Dense
from itm.models.two_branch.embedding import TwoBranchEmbedding
from itm.models.two_branch.similarity import TwoBranchSimilarity
from itm.published import two_branch
from itm.published.convert import from_published, save_published
from itm.published.tables import original_names
from itm.text.vocabulary import Vocabulary
from itm.training.optim import TensorflowAdam

EMBEDDING, SIMILARITY = "two_branch_embedding", "two_branch_similarity"


def close(actual, expected, tolerance):
    np.testing.assert_allclose(np.asarray(actual), expected, rtol=0, atol=tolerance)


def without_dropout(matcher):
    for module in matcher.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return matcher.train()


def five_steps(matcher, pairs, optimizer):
    losses = []
    for _ in range(5):
        terms = matcher.losses(pairs)
        optimizer.zero_grad()
        terms["total"].backward()
        optimizer.step()
        losses.append({name: value.item() for name, value in terms.items()})
    return losses


def close_gradients(matcher, expected, names, relative, absolute=0.0):
    """Return gradients by original name; a bias before a batch norm has a true gradient of 0."""
    parameters = dict(matcher.named_parameters())
    for ours, theirs in names.items():
        if ours not in parameters or ours.endswith(("first.linear.bias", "joint.linear.bias")):
            continue
        if ours.startswith("experts.") and ours.endswith("linear.bias"):
            continue
        grad, truth = parameters[ours].grad.numpy(), expected[f"grad/{theirs}"]
        truth = truth.T if "/" in theirs and truth.ndim == 2 else truth
        close(grad, truth, relative * np.abs(truth).max() + absolute)


# The authors' TensorFlow code ---------------------------------------------------------------------


def embedding(name, weights="weights_init.npz"):
    folder = case(f"two_branch/{name}")
    options = json.loads((folder / "options.json").read_text())
    loss = Neighborhood(
        margin=options["margin"],
        top_k=options["num_neg_sample"],
        caption_weight=options["im_loss_factor"],
        caption_neighbors=options["sent_only_loss_factor"],
        sentences=options["sample_size"],
    )
    matcher = from_published(folder / weights, family=EMBEDDING, loss=loss)
    expected = read_npz(folder / "expected.npz")
    image = np.arange(options["batch_size"]).repeat(options["sample_size"])
    pairs = matcher.pairs(expected["batch_im_feats"], expected["batch_sent_feats"], image)
    return matcher, expected, pairs, read_npz(folder / "test_features.npz")


CASES = ["embed_s2", "embed_s5_bigmargin"]


@pytest.mark.parametrize("name", CASES)
def test_embedding_scores(name):
    matcher, expected, _, test = embedding(name)
    scores = matcher.score(test["images"], test["sentences"])
    close(-scores.T, expected["dist"], 2e-6)
    close(matcher.embed(test["images"]), expected["im_embed"], 1e-6)
    close(matcher.embed(captions=test["sentences"]), expected["sent_embed"], 1e-6)
    check_recalls(scores, expected["recall"])
    first = torch.from_numpy(matcher.embed(captions=test["sentences"][:10]))
    found, apart = distances(first, first), ~torch.eye(10, dtype=torch.bool)
    close(found[apart], expected["sent_sent_dist_first10"][apart], 2e-6)
    # To itself it is 0.01, the root of what is left of sums of size 2 in float32.
    close(found[~apart] ** 2, expected["sent_sent_dist_first10"][~apart] ** 2, 4 * 2**-23)


def check_recalls(scores, expected):
    results = evaluate(scores, np.arange(70) // 5)
    recalls = [results[f"{way}_r{k}"] for way in ("i2t", "t2i") for k in (1, 5, 10)]
    close(recalls, 100 * expected, 1e-4)


@pytest.mark.parametrize("name", CASES)
def test_embedding_losses_and_gradients(name):
    matcher, expected, pairs, _ = embedding(name)
    without_dropout(matcher)
    np.testing.assert_array_equal(same_image(pairs).T, expected["batch_labels"])
    with torch.no_grad():
        trained = copy.deepcopy(matcher)
        close(trained.encode_images(pairs.images).vector, expected["train_im_embed"], 1e-6)
        close(trained.encode_captions(pairs.captions).vector, expected["train_sent_embed"], 1e-6)
    terms = matcher.losses(pairs)
    terms["total"].backward()
    loss = matcher.loss
    anchors = loss.caption_weight * expected["im_loss"] + expected["sent_loss"]
    close(terms["ranking"].item(), anchors, 1e-6)
    neighbors = loss.caption_neighbors * expected["sent_only_loss"]
    close(terms["caption_neighbors"].item(), neighbors, 1e-6)
    close(terms["total"].item(), expected["loss"], 1e-6)
    state = matcher.state_dict()
    names = original_names(state, two_branch.TENSORFLOW)
    close_gradients(matcher, expected, names, 1e-5)
    for ours, theirs in names.items():
        if "running" in ours:
            close(state[ours], expected[f"bn_after_1/{theirs}"], 1e-6)


@pytest.mark.parametrize("name", CASES)
def test_embedding_training(name):
    matcher, expected, pairs, test = embedding(name)
    without_dropout(matcher)
    losses = five_steps(matcher, pairs, TensorflowAdam(matcher.parameters(), lr=1e-4))
    close([terms["total"] for terms in losses], expected["losses"], 1e-6)
    state = matcher.state_dict()
    for ours, theirs in original_names(state, two_branch.TENSORFLOW).items():
        truth = expected[f"after5/{theirs}"]
        # Adam turns the rounding of a zero gradient into steps of +-lr, which shift the mean too.
        noise = ours.endswith(("first.linear.bias", "running_mean"))
        close(state[ours], truth.T if truth.ndim == 2 else truth, 5e-4 if noise else 2e-5)
    scores = matcher.score(test["images"], test["sentences"])
    close(-scores.T, expected["dist_after5"], 1e-4)
    check_recalls(scores, expected["recall_after5"])


@pytest.mark.parametrize("name", CASES)
def test_embedding_dropout(name):
    matcher, expected, pairs, _ = embedding(name)
    matcher.train()
    for branch, side in ((matcher.image, "im"), (matcher.sentence, "sent")):
        mask = torch.from_numpy(expected[f"drop_mask_{side}"])
        relu = expected[f"drop_relu_{side}"]

        def dropped(module, inputs, output, mask=mask, relu=relu):
            close(inputs[0].detach(), relu, 2e-6)
            return inputs[0] * mask / 0.5

        branch.dropout.register_forward_hook(dropped)
    close(matcher.losses(pairs)["total"].item(), expected["drop_loss"], 1e-6)
    images, captions = matcher.encode_images(pairs.images), matcher.encode_captions(pairs.captions)
    close(images.vector.detach(), expected["drop_train_im_embed"], 1e-6)
    close(captions.vector.detach(), expected["drop_train_sent_embed"], 1e-6)


def test_tensorflow_checkpoint_holds_the_same_weights():
    one, *_ = embedding("embed_s2")
    two, *_ = embedding("embed_s2", "tf_ckpt/two-branch-ckpt-0")
    for name, value in one.state_dict().items():
        assert torch.equal(value, two.state_dict()[name]), name


def test_damaged_tensorflow_checkpoints(tmp_path):
    source = case("two_branch/embed_s2") / "tf_ckpt"
    data = "two-branch-ckpt-0.data-00000-of-00001"
    index = (source / "two-branch-ckpt-0.index").read_bytes()
    (tmp_path / "a.index").write_bytes(index)
    with pytest.raises(FileNotFoundError, match="a.data-00000-of-00001"):
        from_published(tmp_path / "a")
    (tmp_path / "a.data-00000-of-00001").write_bytes((source / data).read_bytes()[:999])
    with pytest.raises(ValueError, match="does not hold"):
        from_published(tmp_path / "a")
    (tmp_path / "a.index").write_bytes(index[:-1])
    with pytest.raises(ValueError, match="is not an index of a TensorFlow checkpoint"):
        from_published(tmp_path / "a")


# The PyTorch port ---------------------------------------------------------------------------------


def port(name, word_reg=0.0):
    folder = case(f"two_branch_torch/{name}")
    options = json.loads((folder / "options.json").read_text())
    expected = read_npz(folder / "expected.npz")
    loss = Neighborhood(
        margin=options["margin"],
        top_k=options["num_neg_sample"],
        caption_weight=options["im_loss_factor"],
        caption_neighbors=options["sent_only_loss_factor"],
    )
    matcher = from_published(
        folder / "checkpoint.pth.tar",
        vocab=folder / "vocab.json",
        family=EMBEDDING,
        loss=loss,
        options={"word_embedding_reg": word_reg},
    )
    if word_reg:
        matcher.text.initial.copy_(torch.from_numpy(expected["vecs"]))
    captions = port_captions(folder, "test.txt")
    return matcher, expected, options, np.load(folder / "data/flickr/test_features.npy"), captions


def port_captions(folder, split):
    found = {name: [] for name in (folder / "data/flickr" / split).read_text().split()}
    for line in (folder / "data/flickr/results_20130124.token").read_text().splitlines():
        name, caption = line.split("\t")
        if name.split(".")[0] in found:
            found[name.split(".")[0]].append(caption)
    return [caption for captions in found.values() for caption in captions]


PORTS = ["avg", "attend"]


@pytest.mark.parametrize("name", PORTS)
def test_port_scores(name):
    matcher, expected, _, features, captions = port(name)
    tokens = [matcher.vocab.encode(caption) for caption in captions]
    assert np.array_equal(tokens, expected["test_tokens"])
    scores = matcher.score(features, captions)
    close(-scores.T, expected["dist"], 2e-6)
    close(matcher.embed(features), expected["im_embed"], 1e-6)
    close(matcher.embed(captions=captions), expected["sent_embed"], 1e-6)
    check_port_recalls(scores, expected)


def check_port_recalls(scores, expected, suffix="", ties=0.0):
    """Check the original's recalls; scores that differ by less than `ties` may swap places."""
    owner = expected["test_cap2im"]
    own = owner == np.arange(len(scores))[:, None]
    worst, best = (evaluate(scores + shift * own, owner) for shift in (-ties, ties))
    for way, side in (("i2t", "im2sent"), ("t2i", "sent2im")):
        for k, found in zip((1, 5, 10), expected[f"recall_{side}{suffix}"], strict=True):
            name = f"{way}_r{k}"
            assert round(worst[name], 1) - 1e-4 <= found <= round(best[name], 1) + 1e-4


@pytest.mark.parametrize("name", PORTS)
def test_port_training(name):
    matcher, expected, options, features, captions = port(name, 5e-5)
    without_dropout(matcher)
    rows = expected["batch_sents"].reshape(-1)
    image = np.arange(len(expected["batch_sents"])).repeat(2)
    train = port_captions(case(f"two_branch_torch/{name}"), "train.txt")
    pairs = matcher.pairs(expected["batch_im_feats"], [train[row] for row in rows], image)
    assert np.array_equal(pairs.captions.tokens, expected["batch_tokens"])
    for text, row in zip(train, expected["train_tokens"], strict=True):
        ids = matcher.vocab.encode(text)
        assert ids == row[: len(ids)].tolist() and not row[len(ids) :].any()
    with torch.no_grad():
        trained = copy.deepcopy(matcher)
        close(trained.encode_images(pairs.images).vector, expected["train_im_embed"], 1e-6)
        close(trained.encode_captions(pairs.captions).vector, expected["train_sent_embed"], 1e-6)
    terms = matcher.losses(pairs)
    anchors = options["im_loss_factor"] * expected["im_loss"] + expected["sent_loss"]
    close(terms["ranking"].item(), anchors, 1e-6)
    neighbors = options["sent_only_loss_factor"] * expected["sent_only_loss"]
    close(terms["caption_neighbors"].item(), neighbors, 1e-6)
    terms["total"].backward()
    close(terms["words"].item(), 5e-5 * expected["word_mse"], 1e-10)
    close(terms["total"].item(), expected["loss"], 1e-5 * expected["loss"])
    every = original_names(matcher.state_dict(), two_branch.PORT)
    names = {ours: theirs for ours, theirs in every.items() if f"grad/{theirs}" in expected}
    close_gradients(matcher, expected, names, 1e-5)
    for ours, theirs in every.items():
        if f"bn_after_1/{theirs}" in expected:
            close(matcher.state_dict()[ours], expected[f"bn_after_1/{theirs}"], 1e-6)

    matcher, *_ = port(name, 5e-5)
    without_dropout(matcher)
    matcher.optimizer = lambda groups: torch.optim.Adam(groups, lr=1e-4, weight_decay=1e-3)
    losses = five_steps(matcher, pairs, matcher.configure_optimizers())
    close([terms["total"] for terms in losses], expected["losses"], 1e-5)
    scores = matcher.score(features, captions)
    close(-scores.T, expected["dist_after"], 2e-5)
    # With the mean of words some sentences are equal, and the original's sort decides.
    check_port_recalls(scores, expected, "_after", 1e-5 if name == "avg" else 0.0)


# CITE ---------------------------------------------------------------------------------------------


def cite(name):
    folder = case(f"two_branch_similarity/{name}")
    options = json.loads((folder / "options.json").read_text())
    axis = {"region": "regions", "feature": "features"}[options["norm"]]
    matcher = from_published(
        folder / "weights_init.npz",
        family=SIMILARITY,
        loss=Logistic(),
        options={"norm_axis": axis, "embed_l1": options["embed_l1"]},
    )
    data, expected = read_npz(folder / "data.npz"), read_npz(folder / "expected.npz")
    pairs = matcher.pairs(data["train_region"], data["train_phrase"])
    pairs = pairs._replace(target=torch.from_numpy(data["train_labels"]))
    return matcher, options, data, expected, pairs


SIMILAR = ["sim_k1_featnorm", "sim_k1_verbatim", "cite_k3_verbatim"]


def check_grounding(matcher, data, expected, suffix, tolerance):
    pairs = matcher.pairs(data["test_region"], data["test_phrase"])
    with torch.no_grad():
        scores = matcher.eval().ground(pairs.images, pairs.captions)
    close(scores.sigmoid(), expected[f"test_prob{suffix}"], tolerance)
    best = scores.argmax(1).numpy()
    assert np.array_equal(best, expected[f"test_best_region{suffix}"])
    hits = data["test_iou"][np.arange(len(best)), best] >= 0.5
    close(hits.mean(), expected[f"test_accuracy{suffix}"], 1e-12)
    order = scores.argsort(1, descending=True).numpy()
    right = np.take_along_axis(data["test_iou"], order, 1) >= 0.5
    found = [right[:, :k].any(1).mean() for k in (1, 5, 10)]
    close(found, expected[f"test_recall_1_5_10{suffix}"], 1e-12)


@pytest.mark.parametrize("name", SIMILAR)
def test_cite_scores_and_losses(name):
    matcher, options, data, expected, pairs = cite(name)
    check_grounding(matcher, data, expected, "", 2e-6)
    matcher.train()
    with torch.no_grad():
        trained = copy.deepcopy(matcher).ground(pairs.images, pairs.captions)
    close(trained.sigmoid(), expected["train_prob"], 2e-6)
    terms = matcher.losses(pairs)
    terms["total"].backward()
    close(terms["ranking"].item(), expected["train_region_loss"], 1e-6)
    close(terms["concepts"].item(), options["embed_l1"] * expected["train_concept_loss"], 1e-6)
    close(terms["weights"].item(), expected["train_reg_loss"], 1e-6)
    total = expected["train_total_loss"] + expected["train_reg_loss"]
    close(terms["total"].item(), total, 1e-6)
    names = original_names(matcher.state_dict(), two_branch.CITE)
    close_gradients(matcher, expected, names, 0.0, 1e-5)
    for ours, theirs in names.items():
        if "running" in ours:
            close(matcher.state_dict()[ours], expected[f"bn_after_1/{theirs}"], 1e-6)


@pytest.mark.parametrize("name", SIMILAR)
def test_cite_training(name):
    matcher, options, data, expected, pairs = cite(name)
    matcher.train()
    losses = five_steps(matcher, pairs, TensorflowAdam(matcher.parameters(), options["lr"]))
    weights = [terms["weights"] for terms in losses]
    close([x["total"] - x["weights"] for x in losses], expected["losses"][:, 0], 1e-6)
    close(weights, expected["losses"][:, 1], 1e-6)
    check_grounding(matcher, data, expected, "_after5", 1e-3)


def test_tensorflows_adam():
    """Compare with the formula of TensorFlow's documentation, with an eps that matters."""
    rng = np.random.default_rng(0)
    p, gradients = rng.normal(size=4), rng.normal(size=(5, 4))
    parameter = nn.Parameter(torch.from_numpy(p.copy()))
    optimizer = TensorflowAdam([parameter], lr=0.1, eps=0.3)
    m = v = 0.0
    for t, g in enumerate(gradients, 1):
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        p = p - 0.1 * np.sqrt(1 - 0.999**t) / (1 - 0.9**t) * m / (np.sqrt(v) + 0.3)
        parameter.grad = torch.from_numpy(g)
        optimizer.step()
        close(parameter.detach(), p, 1e-12)
        again = TensorflowAdam([parameter], lr=0.5)
        again.load_state_dict(optimizer.state_dict())  # to go on as after an interruption
        optimizer = again


def test_tensorflows_adam_is_an_option():
    import itm

    chosen = "optimizer._target_=itm.training.optim.TensorflowAdam"
    matcher = itm.build("two_branch_embedding", overrides=["data.limit=20", chosen])
    [optimizer], _ = matcher.configure_optimizers()
    assert type(optimizer) is TensorflowAdam and optimizer.defaults["eps"] == 1e-8
    assert {group["lr"] for group in optimizer.param_groups} == {2e-3}  # of the scenes' recipe


# Small random networks ----------------------------------------------------------------------------

WORDS = Vocabulary(["<pad>", "<start>", "<end>", "<unk>", *"abcdefgh"])
TEXTS = ["mean", "attend", "gru"]


def small(cls=TwoBranchEmbedding, seed=0, **options):
    torch.manual_seed(seed)
    sizes = {"img_dim": 7, "word_dim": 6, "sentence_dim": 5, "hidden_dim": 8, "embed_dim": 4}
    if cls is TwoBranchSimilarity:
        sizes["joint_dims"] = [6, 3]
    matcher = cls(vocab_size=len(WORDS), **{**sizes, **options})
    matcher.vocab = WORDS
    for module in matcher.modules():  # statistics that are not those of a fresh network
        if isinstance(module, nn.BatchNorm1d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return matcher.eval()


def sentences(count, seed=0):
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(list("abcdefgh"), rng.integers(1, 6))) for _ in range(count)]


def region_lists(count, seed=0, width=7):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(r, width)).astype(np.float32) for r in rng.integers(1, 5, count)]


NETWORKS = [
    (TwoBranchEmbedding, {}),
    (TwoBranchEmbedding, {"level": "region"}),
    (TwoBranchSimilarity, {}),
    (TwoBranchSimilarity, {"num_experts": 3}),
    (TwoBranchSimilarity, {"num_experts": 2, "level": "region"}),
    (TwoBranchSimilarity, {"norm_axis": "regions", "level": "region"}),
]


def affine(layer, x):
    return layer.weight.detach().double().numpy() @ x + layer.bias.detach().double().numpy()


def normed(dense, x):
    x = affine(dense.linear, x)
    norm = {k: v.detach().double().numpy() for k, v in dense.norm.state_dict().items()}
    x = (x - norm["running_mean"]) / np.sqrt(norm["running_var"] + dense.norm.eps)
    return np.maximum(x * norm["weight"] + norm["bias"], 0)


def by_hand(matcher, regions, caption):
    """Score one image (R, F) with one caption, step by step."""
    table = matcher.text.embed.weight.detach().double().numpy()
    text = table[WORDS.encode(caption)].mean(0)
    branch = lambda b, x: affine(b.second, normed(b.first, x))  # noqa: E731
    unit = lambda x: x / np.linalg.norm(x)  # noqa: E731
    t = unit(branch(matcher.sentence, text))
    rows = [regions.mean(0)] if matcher.level == "image" else list(regions)
    rows = np.array([branch(matcher.image, x) for x in rows.__iter__()])
    axis = 0 if getattr(matcher, "norm_axis", "") == "regions" else 1
    rows = rows / np.linalg.norm(rows, axis=axis, keepdims=True)
    if isinstance(matcher, TwoBranchEmbedding):
        return max(-np.sqrt(((v - t) ** 2).sum() + 1e-4) for v in rows)
    weight = np.ones(1)
    if matcher.concept is not None:
        weight = np.exp(branch(matcher.concept, text))
        weight /= weight.sum()
    scores = []
    for v in rows:
        h = normed(matcher.joint, v * t)
        mixed = sum(p * normed(e, h) for p, e in zip(weight, matcher.experts, strict=True))
        scores.append(affine(matcher.last, mixed)[0])
    return max(scores)


@pytest.mark.parametrize(("cls", "options"), NETWORKS)
def test_scores_by_hand(cls, options):
    matcher = small(cls, **options)
    features, captions = region_lists(4), sentences(3)
    scores = matcher.score(features, captions)
    truth = [[by_hand(matcher, x.astype(np.float64), c) for c in captions] for x in features]
    close(scores, truth, 2e-6)


@pytest.mark.parametrize(("cls", "options"), NETWORKS)
@pytest.mark.parametrize("text", TEXTS)
def test_neither_padding_nor_company_change_a_score(cls, options, text):
    matcher = small(cls, text={"name": text}, **options)
    features, captions = region_lists(5), sentences(6)
    scores = matcher.score(features, captions)
    alone = [[matcher.score([x], [c])[0, 0] for c in captions] for x in features]
    close(scores, alone, 1e-6)
    matcher.memory_budget = 1  # blocks of one caption
    close(matcher.score(features, captions, batch_size=2), scores, 1e-6)
    if matcher.level == "region":
        pairs = matcher.pairs(features, captions[:5])
        with torch.no_grad():
            best = matcher.ground(pairs.images, pairs.captions).amax(1)
        close(best, np.diag(scores[:, :5]), 1e-6)


@pytest.mark.parametrize("cls", [TwoBranchEmbedding, TwoBranchSimilarity])
@pytest.mark.parametrize("level", ["image", "region"])
def test_training_does_not_see_padding(cls, level):
    features, captions = region_lists(5), sentences(5)
    results = []
    for extra in (0, 3):
        matcher = without_dropout(small(cls, level=level, loss=Triplet()))
        pairs = matcher.pairs(features, captions)
        images = pairs.images
        padding = torch.full((5, extra, 7), 9.0)
        wide = Images(
            torch.cat([images.regions, padding], 1),
            torch.cat([images.mask, padding[..., 0] < 0], 1),
            images.index,
        )
        matcher.losses(pairs._replace(images=wide))["total"].backward()
        results.append(torch.cat([p.grad.flatten() for p in matcher.parameters()]))
        assert torch.isfinite(results[-1]).all()
    close(results[0], results[1], 1e-6)


LOSSES = {"triplet": Triplet, "neighborhood": Neighborhood, "logistic": Logistic}


@pytest.mark.parametrize(("cls", "options"), NETWORKS)
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("text", TEXTS)
def test_gradients_reach_every_parameter(cls, options, loss, text):
    matcher = small(cls, text={"name": text}, loss=LOSSES[loss](), **options)
    without_dropout(matcher)
    image = np.arange(6).repeat(2)
    pairs = matcher.pairs(region_lists(6), sentences(12), image)
    matcher.losses(pairs)["total"].backward()
    for name, parameter in matcher.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name
        # Without effect: a bias before a batch norm, and one that shifts all scores to be ranked.
        if not name.endswith("linear.bias") and (name != "last.bias" or loss == "logistic"):
            assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize(("cls", "options"), NETWORKS)
def test_gradients_are_right(cls, options):
    matcher = without_dropout(small(cls, **options)).double()
    pairs = matcher.pairs(region_lists(4), sentences(4))
    regions = pairs.images.regions.double().requires_grad_()

    def scores(regions):
        return matcher(pairs.images._replace(regions=regions), pairs.captions)

    assert torch.autograd.gradcheck(scores, (regions,), atol=1e-6)


@pytest.mark.parametrize(("cls", "options"), NETWORKS)
def test_batch_of_one_and_reduced_precision(cls, options):
    matcher = small(cls, loss=Logistic(), **options).train()
    pairs = matcher.pairs(region_lists(1), sentences(1))
    before = matcher.sentence.first.norm.running_var.clone()
    total = matcher.losses(pairs)["total"]
    total.backward()
    assert torch.isfinite(total)
    assert torch.equal(before, matcher.sentence.first.norm.running_var)

    without_dropout(matcher).eval()
    pairs = matcher.pairs(region_lists(6), sentences(6))
    full = matcher(pairs.images, pairs.captions)
    with torch.autocast("cpu", torch.bfloat16):
        half = matcher(pairs.images, pairs.captions)
    assert half.dtype == torch.float32
    close(half.detach(), full.detach(), 0.05)


def test_equal_vectors_in_reduced_precision_have_no_nan():
    torch.manual_seed(0)
    x = nn.functional.normalize(torch.randn(200, 512)).bfloat16().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        apart = distances(x, x)
    apart.sum().backward()
    assert apart.dtype == torch.float32 and torch.isfinite(apart).all()
    assert torch.isfinite(x.grad).all()
    assert (apart.diagonal() >= 0.01 - 1e-6).all()


def test_running_variance_biased_and_unbiased():
    x = torch.randn(7, 3, generator=torch.Generator().manual_seed(0)) * 2 + 1
    from itm.models.two_branch.branches import BatchNorm

    for biased in (True, False):
        norm = BatchNorm(3, momentum=0.3, eps=1e-5, biased=biased).train()
        ours = norm(x)
        close(norm.running_var, 0.7 + 0.3 * x.numpy().var(0, ddof=0 if biased else 1), 1e-6)
        close(norm.running_mean, 0.3 * x.numpy().mean(0), 1e-6)
        close(ours.detach(), nn.BatchNorm1d(3)(x).detach(), 1e-6)
        assert norm.num_batches_tracked == 1
    ours, plain = BatchNorm(3, None, 1e-5, False).train(), nn.BatchNorm1d(3, momentum=None)
    for batch in (x, x[:4] + 1, x[3:] - 2):  # the statistics are the mean of all batches
        ours(batch), plain(batch)
    close(ours.running_mean, plain.running_mean, 1e-6)
    close(ours.running_var, plain.running_var, 1e-5)


# Phrases and regions ------------------------------------------------------------------------------


def phrases(cls, loss, **options):
    """Make four images, six phrases, and a target for every region."""
    matcher = without_dropout(small(cls, level="region", loss=loss, **options))
    pairs = matcher.pairs(region_lists(4, seed=3), sentences(6), [0, 0, 1, 2, 3, 3])
    generator = torch.Generator().manual_seed(0)
    shape = (6, pairs.images.mask.shape[1])
    target = torch.randint(-1, 2, shape, generator=generator).float()
    return matcher, pairs._replace(target=target)


@pytest.mark.parametrize("cls", [TwoBranchEmbedding, TwoBranchSimilarity])
def test_logistic_grounding(cls):
    matcher, pairs = phrases(cls, Logistic())
    matcher.eval()
    rows = pairs.captions.image
    scores = matcher.ground(Images(*(x[rows] for x in pairs.images)), pairs.captions)
    mask = pairs.images.mask[rows]
    assert torch.equal(torch.isneginf(scores), ~mask)
    labelled = [
        np.log1p(np.exp(-float(y) * float(s.detach())))
        for y, s, real in zip(pairs.target.ravel(), scores.ravel(), mask.ravel(), strict=True)
        if real and y != 0
    ]
    close(matcher.losses(pairs)["total"].item(), np.mean(labelled), 1e-6)


@pytest.mark.parametrize("cls", [TwoBranchEmbedding, TwoBranchSimilarity])
@pytest.mark.parametrize("loss", ["neighborhood", "logistic"])
def test_grounding_learns_the_marked_regions(cls, loss):
    weights = {"caption_weight": 4.0, "image_neighbors": 0.1, "caption_neighbors": 0.1, "top_k": 5}
    bounded = loss == "logistic"
    loss = Logistic() if bounded else Neighborhood(margin=0.3, **weights)
    matcher, pairs = phrases(cls, loss, bn_momentum=0.1, hidden_dim=32, embed_dim=16)
    pairs = pairs._replace(target=torch.where(pairs.target > 0, 1.0, -1.0))
    optimizer = torch.optim.Adam(matcher.parameters(), lr=0.01)
    start = matcher.losses(pairs)["total"].item()
    for _ in range(60):
        optimizer.zero_grad()
        total = matcher.losses(pairs)["total"]
        total.backward()
        optimizer.step()
    # Minus a distance is no logit: the logistic loss of a match at distance 0 is still log 2.
    assert total.item() < (0.9 if cls is TwoBranchEmbedding and bounded else 0.5) * start


def test_grounding_without_targets_is_ordinary_training():
    matcher, pairs = phrases(TwoBranchEmbedding, Triplet())
    terms = matcher.losses(pairs._replace(target=None))
    close(terms["total"].item(), matcher.loss(matcher(*pairs[:2]), pairs).item(), 1e-6)


@pytest.mark.parametrize("option", ["gather", "mask_same_image", "chunk_size"])
def test_options_for_whole_images_are_refused_for_regions(option):
    matcher, pairs = phrases(TwoBranchEmbedding, None)
    matcher.loss = Neighborhood(**({} if option == "chunk_size" else {option: True}))
    matcher.chunk_size = 2 if option == "chunk_size" else None
    with pytest.raises(ValueError, match=f"{option}=.*leave the option out"):
        matcher.losses(pairs)


# Use ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".npz", ".pth.tar"])
@pytest.mark.parametrize("name", ["two_branch/embed_s2", "two_branch_similarity/cite_k3_verbatim"])
def test_round_trip_of_tensorflow_weights(tmp_path, name, suffix):
    source = case(name) / "weights_init.npz"
    matcher = from_published(source)
    assert type(matcher).__name__.removeprefix("TwoBranch").lower() in (EMBEDDING + SIMILARITY)
    save_published(matcher, tmp_path / f"again{suffix}")
    again = from_published(tmp_path / f"again{suffix}")
    for key, value in matcher.state_dict().items():
        assert torch.equal(value, again.state_dict()[key]), key
    if suffix == ".npz":
        first, second = read_npz(source), read_npz(tmp_path / "again.npz")
        assert set(first) == {x for x in second if not x.startswith("opt/")}
        assert all(np.array_equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("name", PORTS)
def test_round_trip_of_the_port(tmp_path, name):
    matcher, _, _, features, captions = port(name)
    save_published(matcher, tmp_path / "model_best.pth.tar")
    original = torch.load(case(f"two_branch_torch/{name}") / "checkpoint.pth.tar")["state_dict"]
    written = torch.load(tmp_path / "model_best.pth.tar", weights_only=False)["state_dict"]
    assert original.keys() == written.keys()
    assert all(torch.equal(original[key], written[key]) for key in original)
    matcher.vocab.save(tmp_path / "vocab.json")
    again = from_published(tmp_path / "model_best.pth.tar", vocab=tmp_path / "vocab.json")
    assert np.array_equal(again.score(features, captions), matcher.score(features, captions))


@pytest.mark.parametrize(("cls", "options"), NETWORKS)
@pytest.mark.parametrize("text", [*TEXTS, "vectors"])
def test_saved_folders(tmp_path, cls, options, text):
    from itm.checkpoints.folder import load
    from itm.matcher.saved import save

    matcher = small(cls, text={"name": text}, **options)
    captions = sentences(4)
    if text == "vectors":
        captions = np.random.default_rng(0).normal(size=(4, 5)).astype(np.float32)
    scores = matcher.score(region_lists(3), captions)
    assert scores.shape == (3, 4)
    again = load(save(matcher, tmp_path / "saved"))
    assert np.array_equal(again.score(region_lists(3), captions), scores)


def test_bert_sentences(tmp_path):
    from itm.app.build import start_words
    from itm.checkpoints.folder import load
    from itm.layers.text import BertText
    from itm.matcher.saved import save

    config = {
        "model_type": "bert",
        "vocab_size": len(WORDS),
        "hidden_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 8,
        "max_position_embeddings": 16,
    }
    matcher = small(text={"name": "bert", "config": config, "finetune": True, "lr_scale": 0.5})
    assert isinstance(matcher.text, BertText)
    for other in (matcher, small(text={"name": "vectors"})):
        with pytest.raises(ValueError, match="word_vectors=glove.txt belongs to text=gru, mean or"):
            start_words(other, "glove.txt")
    groups = {group["name"]: group for group in matcher.parameter_groups()}
    assert groups["bert"]["lr_scale"] == 0.5
    scores = matcher.score(region_lists(3), sentences(4))
    alone = [[matcher.score([x], [c])[0, 0] for c in sentences(4)] for x in region_lists(3)]
    close(scores, alone, 1e-6)
    again = load(save(matcher, tmp_path / "saved"))
    close(again.score(region_lists(3), sentences(4)), scores, 1e-6)


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("cls", [TwoBranchEmbedding, TwoBranchSimilarity])
def test_parameter_groups_hold_every_parameter_once(cls, text):
    matcher = small(cls, text={"name": text}, text_lr_scale=2.0)
    groups = matcher.parameter_groups()
    parameters = [id(p) for group in groups for p in group["params"]]
    assert sorted(parameters) == sorted(id(p) for p in matcher.parameters())
    rates = {group["name"]: group["lr"] for group in matcher.configure_optimizers().param_groups}
    assert rates["sentence"] == 2 * rates["main"]


def test_pretrained_word_vectors(tmp_path):
    from itm.text.word_vectors import word_vectors

    path = tmp_path / "vectors.txt"
    path.write_text("2 3\na 1 2 3\nc 4 5 6\nzebra 7 8 9\n")
    vectors = torch.from_numpy(word_vectors(WORDS.words, path))
    assert vectors.shape == (len(WORDS), 3)
    assert vectors[WORDS.encode("a c")[1:-1]].tolist() == [[1, 2, 3], [4, 5, 6]]
    matcher = small(word_dim=3, text={"name": "mean", "word_reg": 0.5})
    matcher.text.start_from(vectors)
    assert matcher.text.penalty()["words"] == 0
    with torch.no_grad():
        matcher.text.embed.weight[4, 0] += 2
    close(matcher.text.penalty()["words"].item(), 0.5 * 4 / vectors.numel(), 1e-7)


def test_unknown_words_and_empty_captions():
    words = Vocabulary(["<pad>", "a", "b"], markers=False, tokenizer="whitespace")
    assert words.encode("The A  b.  b") == [1, 2]
    for text in ("mean", "attend"):
        matcher = small(text={"name": text}, loss=Triplet())
        matcher.vocab = words
        pairs = matcher.pairs(region_lists(3), ["a b", "zebra", "b"])
        matcher.losses(pairs)["total"].backward()
        assert all(torch.isfinite(p.grad).all() for p in matcher.parameters())
        assert np.isfinite(matcher.score(region_lists(2), ["zebra", "a"])).all()


def test_cite_preset_has_the_published_sizes():
    sizes = {"img_dim": 4101, "sentence_dim": 6000}
    matcher = TwoBranchSimilarity(**sizes, text={"name": "vectors"}, **two_branch.CITE_ARGUMENTS)
    assert matcher.image.second.weight.shape == (1024, 1024)
    assert matcher.last.weight.shape == (1, 256) and len(matcher.experts) == 4
    assert matcher.joint.norm.eps == 1e-3


def test_wrong_inputs():
    with pytest.raises(ValueError, match="level must be .* got 'word'"):
        small(level="word")
    with pytest.raises(ValueError, match="text must be 'vectors', .* or 'bert', got 'lstm'"):
        small(text={"name": "lstm"})
    with pytest.raises(ValueError, match="needs vocab_size"):
        sentence_encoder({"name": "mean"}, None, 4, None)
    with pytest.raises(ValueError, match="needs sentence_dim"):
        sentence_encoder({"name": "vectors"}, None, 4, None)
    for name in ("mean", "vectors"):
        waits = TwoBranchEmbedding(text={"name": name})  # for the sizes of its data
        with pytest.raises(ValueError, match="waits for a data module.* or give vocab_size"):
            waits.score(region_lists(2), ["a"])
    with pytest.raises(ValueError, match="needs level=region"):
        small(TwoBranchSimilarity, norm_axis="regions")
    with pytest.raises(ValueError, match=r"pass captions as a \(C, F\) array"):
        small(text={"name": "vectors"}).score(region_lists(2), ["a"])
    with pytest.raises(ValueError, match="must be 5 wide, got 3"):
        small(text={"name": "vectors"}).score(region_lists(2), np.zeros((2, 3), np.float32))
    matcher, pairs = phrases(TwoBranchEmbedding, Triplet())
    with pytest.raises(ValueError, match="4 images and 6 phrases"):
        matcher.ground(*pairs[:2])
    with pytest.raises(ValueError, match="loss=neighborhood or loss=logistic"):
        matcher.losses(pairs)
    with pytest.raises(ValueError, match="one row per phrase"):
        matcher.losses(pairs._replace(target=pairs.target[:2]))
    with pytest.raises(ValueError, match="no published two-branch network has text=gru"):
        two_branch.write_embedding(small(text={"name": "gru"}))


def test_foreign_and_incomplete_checkpoints(tmp_path):
    foreign = [{"rnn.weight": torch.zeros(2)}, {"fc.weight": torch.zeros(2)}]
    for read in (two_branch.read_embedding, two_branch.read_similarity):
        assert read(foreign, {}) is None
        assert read(foreign[:1], {}) is None
    arrays = read_npz(case("two_branch/embed_s2") / "weights_init.npz")
    del arrays["im_embed_2/biases"], arrays["im_embed_1/bnorm/beta"]
    np.savez(tmp_path / "part.npz", **arrays | {"im_embed_2/biases": np.zeros(3)}, odd=np.zeros(2))
    with pytest.raises(ValueError, match="unexpected odd"):
        from_published(tmp_path / "part.npz", family=EMBEDDING)


@pytest.mark.parametrize("cls", [TwoBranchEmbedding, TwoBranchSimilarity])
@pytest.mark.parametrize("loss", LOSSES)
def test_pairs_are_learnt(cls, loss):
    options = {"hidden_dim": 32, "embed_dim": 16, "bn_momentum": 0.1, "dropout": 0.0}
    matcher = small(cls, loss=LOSSES[loss](), **options).train()
    features = np.random.default_rng(0).normal(size=(4, 3, 7)).astype(np.float32)
    pairs = matcher.pairs(features, list("abcdefgh"), np.arange(4).repeat(2))
    optimizer = torch.optim.Adam(matcher.parameters(), lr=0.01)
    for _ in range(60):
        optimizer.zero_grad()
        matcher.losses(pairs)["total"].backward()
        optimizer.step()
    assert matcher.score(features, list("abcdefgh")).argmax(0).tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


@pytest.mark.parametrize("model", [EMBEDDING, SIMILARITY])
@pytest.mark.parametrize("text", [None, "gru", "mean", "attend", "vectors"])
def test_configuration_and_constructor_agree(model, text):
    from itm.app.config import compose, instantiate

    cfg = compose([f"model={model}", "~recipe", *([f"text={text}"] if text else [])])
    sizes = {"vocab_size": 9, "img_dim": 5, "sentence_dim": 6 if text == "vectors" else None}
    matcher = instantiate(cfg.model, **sizes)
    cls = type(matcher)
    defaults = dict(cls(9, sentence_dim=1).hparams)
    given = {k: v for k, v in cfg.model.items() if k not in (*sizes, "_target_", "text")}
    given |= {"joint_dims": None} if "joint_dims" in given else {}  # the default, spelled out
    assert given == {k: v for k, v in defaults.items() if k in given}
    assert given.keys() == defaults.keys() - sizes.keys() - {"text"}


@pytest.mark.parametrize("biased", [False, True])
def test_rows_under_a_mask_are_normalised_like_the_rows_alone(biased):
    """On a device the padded rows stay in the batch; also after `trainer.sync_batchnorm=true`."""
    torch.manual_seed(0)
    x, mask = torch.randn(9, 5), torch.tensor([1, 1, 0, 1, 0, 1, 1, 1, 0], dtype=torch.bool)
    alone = Dense(5, 4, {"momentum": 0.2, "eps": 1e-3, "biased": biased}).train()
    together = copy.deepcopy(alone)
    torch.testing.assert_close(together(x, mask)[mask], alone(x[mask]))
    for name, value in alone.norm.state_dict().items():
        torch.testing.assert_close(together.norm.state_dict()[name], value, msg=name)
    synchronised = torch.nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(together))
    assert isinstance(synchronised.norm, torch.nn.SyncBatchNorm)
    torch.testing.assert_close(synchronised(x, mask)[mask], alone(x[mask]))
