from types import SimpleNamespace

import numpy as np
import pytest
import torch
from vsrn_reference import caption_loss, encode, encode_captions, toy, toy_data, toy_pairs, widen

from itm.data.padding import make_captions, make_images
from itm.losses import Triplet
from itm.models import VSRN
from itm.models.vsrn.reasoning import batch_norm, masked_batch_norm
from itm.published.vsrn import write
from itm.text.vocabulary import Vocabulary

FORMS = [
    {},
    {"region_norm": "none", "final_bn": True, "use_abs": True},
    {"region_norm": "none", "no_imgnorm": True, "num_gcn": 3},
    {"final_bn": True, "num_gcn": 1, "embed_dim": 4},
    {"measure": "order"},
    {"measure": "order", "use_abs": True, "no_imgnorm": True},
]


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("options", FORMS)
def test_scores_are_those_of_the_plain_formulas(options, training):
    matcher = toy(1, **options).double().train(training)
    images, captions, image = toy_data(1)
    pairs = widen(toy_pairs(images, captions, image))
    with torch.no_grad():
        scores = matcher(pairs.images, pairs.captions)
    vectors, _ = encode(toy(1, **options).double(), images_as_stored(images), training)
    sentences = encode_captions(matcher, captions)
    if options.get("measure") == "order":
        beyond = [[np.maximum(t - v, 0) for t in sentences] for v in vectors]
        expected = [[-np.sqrt((x**2).sum()) for x in row] for row in beyond]
    else:
        expected = vectors @ sentences.T
    np.testing.assert_allclose(scores, expected, atol=1e-9)


def images_as_stored(images):
    return [x.astype(np.float32) for x in images]


@pytest.mark.parametrize("max_len", [3, 5, 6, 7, 8, 9, 10, 12])
def test_caption_loss_is_that_of_the_plain_formulas(max_len):
    matcher = toy(2, caption_max_len=max_len, caption_weight=0.5).double().eval()
    images, captions, image = toy_data(2)
    _, regions = encode(matcher, images_as_stored(images), False)
    pairs = widen(toy_pairs(images, captions, image))
    found = matcher.losses(pairs)
    expected = 0.5 * caption_loss(matcher, regions, captions, image)
    assert found["caption"].item() == pytest.approx(expected, rel=1e-9)
    assert found["total"].item() == pytest.approx(
        found["caption"].item() + found["ranking"].item(), rel=1e-9
    )


def test_region_scores_are_products_with_the_image_vector():
    matcher = toy(3).double().eval()
    images, captions, image = toy_data(3)
    pairs = widen(toy_pairs(images, captions, image))
    vectors, regions = encode(matcher, images_as_stored(images), False)
    found = matcher.region_scores(pairs.images).detach().numpy()
    for i, x in enumerate(regions):
        np.testing.assert_allclose(found[i, : len(x)], x @ vectors[i], atol=1e-9)
        assert not found[i, len(x) :].any()


# What must not change a number -------------------------------------------------------------------


@pytest.mark.parametrize("options", FORMS[:2])
def test_padding_changes_nothing(options):
    """Padding changes neither losses, gradients nor batch statistics in training mode."""
    images, captions, image = toy_data(4)
    found = []
    for extra in (0, 3):
        matcher = toy(4, **options).double().train()
        losses = matcher.losses(widen(toy_pairs(images, captions, image, extra)))
        losses["total"].backward()
        grads = {name: p.grad for name, p in matcher.named_parameters()}
        found.append((losses, grads, dict(matcher.named_buffers())))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, atol=1e-10, rtol=0)


