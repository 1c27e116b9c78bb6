import numpy as np
import pytest
import torch
from golden_metrics import check_options, check_recalls
from goldens_path import case, read_npz
from torch.nn.utils.rnn import pad_packed_sequence
from vsrn_reference import toy

import itm.checkpoints.folder
from itm.batch import Pairs
from itm.data.padding import make_images
from itm.losses import Triplet
from itm.metrics.retrieval import evaluate
from itm.models import VSRN
from itm.models.vsrn.captioner import teacher
from itm.published.convert import from_published, read_checkpoint, save_published
from itm.published.tables import Known
from itm.published.vsrn import REST, read, write

CASES = ["f30k_caption", "f30k_nocaption", "coco_caption", "coco_nocaption_ensemble"]
WITH_CAPTIONS = ["f30k_caption", "coco_caption"]


class Golden:
    def __init__(self, name: str):
        self.folder = case(f"vsrn/{name}")
        self.expected = read_npz(self.folder / "expected.npz")
        self.captions = next(self.folder.glob("data/*/test_caps.txt")).read_text().splitlines()
        features = np.load(next(self.folder.glob("data/*/test_ims.npy")))
        repeated = len(features) == len(self.captions)  # one row per caption, five per image
        self.features = features[::5] if repeated else features

    def matcher(self, checkpoint: str = "checkpoint.pth.tar", **options) -> VSRN:
        captioner = self.folder / "caption_model.pth.tar"
        return from_published(
            self.folder / checkpoint,
            vocab=self.folder / "vocab.json",
            captioner=captioner if captioner.exists() else None,
            **options,
        )

    def pairs(self, matcher: VSRN) -> Pairs:
        e = self.expected
        pairs = matcher.pairs(e["batch_images"], [self.captions[i] for i in e["batch_ids"]])
        np.testing.assert_array_equal(pairs.captions.tokens, e["batch_captions"])
        return pairs


@pytest.mark.parametrize("name", CASES)
def test_scores_and_ranks_of_published_weights(name):
    golden = Golden(name)
    matcher, expected = golden.matcher(), golden.expected
    scores = matcher.score(golden.features, golden.captions)
    np.testing.assert_allclose(scores, expected["sims"], atol=1e-5)
    np.testing.assert_allclose(matcher.embed(golden.features), expected["img_emb"], atol=1e-5)
    found = matcher.embed(captions=golden.captions)
    np.testing.assert_allclose(found, expected["cap_emb"], atol=1e-5)
    tokens = [matcher.vocab.encode(caption) for caption in golden.captions]
    assert [len(ids) for ids in tokens] == expected["cap_len"].tolist()
    for ids, row in zip(tokens, expected["cap_ids"], strict=True):
        assert ids == row[: len(ids)].tolist() and not row[len(ids) :].any()
    found = evaluate(scores)
    check_recalls(found, expected["i2t"], expected["t2i"], rtol=1e-5)


def test_ensemble_is_the_mean_of_two_score_matrices():
    golden = Golden("coco_nocaption_ensemble")
    both = [
        golden.matcher(file).score(golden.features, golden.captions)
        for file in ("checkpoint.pth.tar", "checkpoint_2.pth.tar")
    ]
    np.testing.assert_allclose(both[1], golden.expected["sims_model2"], atol=1e-5)
    mean = (both[0] + both[1]) / 2
    np.testing.assert_allclose(mean, golden.expected["sims_ensemble"], atol=1e-5)
    expected = (golden.expected[f"{way}_ensemble"] for way in ("i2t", "t2i"))
    check_recalls(evaluate(mean), *expected, rtol=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_region_vectors_of_published_weights(name):
    golden = Golden(name)
    matcher, rows = golden.matcher(), golden.features[:2]
    with torch.no_grad():
        images, inner = make_images(rows, range(2)), {}
        block = matcher.image.blocks[0]
        matcher.image.project.register_forward_hook(lambda m, x, y: inner.update(fc_out=y))
        block.register_forward_hook(lambda m, x, y: inner.update(before=x[0], gcn1_out=y))
        inner["region_feats"] = matcher.image(images)[1]
        x = inner.pop("before")
        inner["gcn1_affinity"] = block.theta(x) @ block.phi(x).mT / x.shape[1]
    for key, found in inner.items():
        expected = golden.expected[key]
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5, err_msg=key)


