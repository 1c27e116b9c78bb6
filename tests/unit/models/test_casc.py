"""Test CASC: the original's numbers, plain loops over pairs, label loss, gradients, bad input."""

import itertools
import json
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import attention_oracle as oracle
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from golden_metrics import check_options, check_recalls
from goldens_path import case, read_npz
from omegaconf import OmegaConf

from itm.losses import MultiLabel, Triplet
from itm.metrics.retrieval import ranks, summary
from itm.models import CASC
from itm.models.casc.label_head import LabelHead
from itm.published.convert import from_published, read_checkpoint, save_published
from itm.text.labels import Labels, positive_weights
from itm.training.optim import Schedule, StepLR

CASES = [
    "all_bigru_maxviol",
    "all_unigru_sumviol_weightnorm",
    "t2i_bigru_maxviol",
    "i2t_bigru_maxviol",
]
PARAMETERS = {"img_enc": "image", "txt_enc": "text", "FC1": "head"}


class Golden:
    """A golden case: its matcher, test split, training batch and expected arrays."""

    def __init__(self, name):
        folder = case(f"casc/{name}")
        self.options = json.loads((folder / "options.json").read_text())
        self.expected = read_npz(folder / "expected.npz")
        self.path = folder / "checkpoint.pth.tar"
        self.matcher = from_published(self.path, vocab=folder / "vocab.json")
        self.matcher.head.set_pos_weight(np.load(folder / "caption_np.npy"))
        negatives = "hardest" if self.options["max_violation"] else "all"
        self.matcher.loss = Triplet(self.options["margin"], negatives)
        self.both = self.options["cross_attn"] == "all"
        self.images, self.captions = self._read(folder, "test")
        images, captions = self._read(folder, "train")
        rows = self.expected["batch_captions"]
        self.batch = self.matcher.pairs(
            images[self.expected["batch_images"]],
            [captions[row] for row in rows],
            labels=self.expected["batch_tags"],
        )

    def _read(self, folder, split):
        data = folder / "data" / "toy_precomp"
        lines = (data / f"{split}_caps.txt").read_bytes().decode().split("\n")
        return np.load(data / f"{split}_ims.npy"), [line for line in lines if line]

    def encoded(self, images, captions):
        """Encode both sides of the given rows of the test split."""
        pairs = self.matcher.pairs(
            self.images[images], [self.captions[row] for row in captions], image=[0] * len(captions)
        )
        with torch.no_grad():
            return (
                self.matcher.encode_images(pairs.images),
                self.matcher.encode_captions(pairs.captions),
            )


def close(found, expected, atol=2e-6):
    np.testing.assert_allclose(torch.as_tensor(found).detach(), expected, atol=atol)


@pytest.mark.parametrize("name", CASES)
def test_golden_encodings(name):
    golden = Golden(name)
    images, captions = golden.encoded(range(10), range(len(golden.captions)))
    close(images.parts, golden.expected["img_emb"])
    close(captions.parts, golden.expected["cap_emb"])
    np.testing.assert_array_equal(captions.mask.sum(1), golden.expected["cap_len"])
    for text, row in zip(golden.captions, golden.expected["token_ids"], strict=True):
        ids = golden.matcher.vocab.encode(text)
        assert ids == row[: len(ids)].tolist() and not row[len(ids) :].any()


