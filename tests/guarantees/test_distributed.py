"""Two processes, each with a part of the batch, against one process with all of it."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from small_models import MODELS, WORDS
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from itm.batch import Captions, Encoded, Images, Pairs
from itm.data.padding import make_captions
from itm.layers.functional import masked_mean
from itm.losses import PCMEPP, SAM, InfoNCE, MultiLabel, Sigmoid, Triplet
from itm.matcher.blocks import similarity_matrix
from itm.matcher.gather import gather_batch, gather_chunks, mean_of_all
from itm.matcher.matcher import Matcher
from itm.relevance.cider_d import CiderIndex
from itm.utils.distributed import gather_rows, rank_and_size

PROCESSES = 2
SENTENCES = [
    "a brown dog runs on the grass",
    "a dog is running through a green field",
    "two people ride bikes down the street",
    "a man and a woman cycle on a road",
    "a kitchen with a sink and an oven",
    "an old kitchen sink",
    "a cat sleeps on a red sofa",
    "the cat is lying on a couch",
    "children play football on the grass",
    "kids kick a ball in a green field",
    "a train stands at the station",
    "an old train on the tracks",
]
CIDER = CiderIndex(SENTENCES, np.arange(12) // 2)

# Rows of captions in the corpus, each process with its own number; image rows follow from them.
SPLITS = {
    "pairs": ([0, 3, 4, 7], [8, 11, 1]),  # caption 1 shares its image with caption 0
    "groups": ([0, 1, 4], [6, 7, 10, 11]),  # several captions per image
}


class Toy(Matcher):
    """Linear encoders; scores use vectors, parts, masks, an aux tensor and an own weight."""

    def __init__(self, loss=None):
        super().__init__(loss)
        torch.manual_seed(0)
        self.image, self.word = nn.Linear(4, 6), nn.Embedding(30, 6)
        self.mix = nn.Parameter(torch.tensor(0.7))  # acts after the gather

    def encode_images(self, images):
        return self.encoded(self.image(images.regions), images.mask)

    def encode_captions(self, captions):
        return self.encoded(self.word(captions.tokens), captions.tokens > 0)

    def encoded(self, parts, mask):
        vector = masked_mean(parts, mask)
        return Encoded(vector, parts, mask, {"first": parts[..., 0] * mask})

    def similarity(self, images, captions):
        dots = torch.einsum("ird,cld->icrl", images.parts, captions.parts)
        dots = dots.masked_fill(~images.mask[:, None, :, None], -1e9).amax(2)  # (I, C, L)
        words = (dots * captions.mask).sum(2) / captions.mask.sum(1)
        first = images.aux["first"].sum(1)[:, None] * captions.aux["first"].sum(1)
        return self.mix * words + images.vector @ captions.vector.T + first


class Step(nn.Module):
    def __init__(self, matcher):
        super().__init__()
        self.matcher = matcher

    def forward(self, pairs):
        return self.matcher.losses(pairs)["total"]


def seeded(number):
    return torch.Generator().manual_seed(number)


def batch(captions, grouped, relevance=False):
    """The pairs of some captions, padded to the longest among them only."""
    own = [row // 2 for row in captions]
    images = list(dict.fromkeys(own)) if grouped else own
    sizes = [2 + image % 4 for image in images]
    regions = torch.zeros(len(images), max(sizes), 4)
    for i, (image, size) in enumerate(zip(images, sizes, strict=True)):
        regions[i, :size] = torch.randn(size, 4, generator=seeded(image))
    mask = torch.arange(max(sizes)) < torch.tensor(sizes)[:, None]
    tokens = [
        torch.randint(1, 30, (1 + row % 5,), generator=seeded(row)).tolist() for row in captions
    ]
    rows = [images.index(image) for image in own] if grouped else range(len(own))
    labels = torch.stack([torch.rand(5, generator=seeded(i)) for i in own])
    made = make_captions(tokens, captions, rows, (labels < 0.4).float())
    return Pairs(
        Images(regions, mask, torch.tensor(images)),
        made._replace(concepts=labels.round(), vectors=labels * 2),
        torch.from_numpy(CIDER.batch(captions, images)) if relevance else None,
    )


def losses(gather):
    torch.manual_seed(1)
    every = {
        "triplet": Triplet(gather=gather),
        "triplet all, masked": Triplet(negatives="all", mask_same_image=True, gather=gather),
        "triplet mean": Triplet(reduction="mean", negatives="top", top_k=2, gather=gather),
        "sam hardest": SAM(sampling="hardest", gather=gather),
        "sam all alone": SAM(sampling="all", alone=True, gather=gather),
        "multilabel": MultiLabel(dim=6, num_labels=5, hidden=3, gather=gather),
        "infonce": InfoNCE(0.5, margin=0.1, gather=gather),
        "infonce, own rows": InfoNCE(0.5, same_image=False, gather=gather),
        "sigmoid": Sigmoid(2.0, -1.0, gather=gather),
        "pcmepp": PCMEPP(1.0, 1.0, label_smoothing=0.1, gather=gather),
        "pcmepp of gaussians": OfGaussians(1.0, 1.0, vib_beta=0.1, gather=gather),
        "own callable": Contrastive(gather),
    }
    for loss in every.values():
        if gather and isinstance(loss, SAM):
            loss.set_relevance(CIDER)
    return every


class OfGaussians(PCMEPP):
    """PCME++ with variances, which reads the scores too, so that every parameter has a gradient."""

    def forward(self, scores, pairs=None, encoded=None):
        sides = [
            x._replace(aux={"log_var": x.aux["first"].sum(1)[:, None].expand_as(x.vector)})
            for x in encoded
        ]
        return super().forward(scores, pairs, tuple(sides)) + 0.1 * scores.mean()


class Contrastive:
    def __init__(self, gather):
        self.gather = gather

    def __call__(self, scores, pairs, encoded):
        return nn.functional.cross_entropy(scores.T, pairs.captions.image)


def step(loss, pairs, wrap=lambda module: module):
    """Total and gradients of all parameters, the loss's own included."""
    module = wrap(Step(Toy(loss)))
    total = module(pairs)
    total.backward()
    return total.detach(), {
        name.removeprefix("module."): parameter.grad
        for name, parameter in module.named_parameters()
    }


