"""Test VSE-infinity: the original's numbers, padding in batch norm, Gaussians, files, bad input."""

import argparse
import json

import numpy as np
import pytest
import torch
from golden_metrics import check_metrics, check_recalls
from goldens_path import case, read_npz
from omegaconf import OmegaConf
from vse_goldens import UNUSED, VSEGolden, check_steps

import itm
from itm.app.config import compose
from itm.batch import Images
from itm.explain import explain
from itm.index import Index
from itm.layers import csd
from itm.losses import PCMEPP, Triplet
from itm.models import VSEInfinity
from itm.published.convert import from_published, read_checkpoint, save_published
from itm.published.transformer import read_text
from itm.text.vocabulary import SPECIALS, Vocabulary
from itm.visual import draw_explanation

CASES = [
    "bigru", "bigru_ragged", "bigru_nonorm_warmup", "bigru_augmented", "bert",
    "bert_ragged_warmup", "bert_augmented",
]  # fmt: skip
CAPTIONS = ["a dog runs", "two red cat", "a", "a red dog runs a cat"]


@pytest.mark.parametrize("name", CASES)
def test_golden_scores_ranks_and_pooling_weights(name):
    golden = VSEGolden(f"vse_infty/{name}")
    matcher, expected = golden.matcher, golden.expected
    images, captions = golden.data("test")
    ids = matcher.pairs(images, captions, image=[0] * len(captions)).captions
    np.testing.assert_array_equal(ids.tokens, expected["cap_ids"])
    np.testing.assert_array_equal(ids.lengths, expected["cap_len"])
    np.testing.assert_allclose(matcher.embed(features=images), expected["img_emb"], atol=1e-6)
    np.testing.assert_allclose(matcher.embed(captions=captions), expected["cap_emb"], atol=1e-6)
    found = matcher.score(images, captions)
    np.testing.assert_allclose(found, expected["sims"], atol=2e-6)
    check_metrics(expected, found)
    for side, pool in (("image", matcher.image_pool), ("text", matcher.text_pool)):
        weights = expected[f"gpo_{side}"]
        with torch.no_grad():
            table = pool.table(list(range(1, len(weights) + 1)), len(weights))
        np.testing.assert_allclose(table, weights, atol=1e-6)


@pytest.mark.parametrize("name", CASES)
def test_golden_losses_and_five_steps(name):
    golden = VSEGolden(f"vse_infty/{name}")
    suffixes = ["", "_masked"] if "losses_masked" in golden.expected else [""]
    for suffix in suffixes:
        golden = VSEGolden(f"vse_infty/{name}")
        expected, pairs = golden.expected, golden.batch()
        matcher = golden.matcher.double().train()
        matcher.image.pad_statistics = not suffix
        with torch.no_grad():
            scores = matcher(pairs.images, pairs.captions)
        np.testing.assert_allclose(scores, expected[f"batch_sims{suffix}"], atol=1e-10)
        for negatives in ("all", "hardest") if not suffix else ():
            loss = float(Triplet(golden.options["margin"], negatives)(scores, pairs))
            assert loss == pytest.approx(float(expected[f"loss_{negatives}"]), rel=1e-9)
        steps = VSEGolden(f"vse_infty/{name}").train(suffix)
        check_steps(expected, steps, suffix)


@pytest.mark.parametrize("name", CASES)
def test_published_round_trip(name, tmp_path):
    golden = VSEGolden(f"vse_infty/{name}")
    save_published(golden.matcher, tmp_path / "again.pth")
    raw = (torch.load(path, weights_only=False) for path in (golden.path, tmp_path / "again.pth"))
    first, second = raw
    for before, after in zip(first["model"], second["model"], strict=True):
        assert before.keys() == after.keys()  # with "module." where the original has it
        for key, value in before.items():
            assert UNUSED in key or torch.equal(after[key], value), key
    kept = ("no_imgnorm", "no_txtnorm", "img_dim", "embed_size", "vocab_size", "precomp_enc_type")
    assert vars(second["opt"]).keys() >= vars(first["opt"]).keys()
    assert all(getattr(second["opt"], key) == getattr(first["opt"], key) for key in kept)
    images, captions = golden.data("test")
    scores = golden.matcher.score(images, captions)
    read = golden.read(tmp_path / "again.pth")
    np.testing.assert_allclose(read.score(images, captions), scores, atol=1e-6)