@pytest.mark.parametrize("name", CASES)
def test_golden_similarity_and_ranks(name):
    golden = Golden(name)
    found = golden.matcher.score(golden.images, golden.captions)
    close(found, golden.expected["sims"])
    if not golden.both:  # one direction is the whole score
        close(found, golden.expected[f"sims_{golden.options['cross_attn']}"])
    i2t, t2i = ranks(found, [c // 5 for c in range(len(golden.captions))])
    expected = (golden.expected[f"rank_{direction}"] for direction in ("i2t", "t2i"))
    check_recalls(summary(i2t, t2i), *expected)


@pytest.mark.parametrize("name", CASES[:2])
def test_golden_parts_of_the_score(name):
    golden = Golden(name)
    matcher = golden.matcher
    images, captions = golden.encoded(range(10), range(len(golden.captions)))
    with torch.no_grad():
        t2i, to_regions = matcher.t2i.similarity_and_means(images, captions)
        i2t, to_words = matcher.i2t.similarity_and_means(images, captions)
        same = matcher.head.agreement(images.parts, captions.parts, to_regions, to_words)
    close(t2i, golden.expected["sims_t2i"])
    close(i2t, golden.expected["sims_i2t"])
    close(same, golden.expected["sims_label"])
    vector = to_regions[0, 0] @ images.parts[0]
    close(matcher.head(vector).sigmoid(), golden.expected["label_prob_pair0"])


@pytest.mark.parametrize("name", CASES)
def test_golden_attention(name):
    golden = Golden(name)
    images, captions = golden.encoded([0], [1])
    for side in (golden.matcher.t2i, golden.matcher.i2t):
        (picture,) = side.weights(images, captions)[0]  # (R, L)
        p, context = (picture, images) if side.direction == "t2i" else (picture.T, captions)
        close(p, golden.expected[f"attn_{side.direction}_pair"])
        close(p.T @ context.parts[0], golden.expected[f"ctx_{side.direction}_pair"])


@pytest.mark.parametrize("name", CASES)
def test_golden_training_step(name):
    golden = Golden(name)
    expected, matcher, pairs = golden.expected, golden.matcher.train(), golden.batch
    np.testing.assert_array_equal(pairs.captions.tokens, expected["batch_tokens"])
    np.testing.assert_array_equal(pairs.captions.lengths, expected["batch_lens"])
    images, captions = matcher.encode_images(pairs.images), matcher.encode_captions(pairs.captions)
    for side, vector in ((matcher.t2i, "image"), (matcher.i2t, "text")):
        if side in matcher._sides:
            close(side.similarity(images, captions), expected[f"train_scores_{side.direction}"])
            means = side.matched_means(images, captions, pairs.captions.image)
            close(means, expected[f"train_ctx_{vector}"])
            close(matcher.head(means), expected[f"train_logits_{vector}"])
    losses = matcher.losses(pairs)
    if golden.both:
        assert losses["ranking"].item() == pytest.approx(float(expected["log_L"]), rel=1e-5)
        assert losses["labels"].item() == pytest.approx(float(expected["log_multi_L"]), rel=1e-5)
        assert losses["total"].item() == pytest.approx(float(expected["loss"]), rel=1e-5)
        losses["total"].backward()
        prefix = "grad/"
    else:
        assert losses["ranking"].item() == pytest.approx(float(expected["rank_loss"]), rel=1e-5)
        losses["ranking"].backward()
        prefix = "rank_grad/"
    found = {
        k.replace("parametrizations.weight.", ""): p.grad for k, p in matcher.named_parameters()
    }
    for key in (key for key in expected if key.startswith(prefix)):
        gradient = found[ours(key.removeprefix(prefix))]
        scale = np.abs(expected[key]).max()
        close(gradient, expected[key], atol=1e-5 * scale)


def ours(name):
    """Map an original parameter's name to ours, with weight norm's names shortened."""
    module, _, rest = name.partition(".")
    for old, new in {"fc1": "first", "fc2": "second"}.items():
        rest = rest.replace(old, new)
    rest = rest.replace("fc.weight_g", "original0").replace("fc.weight_v", "original1")
    return f"{PARAMETERS[module]}.{rest.removeprefix('fc.')}"


@pytest.mark.parametrize("name", CASES)
def test_golden_five_steps(name):
    golden, labels = Golden(name), {"ranking", "labels", "total"}
    matcher = golden.matcher.train()
    optimizer = matcher.configure_optimizers()
    losses = []
    for _ in range(5):
        terms = matcher.losses(golden.batch)
        assert terms.keys() == labels
        optimizer.zero_grad()
        terms["total"].backward()
        matcher.configure_gradient_clipping(optimizer, golden.options["grad_clip"])
        optimizer.step()
        losses.append([terms[key].item() for key in ("ranking", "labels", "total")])
    prefix, suffix = ("", "") if golden.both else ("derived_", "_derived")
    np.testing.assert_allclose(losses, golden.expected[f"{prefix}losses"], rtol=1e-5)
    found = matcher.score(golden.images, golden.captions)
    close(found, golden.expected[f"sims_after{suffix}"], atol=1e-5)


@pytest.mark.parametrize("name", CASES[2:])
def test_golden_five_steps_of_one_direction_without_labels(name):
    golden = Golden(name)
    matcher = golden.matcher.train()
    matcher.label_weight = 0
    optimizer = matcher.configure_optimizers()
    losses = []
    for _ in range(5):
        loss = matcher.losses(golden.batch)["total"]
        optimizer.zero_grad()
        loss.backward()
        matcher.configure_gradient_clipping(optimizer, golden.options["grad_clip"])
        optimizer.step()
        losses.append(loss.item())
    np.testing.assert_allclose(losses, golden.expected["losses"], rtol=1e-5)
    found = matcher.score(golden.images, golden.captions)
    close(found, golden.expected["sims_after"], atol=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_published_round_trip(name, tmp_path):
    golden = Golden(name)
    save_published(golden.matcher, tmp_path / "again.pth.tar")
    states, options = read_checkpoint(golden.path)
    again, written = read_checkpoint(tmp_path / "again.pth.tar")
    assert len(again) == 3
    for before, after in zip(states, again, strict=True):
        assert before.keys() == after.keys()
        assert all(torch.equal(before[key], after[key]) for key in before)
    check_options(options, written)
    matcher = from_published(tmp_path / "again.pth.tar")  # the family is found
    assert type(matcher) is CASC and matcher.hparams == golden.matcher.hparams
    matcher.vocab = golden.matcher.vocab
    close(matcher.score(golden.images, golden.captions), golden.expected["sims"])


def small(seed=0, **options):
    """Make a random CASC, images with 3 to 5 regions, captions of 2 to 7 words, and labels."""
    torch.manual_seed(seed)
    sizes = {"vocab_size": 30, "img_dim": 12, "word_dim": 6, "embed_dim": 8}
    sizes |= {"num_labels": 5, "hidden": 7}
    matcher = CASC(**{**sizes, **options}, loss=Triplet())
    matcher.vocab = Letters()
    rng = np.random.default_rng(seed)
    features = [rng.standard_normal((n, 12)).astype(np.float32) for n in (5, 3, 4, 5)]
    captions = ["bcd", "efghijk", "lm", "nopqr"]
    labels = rng.integers(0, 2, (4, 5)).astype(np.float32)
    return matcher, features, captions, labels


class Letters:
    """Make a vocabulary of letters, for captions of obvious length."""

    def __len__(self):
        return 26

    def encode(self, caption):
        return [ord(letter) - ord("a") for letter in caption]


def parts(matcher, features, captions):
    """Return the region and word vectors of each image and caption, without padding."""
    pairs = matcher.pairs(features, captions)
    images, words = matcher.encode_images(pairs.images), matcher.encode_captions(pairs.captions)
    regions = [x[: len(f)] for x, f in zip(images.parts, features, strict=True)]
    return regions, [x[: len(c)] for x, c in zip(words.parts, captions, strict=True)]


def global_vectors(matcher, v, w):
    """Compute a pair's mean attended vectors, from its regions and from its words."""
    image = oracle.attend(w, v, matcher.t2i.raw_norm, matcher.t2i.temperature)[1].mean(0)
    text = oracle.attend(v, w, matcher.i2t.raw_norm, matcher.i2t.temperature)[1].mean(0)
    return image, text


@pytest.mark.parametrize("raw_norm", ["clipped_l2norm", "softmax", "no_norm"])
@pytest.mark.parametrize("ragged", [True, False])
def test_score_equals_a_loop_over_pairs(raw_norm, ragged):
    options = {"alpha": 0.3, "lambda_lse": 2.0, "t2i_aggregation": "Max", "raw_norm": raw_norm}
    matcher, features, captions, _ = small(**options)
    features = features if ragged else [x[:3] for x in features]
    found = matcher.score(features, captions)
    with torch.no_grad():
        regions, words = parts(matcher, features, captions)
        for (i, v), (c, w) in itertools.product(enumerate(regions), enumerate(words)):
            local = [
                oracle.pair_score(v, w, "t2i", raw_norm, 9.0, "Max", 2.0),
                oracle.pair_score(v, w, "i2t", raw_norm, 4.0, "LogSumExp", 2.0),
            ]
            a, b = (matcher.head(g).sigmoid() for g in global_vectors(matcher, v, w))
            expected = 0.3 * sum(local) / 2 + 0.7 * (a @ b) / (a.norm() * b.norm())
            assert found[i, c] == pytest.approx(expected.item(), abs=1e-5)


@pytest.mark.parametrize("direction", ["both", "t2i", "i2t"])
def test_label_loss_by_hand(direction):
    weights = [1.0, 2.0, 0.5, 3.0, 1.0]
    matcher, features, captions, labels = small(direction=direction, pos_weight=weights)
    image = [2, 0, 2, 1]
    pairs = matcher.pairs(features, captions, image=image, labels=labels)
    found = matcher.losses(pairs)["labels"]
    regions, words = parts(matcher, features, captions)
    total = 0.0
    for c, row in enumerate(image):
        vectors = global_vectors(matcher, regions[row], words[c])
        for name, vector in zip(("t2i", "i2t"), vectors, strict=True):
            if direction in ("both", name):
                p = matcher.head(vector).sigmoid().double()
                y = torch.tensor(labels[c])
                bce = -(torch.tensor(weights) * y * p.log() + (1 - y) * (1 - p).log())
                total += bce.sum() / (4 * 5)
    assert found.item() == pytest.approx(10 * total.item(), rel=1e-5)


def test_training_ranks_with_the_local_score_only():
    matcher, features, captions, labels = small()
    pairs = matcher.pairs(features, captions, labels=labels)
    sides = matcher.encode_images(pairs.images), matcher.encode_captions(pairs.captions)
    ((name, (weight, local)),) = matcher.training_scores(*sides).items()
    assert (name, weight) == ("main", 1.0)
    matcher.alpha = 1.0
    assert torch.allclose(matcher.similarity(*sides), local, atol=1e-6)
    matcher.head.first.weight.data.fill_(100.0)
    assert torch.equal(matcher.training_scores(*sides)["main"][1], local)


@pytest.mark.parametrize("direction", ["both", "t2i", "i2t"])
def test_padding_and_company_change_nothing(direction):
    matcher, features, captions, _ = small(direction=direction)
    every = matcher.score(features, captions)
    for i, c in itertools.product(range(4), range(4)):
        alone = matcher.score([features[i]], [captions[c]])
        np.testing.assert_allclose(alone, every[i : i + 1, c : c + 1], atol=1e-6)
    np.testing.assert_allclose(matcher.score(features, captions, batch_size=3), every, atol=1e-6)


def test_agreement_in_pieces(monkeypatch):
    matcher, features, captions, _ = small()
    whole = matcher.score(features, captions)
    monkeypatch.setattr("itm.models.casc.label_head.CACHE", 1)
    np.testing.assert_allclose(matcher.score(features, captions), whole, atol=1e-7)


@pytest.mark.parametrize("direction", ["both", "t2i", "i2t"])
def test_gradients_reach_every_parameter(direction):
    matcher, features, captions, labels = small(direction=direction)
    matcher.losses(matcher.pairs(features, captions, labels=labels))["total"].backward()
    for name, parameter in matcher.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_gradcheck_of_losses_and_score():
    matcher, features, captions, labels = small(embed_dim=3, word_dim=2, hidden=3)
    matcher = matcher.double()
    pairs = matcher.pairs(features[:2], captions[:2], labels=labels[:2])
    pairs = pairs._replace(images=pairs.images._replace(regions=pairs.images.regions.double()))
    weights = {k: v.detach() for k, v in matcher.named_parameters()}
    names = ["image.weight", "head.first.weight", "text.embed.weight"]

    def values(*chosen):
        state = weights | dict(zip(names, chosen, strict=True))
        call = torch.func.functional_call
        return call(Both(matcher), {f"matcher.{k}": v for k, v in state.items()}, (pairs,))

    chosen = [weights[name].clone().requires_grad_() for name in names]
    assert torch.autograd.gradcheck(values, chosen)


class Both(torch.nn.Module):
    """Compute the label loss and the scores of a batch."""

    def __init__(self, matcher):
        super().__init__()
        self.matcher = matcher

    def forward(self, pairs):
        sides = (
            self.matcher.encode_images(pairs.images),
            self.matcher.encode_captions(pairs.captions),
        )
        return self.matcher.extra_losses(pairs, *sides)["labels"], self.matcher.similarity(*sides)


def test_batch_of_one():
    matcher, features, captions, labels = small()
    losses = matcher.losses(matcher.pairs(features[:1], captions[:1], labels=labels[:1]))
    assert losses["ranking"] == 0 and losses["labels"] > 0
    losses["total"].backward()
    assert all(torch.isfinite(p.grad).all() for p in matcher.parameters())


def test_bfloat16_autocast_stays_close():
    matcher, features, captions, labels = small()
    pairs = matcher.pairs(features, captions, labels=labels)
    scores, losses = matcher(pairs.images, pairs.captions), matcher.losses(pairs)
    with torch.autocast("cpu", torch.bfloat16):
        assert (matcher(pairs.images, pairs.captions) - scores).abs().max() < 0.02
        reduced = matcher.losses(pairs)
    assert reduced["total"].item() == pytest.approx(losses["total"].item(), rel=0.02)
    reduced["total"].backward()
    assert all(torch.isfinite(p.grad).all() for p in matcher.parameters())


def test_the_label_head_is_a_group_of_its_own():
    matcher, *_ = small()
    matcher.optimizer = lambda groups: torch.optim.Adam(groups, lr=2e-4)
    matcher.scheduler = lambda optimizer: StepLR(optimizer, step_size=15)
    (optimizer,), (scheduler,) = matcher.configure_optimizers()
    main, labels = optimizer.param_groups
    assert {id(p) for p in labels["params"]} == {id(p) for p in matcher.head.parameters()}
    assert len(main["params"]) + len(labels["params"]) == len(list(matcher.parameters()))
    rates = []
    for _ in range(17):
        rates.append((main["lr"], labels["lr"]))
        optimizer.step()
        scheduler["scheduler"].step()
    expected = [(2e-4 * 0.1 ** (k // 15), 0.01 * 0.8 ** (k // 3)) for k in range(17)]
    np.testing.assert_allclose(rates, expected)


def test_the_schedule_of_the_label_head_is_never_read_in_steps():
    matcher, *_ = small()
    matcher.scheduler = Schedule(partial(StepLR, step_size=1000), interval="step")
    with pytest.raises(ValueError, match="group labels brings step_size=3 in epochs, but"):
        matcher.configure_optimizers()
    trainer = SimpleNamespace(callbacks=[], train_dataloader=[], num_training_batches=9,
                              accumulate_grad_batches=2)  # fmt: skip
    matcher._trainer = trainer
    (optimizer,), (config,) = matcher.configure_optimizers()
    rates = []
    for _ in range(45):  # 5 steps in an epoch
        rates.append(optimizer.param_groups[1]["lr"])
        optimizer.step()
        config["scheduler"].step()
    np.testing.assert_allclose(rates, [0.01 * 0.8 ** (k // 5 // 3) for k in range(45)])


def test_both_groups_are_clipped_by_their_own_norm():
    matcher, *_ = small()
    for parameter in matcher.parameters():
        parameter.grad = torch.ones_like(parameter)
    for parameter in matcher.head.parameters():
        parameter.grad *= 1e-6
    matcher.configure_gradient_clipping(matcher.configure_optimizers(), 2.0)
    head = {id(p) for p in matcher.head.parameters()}
    main = torch.stack([p.grad.norm() for p in matcher.parameters() if id(p) not in head]).norm()
    assert main.item() == pytest.approx(2.0, rel=1e-4)
    assert all((p.grad == 1e-6).all() for p in matcher.head.parameters())


class Counted:
    def __init__(self, values):
        self.values = values

    def pos_weight(self):
        return np.array(self.values, np.float32)


def test_positive_weights():
    matcher, *_ = small()
    assert matcher.head.pos_weight.tolist() == [1, 1, 1, 1, 1]
    matcher.set_labels(Counted([1, 2, 3, 4, 5]))
    assert matcher.head.pos_weight.tolist() == [1, 2, 3, 4, 5]
    given, *_ = small(pos_weight=[2.0] * 5)
    given.set_labels(Counted([1, 2, 3, 4, 5]))
    assert given.head.pos_weight.tolist() == [2] * 5
    with pytest.raises(ValueError, match="pos_weight must hold 5 numbers.* got 3"):
        matcher.set_labels(Counted([1, 2, 3]))
    with pytest.raises(ValueError, match="2 positive weights, num_labels=5"):
        small(pos_weight=[1.0, 1.0])


@pytest.mark.parametrize("name", CASES[:2])
def test_published_weights_train_on_with_the_positive_weights_of_a_file(name, tmp_path):
    from itm.checkpoints.folder import load
    from itm.checkpoints.initialise import start_from
    from itm.matcher.saved import save

    golden = Golden(name)
    save(from_published(golden.path), tmp_path)  # its positive weights are 1
    file = golden.path.parent / "caption_np.npy"
    matcher = CASC(
        **{**golden.matcher.hparams, "pos_weight": positive_weights(str(file), 20)}, loss=Triplet()
    )
    matcher.labels = Labels([f"label {k}" for k in range(20)])
    matcher.set_labels(Counted([9] * 20))  # the file wins
    start_from(matcher, str(tmp_path))
    losses = matcher.train().losses(golden.batch)
    assert losses["labels"].item() == pytest.approx(float(golden.expected["log_multi_L"]), rel=1e-5)
    save(matcher, tmp_path / "next")  # with the numbers, not the path
    again = load(tmp_path / "next")
    assert again.hparams["pos_weight"] == again.head.pos_weight.tolist() == np.load(file).tolist()


def test_init_takes_the_same_labels_only(tmp_path):
    from itm.checkpoints.initialise import start_from
    from itm.matcher.saved import save

    source, *_ = small(seed=1)
    source.labels, source.vocab = Labels(list("abcde"), [1] * 5, 2), None
    source.set_labels(source.labels)
    save(source, tmp_path)
    matcher, *_ = small()
    matcher.vocab = None
    matcher.labels = Labels(list("abcde"), [1, 1, 2, 2, 4], 8)
    matcher.set_labels(matcher.labels)
    start_from(matcher, str(tmp_path))
    assert matcher.head.pos_weight.tolist() == [7, 7, 3, 3, 1]  # of its own counts
    assert torch.equal(matcher.head.second.weight, source.head.second.weight)
    for words in (list("abced"), list("abcdef")):
        matcher.labels = Labels(words)
        with pytest.raises(ValueError, match=f"has 5 labels, the data has {len(words)}, and"):
            start_from(matcher, str(tmp_path))


def test_positive_weights_as_a_configuration_gives_them(tmp_path):
    file = tmp_path / "weights.npy"
    np.save(file, np.array([3, 1, 4, 1, 5], np.float32))
    for given, expected in ((file, [3, 1, 4, 1, 5]), (2, [2] * 5), ([1, 2, 3, 4, 5.5], None)):
        assert positive_weights(given, 5) == (expected or given)
    assert positive_weights("auto", 5) is None and positive_weights(None, 5) is None
    automatic, *_ = small(pos_weight="auto")
    automatic.set_labels(Counted([1, 2, 3, 4, 5]))
    assert automatic.head.pos_weight.tolist() == [1, 2, 3, 4, 5]
    loss = MultiLabel(dim=4, num_labels=5, pos_weight=str(file))
    loss.set_labels(Counted([9] * 5))
    assert loss.pos_weight.tolist() == [3, 1, 4, 1, 5]
    with pytest.raises(ValueError, match=r"weights.npy: 5 positive weights, num_labels=7"):
        positive_weights(str(file), 7)
    with pytest.raises(FileNotFoundError, match="pos_weight=none: no such file; give a .npy"):
        positive_weights("none", 5)
    for path in (file, str(file)):
        with pytest.raises(ValueError, match=r"expected 5 numbers; .* with itm.text.labels"):
            small(pos_weight=path)
    with pytest.raises(ValueError, match="finite and at least 0"):
        small(pos_weight=[1, 1, float("inf"), 1, 1])
    file.write_text("3 1 4 1 5")
    with pytest.raises(ValueError, match="weights.npy: expected 5 plain numbers"):
        positive_weights(str(file), 5)
    with pytest.raises(ValueError, match="pos_weight: expected 5 plain numbers"):
        small(pos_weight=["a"] * 5)


def test_missing_labels():
    matcher, features, captions, labels = small()
    pairs = matcher.pairs(features, captions)
    with pytest.raises(ValueError, match="CASC trains on the labels"):
        matcher.train().losses(pairs)
    assert matcher.eval().losses(pairs).keys() == {"ranking", "total"}
    matcher.label_weight = 0
    assert matcher.train().losses(pairs).keys() == {"ranking", "total"}
    matcher.label_weight = 10
    with pytest.raises(ValueError, match="batch has 3 labels, but the matcher has num_labels=5"):
        matcher.losses(matcher.pairs(features, captions, labels=labels[:, :3]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"direction": "all"}, "direction must be 'both', 't2i' or 'i2t', got 'all'"),
        ({"raw_norm": "l3norm"}, "raw_norm must be .*'clipped_l2norm'.* got 'l3norm'"),
        ({"i2t_aggregation": "mean"}, "aggregation must be 'LogSumExp', .* got 'mean'"),
    ],
)
def test_unknown_options(options, message):
    with pytest.raises(ValueError, match=message):
        small(**options)


def test_saved_and_loaded(tmp_path):
    from itm.checkpoints.folder import load
    from itm.matcher.saved import save
    from itm.text.vocabulary import Vocabulary

    matcher, features, captions, _ = small(direction="both")
    matcher.set_labels(Counted([1, 2, 3, 4, 5]))
    letters = [chr(k) for k in range(ord("a"), ord("a") + 26)]
    matcher.vocab = Vocabulary(["<pad>", "<start>", "<end>", "<unk>", *letters])
    save(matcher, tmp_path)
    again = load(tmp_path)
    assert again.head.pos_weight.tolist() == [1, 2, 3, 4, 5]
    expected = matcher.score(features, captions)
    np.testing.assert_array_equal(again.score(features, captions), expected)


def test_configuration_lists_the_arguments_in_order():
    path = Path(__file__).parents[3] / "conf" / "model" / "casc.yaml"
    config = OmegaConf.to_container(OmegaConf.load(path))
    assert config.pop("_target_") == "itm.models.casc.CASC"
    defaults = dict(CASC(9).hparams)
    assert list(config) == list(defaults)
    given = {"vocab_size": None, "img_dim": None, "num_labels": None, "text": {"name": "gru"}}
    assert config == {**defaults, **given}


def test_label_head_agreement_is_a_cosine():
    torch.manual_seed(0)
    head = LabelHead(6, 4, 3)
    regions, words = torch.randn(2, 3, 6), torch.randn(4, 5, 6)
    to_regions, to_words = torch.rand(2, 4, 3).softmax(-1), torch.rand(2, 4, 5).softmax(-1)
    image = torch.einsum("icr,ird->icd", to_regions, regions)
    text = torch.einsum("icl,cld->icd", to_words, words)
    expected = F.cosine_similarity(head(image).sigmoid(), head(text).sigmoid(), dim=-1)
    found = head.agreement(regions, words, to_regions, to_words)
    assert torch.allclose(found, expected, atol=1e-6)