# Batch norms keep their running statistics: those of a batch are those of one process.
CONSENSUS = {"use_batchnorm": False, "dropout": 0.0}
BACKBONES = {
    name: partial(MODELS[name.partition(",")[0]], **options)
    for name, options in {
        "scan_t2i": {}, "scan_i2t": {}, "vsepp": {}, "casc": {},
        "vse_infty": {"mlp": False}, "pcmepp": {"mlp": False},
        "chan": {},
        "cvse": CONSENSUS, "cvse, mean": CONSENSUS,
        "vsrn": {"caption_dropout": 0.0},
        "two_branch_similarity": {"num_experts": 2, "concept_l1": 1.0, "dropout": 0.0,
                                  "weight_penalty": [0.1, 0.1, 0.1]},
    }.items()
}  # fmt: skip


def backbone_step(name, rows, gather, wrap=lambda module: module):
    """Loss terms of a backbone, and gradients of all parameters that it trains."""
    torch.manual_seed(0)
    reduction = "mean" if name.endswith("mean") else "sum"
    loss = Triplet(5.0, "all", reduction=reduction, gather=gather)
    matcher = BACKBONES[name](loss=loss).train()
    for module in matcher.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
    matcher.vocab = WORDS
    features = np.random.default_rng(0).normal(size=(4, 3, 6)).astype(np.float32)[rows]
    captions = np.array(["a dog runs", "red cat", "a", "a red dog runs"])[rows]
    labels = np.eye(3, dtype=np.float32)[[0, 1, 2, 0]][rows]
    pairs = matcher.pairs(features, captions.tolist(), labels=labels, concepts=labels)
    module = wrap(Step(matcher))
    module(pairs).backward()
    gradients = {key: x.grad for key, x in matcher.named_parameters() if x.requires_grad}
    return {key: x.detach() for key, x in matcher.losses(pairs).items()}, gradients