@pytest.mark.parametrize("options", FORMS[:2])
def test_batch_composition_changes_nothing(options):
    matcher = toy(5, **options).eval()
    images, captions, image = toy_data(5)
    with torch.no_grad():
        pairs = toy_pairs(images, captions, image)
        together = matcher.encode_images(pairs.images).vector
        words = matcher.encode_captions(pairs.captions).vector
        for i, x in enumerate(images):
            alone = matcher.encode_images(make_images([x], [0])).vector
            torch.testing.assert_close(alone[0], together[i], atol=1e-6, rtol=0)
        for c, ids in enumerate(captions):
            alone = matcher.encode_captions(make_captions([ids], [0], [0])).vector
            torch.testing.assert_close(alone[0], words[c], atol=1e-6, rtol=0)
        greedy = matcher.greedy(pairs.images)
        alone = matcher.greedy(make_images(images[2:], [0]))
    assert torch.equal(alone[0][0], greedy[0][2])
    torch.testing.assert_close(alone[1][0], greedy[1][2], atol=1e-6, rtol=0)


@pytest.mark.parametrize("options", FORMS[:2])
def test_a_batch_of_one_trains(options):
    """A batch of one image has no variance, so it is normalised by the running statistics."""
    images, captions, _ = toy_data(6)
    for x in (images[0], images[0][:1]):
        matcher = toy(6, **options).train()
        losses = matcher.losses(toy_pairs([x], captions[:1], [0]))
        losses["total"].backward()
        assert torch.isfinite(losses["total"])
        assert all(torch.isfinite(p.grad).all() for p in matcher.parameters())


# Gradients ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", FORMS[:2])
def test_gradients_are_exact(options):
    matcher = toy(7, loss=Triplet(margin=5.0, negatives="all"), **options).double().train()
    images, captions, image = toy_data(7)
    pairs = widen(toy_pairs(images, captions, image))
    weights = dict(matcher.named_parameters())
    names = [
        "image.project.weight",
        "image.blocks.0.theta.bias",
        "image.blocks.1.norm.weight",
        "captioner.attend.weight",
        "captioner.embed.weight",
        "text.rnn.weight_hh_l0",
    ]

    def total(regions, *values):
        given = pairs._replace(images=pairs.images._replace(regions=regions))
        replaced = {f"matcher.{name}": x for name, x in zip(names, values, strict=True)}
        return torch.func.functional_call(Total(matcher), replaced, (given,))

    regions = pairs.images.regions.clone().requires_grad_()
    inputs = (regions, *(weights[name] for name in names))
    torch.autograd.gradcheck(total, inputs, fast_mode=True)


class Total(torch.nn.Module):
    def __init__(self, matcher):
        super().__init__()
        self.matcher = matcher

    def forward(self, pairs):
        return self.matcher.losses(pairs)["total"]


def test_gradients_reach_every_parameter():
    matcher = toy(8, region_norm="none", final_bn=True).train()
    matcher.losses(toy_pairs(*toy_data(8)))["total"].backward()
    for name, parameter in matcher.named_parameters():
        # A bias in front of a batch norm is subtracted again.
        if not name.endswith(".out.bias") or name.startswith("captioner"):
            assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_fresh_graph_blocks_are_the_identity_and_start_learning():
    torch.manual_seed(9)
    matcher = VSRN(11, 5, 3, 6, loss=Triplet(), caption_weight=0.0).train()
    pairs = toy_pairs(*toy_data(9))
    with torch.no_grad():
        x = torch.randn(3, 7, 6).masked_fill(~pairs.images.mask[..., None], 0)
        torch.testing.assert_close(matcher.image.blocks[0](x, pairs.images.mask), x)
    optimizer = torch.optim.Adam(matcher.parameters(), lr=1e-2)
    for _ in range(2):
        optimizer.zero_grad()
        matcher.losses(pairs)["total"].backward()
        optimizer.step()
    for block in matcher.image.blocks:
        for layer in (block.theta, block.phi, block.g, block.out, block.norm):
            assert layer.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("regions", [[7, 3, 0, 5], [1, 0, 0, 0]])
