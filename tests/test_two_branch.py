"""Two-branch networks: numbers of the original code, and properties on small random ones."""

import json

import numpy as np
import pytest
import torch
from goldens_path import case
from torch import nn

from itm.batch import Images
from itm.losses import Logistic, Neighborhood, Triplet
from itm.models.two_branch import TwoBranchEmbedding
from itm.models.two_branch_similarity import CITE, TwoBranchSimilarity, tensorflow_names
from itm.published import from_published, save_published
from itm.text import Vocabulary

EMBEDDING, SIMILARITY = "two_branch_embedding", "two_branch_similarity"


def close(actual, expected, tolerance):
    np.testing.assert_allclose(np.asarray(actual), expected, rtol=0, atol=tolerance)


def without_dropout(matcher):
    for module in matcher.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return matcher.train()


class TensorflowAdam(torch.optim.Adam):
    """TensorFlow adds eps before the correction of the second moment, torch after it."""

    def step(self, closure=None):
        for group in self.param_groups:
            first = self.state.get(group["params"][0])
            steps = 1 + (int(first["step"]) if first else 0)
            group["eps"] = 1e-8 / (1 - group["betas"][1] ** steps) ** 0.5
        return super().step(closure)


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
    """Gradients under the original names; a bias before a batch norm has a true gradient of 0."""
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
    expected = np.load(folder / "expected.npz")
    image = np.arange(options["batch_size"]).repeat(options["sample_size"])
    pairs = matcher.pairs(expected["batch_im_feats"], expected["batch_sent_feats"], image)
    return matcher, expected, pairs, np.load(folder / "test_features.npz")


CASES = ["embed_s2", "embed_s5_bigmargin"]