def chunks(rows):
    """Encodings of some captions in two chunks, the first row once more at the end."""
    matcher = Toy().eval()
    parts = [part for part in (rows[:2], rows[2:] + rows[:1]) if part]
    captions = [batch(part, False).captions for part in parts]
    with torch.no_grad():
        return [(matcher.encode_captions(part), part.index) for part in captions]


def worker(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/init", rank=rank, world_size=PROCESSES
    )
    out = {"rank_and_size": rank_and_size()}
    for split, parts in SPLITS.items():
        for name, loss in losses(gather=True).items():
            pairs = batch(parts[rank], split == "groups", relevance=True)
            out[split, name] = step(loss, pairs, DistributedDataParallel)
        pairs, toy = batch(parts[rank], split == "groups"), Toy()
        encoded = toy.encode_images(pairs.images), toy.encode_captions(pairs.captions)
        out[split, "batch"] = gather_batch(pairs, *encoded)[0]
    for name in BACKBONES:
        # As in the last batch of an epoch; DDP gives each process the same weight.
        rows = [[0, 1, 2], [3]][rank]
        out[name] = backbone_step(name, rows, True, DistributedDataParallel)
    mean, pairs = torch.tensor(2.0), batch(SPLITS["pairs"][rank], False)
    every = (None, Triplet(), Triplet(gather=True))
    out["means"] = [float(mean_of_all(Toy(loss), mean, pairs)) for loss in every]
    out["rows"] = rows_of(rank)
    with torch.no_grad():
        out["chunks"] = gather_chunks(chunks([[5, 0, 2, 4, 3], [1]][rank]))
        out["no chunks"] = gather_chunks(chunks([[], [1, 2]][rank]))
    out["errors"] = errors(rank)
    torch.save(out, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def rows_of(rank):
    """Raw gathers: rows and widths differ, one process may have none; and the gradient."""
    x = torch.full((rank + 1, 3 - rank), float(rank + 1), requires_grad=True)
    every = gather_rows(x)  # (3, 3)
    weight = torch.arange(9.0).view(3, 3) * 10**rank
    (every * weight).sum().backward()
    none = gather_rows(torch.ones(rank * 2, 2))
    mask = gather_rows(torch.tensor([[True, rank == 0]]))
    index = gather_rows(torch.tensor([rank + 5]))
    return every.detach(), x.grad, none, mask, index


def errors(rank):
    """What is raised, on every process, before any of them waits for another."""
    pairs = batch(SPLITS["pairs"][rank], False)
    messages = []
    for loss, given in (
        (SAM(gather=True), pairs),
        (Triplet(gather=True), pairs._replace(target=torch.ones(len(pairs.images.index), 1))),
    ):
        try:
            Toy(loss).losses(given)
        except ValueError as error:
            messages.append(str(error))
    return messages


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    # A server process imports Lightning once and forks both; spawning would import it twice.
    torch.multiprocessing.set_forkserver_preload(["itm.matcher"])
    torch.multiprocessing.start_processes(
        worker, (str(folder),), PROCESSES, start_method="forkserver"
    )
    files = [Path(folder, f"{rank}.pt") for rank in range(PROCESSES)]
    return [torch.load(file, weights_only=False) for file in files]


@pytest.mark.parametrize("name", losses(False))
@pytest.mark.parametrize("split", SPLITS)
def test_gathered_step_is_the_step_of_one_process(results, split, name):
    whole = batch(sum(SPLITS[split], []), split == "groups", relevance=True)
    total, gradients = step(losses(gather=False)[name], whole)
    for result in results:
        other_total, other = result[split, name]
        torch.testing.assert_close(other_total, total, rtol=1e-5, atol=1e-6)
        assert other.keys() == gradients.keys()
        for key, gradient in gradients.items():
            if gradient is None:  # the loss does not use it, in either way of computing it
                assert other[key] is None
                continue
            assert gradient.abs().sum() > 0
            torch.testing.assert_close(other[key], gradient, rtol=1e-4, atol=1e-5, msg=key)


@pytest.mark.parametrize("name", BACKBONES)
def test_every_backbone_makes_the_step_of_one_process(results, name):
    terms, gradients = backbone_step(name, [0, 1, 2, 3], False)
    results = [result[name] for result in results]
    for term, value in terms.items():  # DDP averages gradients, and logging averages terms
        mean = sum(found[term] for found, _ in results) / PROCESSES
        torch.testing.assert_close(mean, value, rtol=1e-5, atol=1e-6, msg=term)
    for _, found in results:
        torch.testing.assert_close(found, gradients, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("split", SPLITS)
def test_gathered_batch_is_the_whole_batch(results, split):
    whole = batch(sum(SPLITS[split], []), split == "groups")
    for result in results:
        pairs = result[split, "batch"]
        assert torch.equal(pairs.images.index, whole.images.index)
        assert pairs.captions.lengths == whole.captions.lengths
        for field in set(Captions._fields) - {"tokens", "lengths"}:
            assert torch.equal(getattr(pairs.captions, field), getattr(whole.captions, field))


def test_a_mean_counts_for_its_captions_only_if_the_loss_gathers(results):
    for rank, result in enumerate(results):
        own = [4, 3][rank]
        assert result["means"] == pytest.approx([2, 2, 2 * own * 2 / 7])


def test_rows_are_gathered_with_gradients(results):
    expected = torch.tensor([[1.0, 1, 1], [2, 2, 0], [2, 2, 0]])
    weight = torch.arange(9.0).view(3, 3) * 11  # 1 x from the first process, 10 x from the second
    for rank, result in enumerate(results):
        assert result["rank_and_size"] == (rank, 2)
        every, gradient, none, mask, index = result["rows"]
        assert torch.equal(every, expected)
        assert torch.equal(gradient, (weight[:1], weight[1:, :2])[rank])
        assert torch.equal(none, torch.ones(2, 2))
        assert torch.equal(mask, torch.tensor([[True, True], [True, False]]))
        assert torch.equal(index, torch.tensor([5, 6]))


def test_chunks_of_all_processes_fill_one_matrix(results):
    matcher = Toy().eval()
    images = batch([0, 2, 4], False).images
    whole = batch([0, 1, 2, 3, 4, 5], False).captions
    with torch.no_grad():
        encoded = [(matcher.encode_images(images), torch.arange(3))]
        expected = matcher.similarity(encoded[0][0], matcher.encode_captions(whole)).numpy()
        for result in results:
            for key, columns in (("chunks", slice(None)), ("no chunks", slice(1, 3))):
                got = np.full((3, 6), np.nan, np.float32)
                similarity_matrix(
                    matcher.similarity, encoded, result[key], matcher.pair_floats, out=got
                )
                np.testing.assert_allclose(got[:, columns], expected[:, columns], atol=1e-5)


def test_what_one_process_cannot_know_is_an_error(results):
    for result in results:
        missing, target = result["errors"]
        assert "loss.set_relevance" in missing
        assert "set loss.gather=false" in target


def test_one_process_gathers_nothing():
    pairs, matcher = batch([0, 2], False, relevance=True), Toy()
    encoded = matcher.encode_images(pairs.images), matcher.encode_captions(pairs.captions)
    assert gather_batch(pairs, *encoded) == (pairs, *encoded)
    assert rank_and_size() == (0, 1)
    part = [(encoded[0], torch.arange(2))]
    assert gather_chunks(part) is part
    total, _ = step(SAM(sampling="all", gather=True), pairs)
    assert total == step(SAM(sampling="all"), pairs)[0]