def test_the_mask_is_the_last_word_of_the_table():
    golden = VSEGolden("vse_infty/bigru_ragged")
    assert golden.matcher.vocab.words[-1] == "<mask>"
    words = Vocabulary.load(golden.vocab).words
    assert golden.matcher.vocab.words == [*words, "<mask>"]
    with pytest.raises(ValueError, match=f"has {len(words) - 1} words, but the embedding table"):
        from_published(golden.path, vocab=Vocabulary(words[:-1]))


def test_what_the_tensors_do_not_tell_is_asked_for(tmp_path):
    path = case("vse_infty/bert_ragged_warmup") / "checkpoint.pth.tar"
    with pytest.raises(ValueError, match="holds a BERT, but neither its configuration .* text="):
        from_published(path)
    gru = case("vse_infty/bigru_ragged")
    with pytest.raises(ValueError, match="text= belongs to weights with a BERT"):
        from_published(gru / "checkpoint.pth.tar", text=tmp_path)
    states, options = read_checkpoint(gru / "checkpoint.pth.tar")
    torch.save({"model": states}, tmp_path / "bare.pth")
    with pytest.raises(ValueError, match="without their 'no_imgnorm', 'no_txtnorm': give"):
        from_published(tmp_path / "bare.pth")
    given = {"no_imgnorm": False, "no_txtnorm": True}
    assert from_published(tmp_path / "bare.pth", options=given).no_txtnorm

    def read(*states):
        opt = argparse.Namespace(**options)
        torch.save({"model": list(states), "opt": opt}, tmp_path / "m.pth")
        return from_published(tmp_path / "m.pth")

    options["precomp_enc_type"] = "backbone"
    with pytest.raises(ValueError, match="say precomp_enc_type=backbone, its tensors basic"):
        read(*states)
    options["precomp_enc_type"] = "basic"
    grid = {f"image_encoder.{key}": x for key, x in states[0].items()}
    with pytest.raises(ValueError, match="grid features from pixels"):
        read(grid, states[1])
    one = {key: x for key, x in states[1].items() if "_reverse" not in key or "gpool" in key}
    with pytest.raises(ValueError, match="GRU of one direction"):
        read(states[0], one)
    with pytest.raises(ValueError, match="unexpected mlp.bns.2"):
        read({**states[0], "mlp.bns.2": torch.ones(1)}, states[1])


def test_no_caption_is_cut(tmp_path):
    """The original cuts none, so a caption may be as long as the transformer's positions."""
    for path in (case("vse_infty/bert_ragged_warmup") / "bert").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 300}))
    _, vocab = read_text(tmp_path, "m.pth", given=False)
    assert len(vocab.encode("dog " * 400)) == 300


# Our own ------------------------------------------------------------------------------------------


def made(**options):
    torch.manual_seed(0)
    matcher = VSEInfinity(10, 6, 4, 8, **options)
    matcher.vocab = Vocabulary([*SPECIALS, "a", "dog", "cat", "runs", "red", "two"])
    return matcher.eval()


def ragged(counts=(3, 1, 5, 2), seed=0):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(n, 6)).astype(np.float32) for n in counts]