@pytest.mark.parametrize("momentum", [0.1, None])  # None = the mean of all batches
def test_batch_norm_under_a_mask_is_that_of_the_real_rows(training, regions, momentum):
    torch.manual_seed(11)
    norm, other = (torch.nn.BatchNorm1d(5, momentum=momentum).double() for _ in range(2))
    for module in (norm, other):
        with torch.no_grad():
            module.running_mean.copy_(torch.arange(5))
            module.weight.copy_(torch.linspace(-1, 2, 5))
            module.bias.fill_(0.3)
            module.num_batches_tracked.fill_(2)
        module.train(training)
    mask = torch.arange(7) < torch.tensor(regions)[:, None]
    x = (100 + torch.randn(4, 7, 5)).double().requires_grad_()
    y = masked_batch_norm(norm, x, mask)
    expected = torch.zeros_like(x)
    expected[mask] = batch_norm(other, x[mask])
    torch.testing.assert_close(y, expected, rtol=1e-10, atol=1e-10)
    for name, buffer in other.named_buffers():
        torch.testing.assert_close(norm.get_buffer(name), buffer, rtol=1e-12, atol=0)
    weights = torch.randn_like(y)
    inputs = [(x, norm.weight, norm.bias), (x, other.weight, other.bias)]
    for ours, plain in zip(
        torch.autograd.grad((y * weights).sum(), inputs[0]),
        torch.autograd.grad((expected * weights).sum(), inputs[1]),
        strict=True,
    ):
        torch.testing.assert_close(ours, plain, rtol=1e-8, atol=1e-8)


def test_a_dead_column_gives_zeros_and_no_nan():
    matcher = toy(10).train()
    with torch.no_grad():
        matcher.image.project.weight[2] = 0
        for block in matcher.image.blocks:
            block.norm.weight[2] = block.norm.bias[2] = 0
    pairs = toy_pairs(*toy_data(10))
    encoded = matcher.encode_images(pairs.images)
    assert not encoded.parts[..., 2].any()
    matcher.losses(pairs)["total"].backward()
    assert all(torch.isfinite(p.grad).all() for p in matcher.parameters())
    assert not matcher.image.project.weight.grad[2].any()


def test_each_parameter_is_optimised_once():
    matcher = toy(11)
    listed = [p for group in matcher.configure_optimizers().param_groups for p in group["params"]]
    assert len(listed) == len(set(map(id, listed))) == len(list(matcher.parameters()))


def test_reduced_precision_stays_close():
    images, captions, image = toy_data(12)
    pairs = toy_pairs(images, captions, image)
    matcher = toy(12, region_norm="none", final_bn=True).train()
    exact = matcher.losses(pairs)
    with torch.autocast("cpu", torch.bfloat16):
        reduced = matcher.losses(pairs)
        encoded = matcher.encode_images(pairs.images)
    reduced["total"].backward()
    assert encoded.vector.dtype == encoded.parts.dtype == torch.float32
    assert reduced["caption"].item() == pytest.approx(exact["caption"].item(), rel=0.02)
    assert all(torch.isfinite(p.grad).all() for p in matcher.parameters())
    matcher.eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        rough = matcher(pairs.images, pairs.captions)
        matcher.greedy(pairs.images)
    torch.testing.assert_close(rough, matcher(pairs.images, pairs.captions), atol=0.05, rtol=0)


# Use ---------------------------------------------------------------------------------------------


def words(n: int = 11) -> Vocabulary:
    return Vocabulary(["<pad>", "<start>", "<end>", "<unk>", *(f"w{i}" for i in range(4, n))])


def test_describe_stops_at_the_end_marker():
    matcher = toy(13, caption_max_len=8)
    matcher.vocab = words()
    images, _, _ = toy_data(13)
    with torch.no_grad():
        matcher.captioner.out.bias[[0, 2]] = -100.0  # neither pad nor end is ever said
        ids, _ = matcher.greedy(make_images(images, range(3)))
        assert ids.shape == (3, 6)
        said = [" ".join(matcher.vocab.decode(row.tolist())) for row in ids]
        assert matcher.describe(images, batch_size=2) == said
        for end in (0, 2):
            matcher.captioner.out.bias[end] = 100.0
            assert matcher.describe(images) == ["", "", ""]
            matcher.captioner.out.bias[end] = -100.0
        # An end marker behind the second word cuts the sentence there.
        over = torch.tensor([[5, 6, 2, 7, 8, 9]]).expand(3, 6)
        matcher.greedy = lambda images, start: (over[: len(images.index)], None)
        assert matcher.describe(images) == ["w5 w6"] * 3
    assert matcher.training