@pytest.mark.parametrize("name", CASES)
def test_training_batch_of_published_weights(name):
    golden, expected = Golden(name), Golden(name).expected
    matcher = golden.matcher(loss=Triplet(margin=0.2)).train()
    if matcher.captioner is not None:
        matcher.captioner.dropout.p = 0.0
    pairs = golden.pairs(matcher)
    np.testing.assert_array_equal(pairs.captions.lengths, expected["batch_lengths"])
    with torch.no_grad():
        images = matcher.encode_images(pairs.images)
        captions = matcher.encode_captions(pairs.captions)
        losses = matcher.losses(pairs)
    np.testing.assert_allclose(images.vector, expected["batch_img_emb"], atol=1e-5)
    np.testing.assert_allclose(captions.vector, expected["batch_cap_emb"], atol=1e-5)
    assert losses["ranking"].item() == pytest.approx(expected["loss_retrieval"], rel=1e-4)
    assert losses["total"].item() == pytest.approx(expected["loss"], rel=1e-4)
    if matcher.captioner is not None:
        assert losses["caption"].item() == pytest.approx(expected["loss_caption"], rel=1e-4)
        # What is said after what: all that the original's masks let through.
        labels, masks = expected["batch_caption_labels"], expected["batch_caption_masks"]
        spoken, targets = teacher(pairs.captions, matcher.captioner.max_len)
        for c, (row, mask) in enumerate(zip(labels, masks, strict=True)):
            n = int(mask[1:-1].sum())
            for found, truth in ((spoken, row[:n]), (targets, row[1 : n + 1])):
                assert pad_packed_sequence(found)[0][:n, c].tolist() == truth.tolist()


@pytest.mark.filterwarnings("ignore:.*duplicate parameters")
@pytest.mark.parametrize(
    ("name", "kind"), [*((x, "") for x in CASES), *((x, "_dedup") for x in WITH_CAPTIONS)]
)
def test_five_training_steps_of_published_weights(name, kind):
    """The original lists the captioner's parameters twice; "_dedup": as they should be, once."""
    golden = Golden(name)
    matcher = golden.matcher(loss=Triplet(margin=0.2)).train()
    parameters = list(matcher.parameters())
    if matcher.captioner is not None:
        matcher.captioner.dropout.p = 0.0
        parameters += [] if kind else list(matcher.captioner.parameters())
    pairs, expected = golden.pairs(matcher), golden.expected
    optimizer = torch.optim.Adam(parameters, lr=2e-4)
    for step in range(5):
        losses = {name: value for name, value in matcher.losses(pairs).items()}
        optimizer.zero_grad()
        losses["total"].backward()
        norm = torch.nn.utils.clip_grad_norm_(parameters, 2.0)
        optimizer.step()
        found = {name: value.item() for name, value in losses.items()}
        assert found["total"] == pytest.approx(expected[f"losses{kind}"][step], rel=1e-4)
        assert norm.item() == pytest.approx(expected[f"grad_norms{kind}"][step], rel=1e-3)
        if matcher.captioner is not None:
            ranking, caption = (expected[f"losses_{x}{kind}"] for x in ("retrieval", "caption"))
            assert found["ranking"] == pytest.approx(ranking[step], rel=1e-4)
            assert found["caption"] == pytest.approx(caption[step], rel=1e-4)
        else:
            assert found.keys() == {"ranking", "total"}
    scores = matcher.score(golden.features, golden.captions)
    np.testing.assert_allclose(scores, expected[f"sims_after{kind}"], atol=2e-3)