def test_padding_changes_no_statistics_unless_asked_to():
    losses, statistics = {}, {}
    for pad in (False, True):
        for extra in (0, 3):
            matcher = made(pad_statistics=pad, loss=Triplet()).train()
            pairs = matcher.pairs(ragged(), CAPTIONS)
            regions = torch.nn.functional.pad(pairs.images.regions, (0, 0, 0, extra), value=7.0)
            mask = torch.nn.functional.pad(pairs.images.mask, (0, extra))
            pairs = pairs._replace(images=Images(regions, mask, pairs.images.index))
            losses[pad, extra] = matcher.losses(pairs)["total"].item()
            statistics[pad, extra] = matcher.image.norm.running_mean.clone()
    assert losses[False, 0] == pytest.approx(losses[False, 3], rel=1e-5)
    torch.testing.assert_close(statistics[False, 0], statistics[False, 3])
    assert abs(losses[True, 0] - losses[True, 3]) > 1e-4
    assert (statistics[True, 0] - statistics[True, 3]).abs().max() > 1e-4


def test_equally_many_regions_leave_nothing_to_choose():
    losses = [
        made(pad_statistics=pad, loss=Triplet()).train() for pad in (False, True)
    ]  # fmt: skip
    features = np.stack(ragged((4, 4, 4, 4)))
    found = [m.losses(m.pairs(features, CAPTIONS))["total"].item() for m in losses]
    assert found[0] == pytest.approx(found[1], rel=1e-6)


def test_a_batch_of_one_region_keeps_the_statistics():
    matcher = made(loss=Triplet()).train()
    before = matcher.image.norm.running_mean.clone()
    assert matcher.losses(matcher.pairs(ragged((1,)), CAPTIONS[:1]))["total"].isfinite()
    assert torch.equal(matcher.image.norm.running_mean, before)


@pytest.mark.parametrize("options", [{}, {"mlp": False}, {"no_imgnorm": True, "no_txtnorm": True}])
def test_an_explanation_adds_up_to_the_score(options):
    found = explain(made(**options), ragged()[0], CAPTIONS[0])
    for shares in (*found.details.regions.values(), *found.details.words.values()):
        assert shares.sum() == pytest.approx(found.score, abs=1e-5)
    assert found.details.numbers == {}


# Gaussians ----------------------------------------------------------------------------------------


def head(state, side, pool, linear, name):
    """The tensors of one head of the original, under our names."""
    names = {f"{name}.fc": linear, f"{name}.gpool.gru": f"{pool}.gru",
             f"{name}.gpool.linear": f"{pool}.score"}  # fmt: skip
    for key, value in state.items():
        for theirs, ours in names.items():
            if key.startswith(f"{theirs}."):
                side[ours + key.removeprefix(theirs)] = torch.from_numpy(value)


@pytest.mark.parametrize("layer_norm", [False, True])
def test_golden_heads(layer_norm):
    expected = read_npz(case("pcmepp/head") / "expected.npz")
    state = {k.removeprefix("state/"): x for k, x in expected.items() if k.startswith("state/")}
    gain = 1.0 if layer_norm else None
    matcher = VSEInfinity(
        9, 12, 4, 16, mlp=False, probabilistic=True, log_var_gain=gain
    ).eval()  # fmt: skip
    tensors = {}
    head(state, tensors, "image_pool", "image.linear", "image_encoder")
    head(state, tensors, "image_log_var.pool", "image_log_var.linear", "image_std_encoder")
    if layer_norm:
        for name in ("weight", "bias"):
            tensors[f"image_log_var.norm.{name}"] = torch.from_numpy(state[f"image_std_ln.{name}"])
    missing, unexpected = matcher.load_state_dict(tensors, strict=False)
    assert not unexpected and not [name for name in missing if name.startswith("image")]
    counts = torch.from_numpy(expected["counts"])
    mask = torch.arange(10) < counts[:, None]
    index = torch.arange(len(counts))
    with torch.no_grad():
        images = Images(torch.from_numpy(expected["features"]), mask, index)
        np.testing.assert_allclose(
            matcher.encode_images(images).aux["mean"], expected["mu"], atol=2e-6
        )
        images = Images(torch.from_numpy(expected["features_s"]), mask, index)
        found = matcher.encode_images(images).aux["log_var"]
        np.testing.assert_allclose(found, expected["s_layernorm" if layer_norm else "s"], atol=2e-6)
        for pool, name in ((matcher.image_pool, "mean"), (matcher.image_log_var.pool, "s")):
            table = pool.table(list(range(1, 11)), 10)
            np.testing.assert_allclose(table, expected[f"gpo_{name}"], atol=2e-6)