def test_describe_takes_and_refuses_what_score_does():
    matcher, images = toy(13, caption_max_len=8), list(toy_data(13)[0])
    matcher.vocab = words()
    said = matcher.describe(images)
    assert matcher.double().describe(images) == said
    with pytest.raises(ValueError, match="features are 7 wide, but VSRN reads"):
        matcher.describe(np.ones((3, 5, 7), np.float32))
    with pytest.raises(ValueError, match="weights of this matcher are float16"):
        matcher.half().describe(images)


def test_a_few_pairs_are_learnt_and_described():
    torch.manual_seed(18)
    rng = np.random.default_rng(18)
    images = list(rng.normal(size=(6, 3, 5)).astype(np.float32))
    sentences = [" ".join(f"w{i}" for i in rng.integers(4, 20, 4)) for _ in images]
    matcher = VSRN(20, 5, 8, 16, num_gcn=2, caption_dim=16, caption_word_dim=8, loss=Triplet())
    matcher.vocab = words(20)
    pairs = matcher.pairs(images, sentences)
    optimizer = torch.optim.Adam(matcher.parameters(), lr=1e-2)
    for _ in range(80):
        optimizer.zero_grad()
        matcher.losses(pairs)["total"].backward()
        torch.nn.utils.clip_grad_norm_(matcher.parameters(), 2.0)
        optimizer.step()
    assert (matcher.score(images, sentences).argmax(1) == np.arange(6)).all()
    assert matcher.describe(images) == sentences


def test_no_captioner_without_weight():
    matcher = toy(14, caption_weight=0.0)
    pairs = toy_pairs(*toy_data(14))
    assert not any(name.startswith("captioner") for name in matcher.state_dict())
    assert matcher.losses(pairs).keys() == {"ranking", "total"}
    assert matcher.encode_images(pairs.images).parts is None
    with pytest.raises(ValueError, match="caption_weight"):
        matcher.greedy(pairs.images)


def test_evaluation_keeps_only_vectors():
    pairs = toy_pairs(*toy_data(14))
    assert toy(14).eval().encode_images(pairs.images).parts is None


BERT = {
    "model_type": "bert",
    "vocab_size": 11,
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 8,
}


def test_bert_captions_are_the_mean_of_their_word_pieces():
    matcher = toy(15, text={"name": "bert", "config": BERT}).eval()
    pairs = toy_pairs(*toy_data(15))
    states, mask = matcher.text(pairs.captions)
    found = matcher.encode_captions(pairs.captions).vector
    for c, n in enumerate(pairs.captions.lengths):
        mean = states[c, :n].mean(0)
        torch.testing.assert_close(found[c], mean / mean.norm(), atol=1e-6, rtol=0)
    matcher.losses(pairs)["total"].backward()
    with pytest.raises(ValueError, match="GRU for text"):
        write(matcher)


def test_wrong_inputs_are_named():
    matcher = toy(16)
    with pytest.raises(ValueError, match="region_norm must be .* got 'rows'"):
        toy(region_norm="rows")
    with pytest.raises(ValueError, match="max_len must be at least 3.* got 2"):
        toy(caption_max_len=2)
    with pytest.raises(ValueError, match="start and end markers"):
        matcher.describe(toy_data()[0])
    with pytest.raises(NotImplementedError, match="no region-word attention"):
        pairs = toy_pairs(*toy_data())
        matcher.attention(
            matcher.encode_images(pairs.images), matcher.encode_captions(pairs.captions)
        )
    with pytest.raises(ValueError, match="region_norm, final_bn"):
        write(toy(region_norm="none"))


def test_captions_that_are_cut_are_told(capsys):
    matcher = toy(14)
    lengths = np.array([matcher.captioner.max_len, matcher.captioner.max_len + 1])
    data = SimpleNamespace(reader=lambda stage: SimpleNamespace(lengths=lengths))
    matcher.trainer = SimpleNamespace(datamodule=data)
    matcher.on_fit_start()
    assert "50.0% of the training captions are cut for the captioner" in capsys.readouterr().out