@pytest.mark.parametrize("name", CASES)
def test_hinge_over_all_negatives_of_published_weights(name):
    golden = Golden(name)
    matcher = golden.matcher(loss=Triplet(negatives="all")).train()
    found = matcher.losses(golden.pairs(matcher))["ranking"].item()
    assert found == pytest.approx(golden.expected["loss_retrieval_sum_hinge"], rel=1e-4)


@pytest.mark.parametrize("name", WITH_CAPTIONS)
def test_captioner_of_published_weights(name):
    golden = Golden(name)
    matcher = golden.matcher().train()
    matcher.captioner.dropout.p = 0.0
    pairs = golden.pairs(matcher)
    with torch.no_grad():
        regions = matcher.encode_images(pairs.images).parts
        first = matcher.pairs(
            golden.features[:1], [golden.captions[golden.expected["batch_ids"][0]]]
        )
        logits, _ = matcher.captioner.logits(regions[:1], pairs.images.mask[:1], first.captions)
    words = torch.log_softmax(logits, -1)
    expected = golden.expected["caption_logprobs_first"][: len(words)]
    np.testing.assert_allclose(words, expected, rtol=1e-4, atol=1e-5)
    # The original described the batch after one pass in training mode had moved the statistics.
    ids, scores = matcher.greedy(pairs.images)
    np.testing.assert_array_equal(ids, golden.expected["greedy_ids"])
    np.testing.assert_allclose(scores, golden.expected["greedy_logprobs"], rtol=1e-4, atol=1e-5)
    assert matcher.training


@pytest.mark.parametrize("name", CASES)
def test_published_weights_survive_both_directions(name, tmp_path):
    golden = Golden(name)
    matcher = golden.matcher()
    save_published(matcher, tmp_path / "model_best.pth.tar")
    again = from_published(tmp_path / "model_best.pth.tar", vocab=golden.folder / "vocab.pkl")
    assert dict(again.hparams) == dict(matcher.hparams)
    scores = [m.score(golden.features, golden.captions) for m in (matcher, again)]
    np.testing.assert_array_equal(*scores)
    first, _ = read_checkpoint(golden.folder / "checkpoint.pth.tar")
    second, options = read_checkpoint(tmp_path / "model_best.pth.tar")
    for before, after in zip(first, second, strict=False):
        assert {k: v.shape for k, v in before.items()} == {k: v.shape for k, v in after.items()}
        assert all(torch.equal(before[k], after[k]) for k in before)
    assert options["data_name"] == name.split("_")[0] + "_precomp"
    _, original = read_checkpoint(golden.folder / "checkpoint.pth.tar")
    check_options(original, options, REST)
    itm.matcher.saved.save(matcher, tmp_path / "folder")
    loaded = itm.checkpoints.folder.load(tmp_path / "folder")
    np.testing.assert_array_equal(loaded.score(golden.features, golden.captions), scores[0])


def test_only_its_own_weights_are_claimed(tmp_path):
    image, text = write(toy(17, caption_weight=0.0))[0]
    plain = {k: v for k, v in image.items() if k.startswith("fc.")}
    assert read([plain, text], Known({})) is None
    assert read([image], Known({})) is None
    assert read([image, text], Known({})) is not None
    assert read([image, text], Known({"measure": "order"}))[0]["measure"] == "order"
    with pytest.raises(ValueError, match="unexpected Rs_GCN_1.extra.weight"):
        save_states(tmp_path, [{**image, "Rs_GCN_1.extra.weight": torch.zeros(1)}, text])
    with pytest.raises(ValueError, match="missing image.project.bias"):
        save_states(tmp_path, [{k: v for k, v in image.items() if k != "fc.bias"}, text])


def save_states(folder, states):
    torch.save({"model": states}, folder / "x.pth.tar")
    from_published(folder / "x.pth.tar", family="vsrn")