@pytest.mark.parametrize("name", CASES)
def test_embedding_scores(name):
    from itm.metrics import evaluate

    matcher, expected, _, test = embedding(name)
    scores = matcher.score(test["images"], test["sentences"])
    close(-scores.T, expected["dist"], 2e-6)
    close(matcher.embed(test["images"]), expected["im_embed"], 1e-6)
    close(matcher.embed(captions=test["sentences"]), expected["sent_embed"], 1e-6)
    results = evaluate(scores, np.arange(70) // 5)
    recalls = [results[f"{way}_r{k}"] for way in ("i2t", "t2i") for k in (1, 5, 10)]
    close(recalls, 100 * expected["recall"], 1e-4)


@pytest.mark.parametrize("name", CASES)
def test_embedding_losses_and_gradients(name):
    from itm.models.two_branch import TENSORFLOW

    matcher, expected, pairs, _ = embedding(name)
    without_dropout(matcher)
    terms = matcher.losses(pairs)
    terms["total"].backward()
    loss = matcher.loss
    anchors = loss.caption_weight * expected["im_loss"] + expected["sent_loss"]
    close(terms["ranking"].item(), anchors, 1e-6)
    neighbors = loss.caption_neighbors * expected["sent_only_loss"]
    close(terms["caption_neighbors"].item(), neighbors, 1e-6)
    close(terms["total"].item(), expected["loss"], 1e-6)
    close_gradients(matcher, expected, TENSORFLOW, 1e-5)
    state = matcher.state_dict()
    for ours, theirs in TENSORFLOW.items():
        if "running" in ours:
            close(state[ours], expected[f"bn_after_1/{theirs}"], 1e-6)


@pytest.mark.parametrize("name", CASES)
def test_embedding_training(name):
    from itm.models.two_branch import TENSORFLOW

    matcher, expected, pairs, test = embedding(name)
    without_dropout(matcher)
    losses = five_steps(matcher, pairs, TensorflowAdam(matcher.parameters(), lr=1e-4))
    close([terms["total"] for terms in losses], expected["losses"], 1e-6)
    state = matcher.state_dict()
    for ours, theirs in TENSORFLOW.items():
        truth = expected[f"after5/{theirs}"]
        # Adam turns the rounding of a zero gradient into steps of +-lr, which shift the mean too.
        noise = ours.endswith(("first.linear.bias", "running_mean"))
        close(state[ours], truth.T if truth.ndim == 2 else truth, 5e-4 if noise else 2e-5)
    close(-matcher.score(test["images"], test["sentences"]).T, expected["dist_after5"], 1e-4)


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
    with pytest.raises(ValueError, match="no TensorFlow checkpoint index"):
        from_published(tmp_path / "a")


# The PyTorch port ---------------------------------------------------------------------------------


def port(name, word_reg=0.0):
    folder = case(f"two_branch_torch/{name}")
    options = json.loads((folder / "options.json").read_text())
    expected = np.load(folder / "expected.npz")
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
    from itm.metrics import evaluate

    matcher, expected, _, features, captions = port(name)
    tokens = [matcher.vocab.encode(caption) for caption in captions]
    assert np.array_equal(tokens, expected["test_tokens"])
    scores = matcher.score(features, captions)
    close(-scores.T, expected["dist"], 2e-6)
    close(matcher.embed(features), expected["im_embed"], 1e-6)
    close(matcher.embed(captions=captions), expected["sent_embed"], 1e-6)
    results = evaluate(scores, expected["test_cap2im"])
    for way, side in (("i2t", "im2sent"), ("t2i", "sent2im")):
        recalls = [results[f"{way}_r{k}"] for k in (1, 5, 10)]
        close(np.round(recalls, 1), expected[f"recall_{side}"], 1e-4)


@pytest.mark.parametrize("name", PORTS)
def test_port_training(name):
    from itm.models.two_branch import PORT

    matcher, expected, options, features, captions = port(name, 5e-5)
    without_dropout(matcher)
    rows = expected["batch_sents"].reshape(-1)
    image = np.arange(len(expected["batch_sents"])).repeat(2)
    train = port_captions(case(f"two_branch_torch/{name}"), "train.txt")
    pairs = matcher.pairs(expected["batch_im_feats"], [train[row] for row in rows], image)
    assert np.array_equal(pairs.captions.tokens, expected["batch_tokens"])
    terms = matcher.losses(pairs)
    terms["total"].backward()
    close(terms["words"].item(), 5e-5 * expected["word_mse"], 1e-10)
    close(terms["total"].item(), expected["loss"], 1e-5 * expected["loss"])
    names = {ours: theirs for theirs, ours in PORT.items() if f"grad/{theirs}" in expected}
    close_gradients(matcher, expected, names, 1e-5)
    for theirs, ours in PORT.items():
        if f"bn_after_1/{theirs}" in expected:
            close(matcher.state_dict()[ours], expected[f"bn_after_1/{theirs}"], 1e-6)

    matcher, *_ = port(name, 5e-5)
    without_dropout(matcher)
    matcher.optimizer = lambda groups: torch.optim.Adam(groups, lr=1e-4, weight_decay=1e-3)
    losses = five_steps(matcher, pairs, matcher.configure_optimizers())
    close([terms["total"] for terms in losses], expected["losses"], 1e-5)
    close(-matcher.score(features, captions).T, expected["dist_after"], 2e-5)


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
    data, expected = np.load(folder / "data.npz"), np.load(folder / "expected.npz")
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


@pytest.mark.parametrize("name", SIMILAR)
def test_cite_scores_and_losses(name):
    matcher, options, data, expected, pairs = cite(name)
    check_grounding(matcher, data, expected, "", 2e-6)
    matcher.train()
    terms = matcher.losses(pairs)
    terms["total"].backward()
    close(terms["ranking"].item(), expected["train_region_loss"], 1e-6)
    close(terms["concepts"].item(), options["embed_l1"] * expected["train_concept_loss"], 1e-6)
    close(terms["weights"].item(), expected["train_reg_loss"], 1e-6)
    total = expected["train_total_loss"] + expected["train_reg_loss"]
    close(terms["total"].item(), total, 1e-6)
    names = tensorflow_names(options["num_embeddings"])
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