def test_heads_start_as_in_the_original():
    matcher = VSEInfinity(9, img_dim=300, embed_dim=80, probabilistic=True, log_var_bias=0.0)
    image, text = matcher.image_log_var.linear, matcher.text_log_var.linear
    assert image.weight.abs().max().item() == pytest.approx(np.sqrt(6 / 380), rel=0.01)
    assert text.weight.abs().max().item() == pytest.approx(1 / np.sqrt(80), rel=0.01)
    assert not image.bias.any() and not text.bias.any()


def test_golden_ranking():
    expected = read_npz(case("pcmepp/ranking") / "expected.npz")
    sides = {
        side: [torch.from_numpy(expected[f"{x}_{side}"]) for x in ("mu", "s")]
        for side in ("img", "cap")
    }
    for measure in ("csd", "mean"):
        matcher = made(probabilistic=True, measure=measure)
        images = matcher._gaussian(*sides["img"], "image")
        captions = matcher._gaussian(*sides["cap"], "caption")
        found = matcher.similarity(images, captions).numpy()
        key = "csd" if measure == "csd" else "mean_only"
        np.testing.assert_allclose(found, expected[f"scores_{key}"], atol=1e-12)
        names = [x for x in ("i2t_metrics", "t2i_metrics", "i2t_ranks", "t2i_ranks")]
        check_ranks({x: expected[f"{x}_{key}"] for x in names}, found)
        for encoded, side in ((images, "img"), (captions, "cap")):
            v = matcher.uncertainty(encoded)
            np.testing.assert_allclose(v, expected[f"uncertainty_{side}"], atol=1e-12)


def check_ranks(expected, scores):
    from itm.metrics.retrieval import ranks, summary

    i2t, t2i = ranks(scores, [c // 5 for c in range(scores.shape[1])])
    np.testing.assert_array_equal(i2t, expected["i2t_ranks"])
    np.testing.assert_array_equal(t2i, expected["t2i_ranks"])
    check_recalls(summary(i2t, t2i), expected["i2t_metrics"], expected["t2i_metrics"])


@pytest.mark.parametrize("gain", [None, 0.5])
def test_a_probabilistic_matcher_scores_by_distances(gain):
    matcher = made(probabilistic=True, log_var_gain=gain, loss=PCMEPP())
    pairs = matcher.pairs(ragged(), CAPTIONS)
    with torch.no_grad():
        images, captions = (
            matcher.encode_images(pairs.images),
            matcher.encode_captions(pairs.captions),
        )
        distance = csd(*(x.aux[k] for x in (images, captions) for k in ("mean", "log_var")))
    scores = matcher.score(ragged(), CAPTIONS)
    np.testing.assert_allclose(scores, -distance, atol=1e-5)
    sides = [matcher.embed(features=ragged()), matcher.embed(captions=CAPTIONS)]
    assert sides[0].shape == (4, 10)
    np.testing.assert_allclose(sides[0] @ sides[1].T, scores, atol=1e-5)
    matcher.losses(pairs)["total"].backward()
    for name, parameter in matcher.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name


@pytest.mark.parametrize("measure", ["csd", "mean"])
def test_neither_padding_nor_company_nor_precision_change_a_probabilistic_score(measure):
    matcher = made(probabilistic=True, measure=measure, loss=PCMEPP())
    images, scores = ragged(), matcher.score(ragged(), CAPTIONS)
    alone = [[matcher.score([x], [c])[0, 0] for c in CAPTIONS] for x in images]
    np.testing.assert_allclose(alone, scores, atol=1e-5)
    np.testing.assert_allclose(matcher.score(images, CAPTIONS, batch_size=3), scores, atol=1e-5)
    pairs = matcher.pairs(images, CAPTIONS)
    exact = matcher.losses(pairs)["total"].item()
    with torch.autocast("cpu", torch.bfloat16):
        rough = matcher(pairs.images, pairs.captions)
        assert matcher.losses(pairs)["total"].item() == pytest.approx(exact, rel=0.02)
    np.testing.assert_allclose(rough.detach(), scores, atol=0.05)


def test_uncertainties_are_drawn():
    matcher = made(probabilistic=True)
    found = explain(matcher, ragged()[0], "a dog runs")
    assert "uncertainty of the image" in draw_explanation(found).get_suptitle()


def test_a_saved_folder_keeps_the_gaussians(tmp_path):
    matcher = made(probabilistic=True, log_var_gain=0.5, mlp=False)
    matcher.save_pretrained(tmp_path / "folder")
    read = itm.load(tmp_path / "folder")
    np.testing.assert_array_equal(read.score(ragged(), CAPTIONS), matcher.score(ragged(), CAPTIONS))
    found = read.embed(captions=CAPTIONS, uncertainty=True)[1]
    np.testing.assert_array_equal(found, matcher.embed(captions=CAPTIONS, uncertainty=True)[1])


def test_uncertainty_of_each_item():
    matcher = made(probabilistic=True)
    vectors, found = matcher.embed(features=ragged(), uncertainty=True)
    np.testing.assert_array_equal(vectors, matcher.embed(features=ragged()))
    with torch.no_grad():
        pairs = matcher.pairs(ragged(), CAPTIONS)
        expected = matcher.encode_images(pairs.images).aux["log_var"].exp().sum(1)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    _, of_captions = matcher.embed(captions=CAPTIONS, uncertainty=True, batch_size=3)
    numbers = explain(matcher, ragged()[0], CAPTIONS[1]).details.numbers
    assert numbers["uncertainty of the image"] == pytest.approx(found[0], rel=1e-5)
    assert numbers["uncertainty of the sentence"] == pytest.approx(of_captions[1], rel=1e-5)
    with pytest.raises(ValueError, match="VSEInfinity encodes an item as a point, without an unc"):
        made().embed(features=ragged(), uncertainty=True)


def test_an_index_finds_what_the_scores_say():
    matcher = made(probabilistic=True)
    images = ragged((2, 4, 3, 1, 5, 2, 3, 3), seed=3)
    index = Index(matcher, images, captions=CAPTIONS)
    assert matcher.ranks_by_vectors
    scores = matcher.score(images, CAPTIONS)
    hits = index.search(CAPTIONS[0], 8)
    assert [hit.item for hit in hits] == np.argsort(-scores[:, 0], kind="stable").tolist()
    np.testing.assert_allclose([hit.score for hit in hits], -np.sort(-scores[:, 0]), atol=1e-5)
    (best, *_) = index.search(image=2, top=1)
    assert best.item == CAPTIONS[scores[2].argmax()]


def test_wrong_options_are_named():
    with pytest.raises(ValueError, match="probabilistic=true needs means of unit length"):
        made(probabilistic=True, no_imgnorm=True)
    with pytest.raises(ValueError, match="measure must be 'csd' or 'mean', got 'csdd'"):
        made(measure="csdd")
    with pytest.raises(ValueError, match="text=gru or text=bert"):
        made(text={"name": "mean"})


def test_the_configuration_lists_the_arguments_in_order():
    config = OmegaConf.to_container(compose(["model=vse_infty", "~recipe"]).model)
    assert config.pop("_target_") == "itm.models.vse_infty.VSEInfinity"
    defaults = dict(VSEInfinity(9).hparams)
    assert list(config) == list(defaults)
    given = {"vocab_size": None, "img_dim": None, "text": {"name": "gru"}}
    assert config == {**defaults, **given}
