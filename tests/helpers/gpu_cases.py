"""Run every model and loss on the pretended GPU of `simulated_gpu`, and print what happened.

Each line of the output is a JSON object. The device changes torch for the whole process, so the
tests run this file in a process of its own:

    python tests/helpers/gpu_cases.py steps [all] [MODEL ...]  # numbers, waits, mixing of devices
    python tests/helpers/gpu_cases.py launches [MODEL ...]  # kernels at paper size
    python tests/helpers/gpu_cases.py small         # gradients of GRUs that float16 cannot hold
    python tests/helpers/gpu_cases.py wide          # the largest tensor of a batch of 2,048
    python tests/helpers/gpu_cases.py defects       # faults made on purpose, which must be noticed
"""

import copy
import json
import math
import os
import sys
from collections import Counter
from contextlib import ExitStack, nullcontext
from types import SimpleNamespace
from unittest import mock

import numpy as np
import simulated_gpu as gpu
import torch

import itm
from itm import losses as L
from itm.app.config import compose, instantiate
from itm.batch import Captions, Encoded, Images, Pairs
from itm.matcher import validation
from itm.matcher.blocks import similarity_matrix
from itm.models import (
    CASC,
    CHAN,
    CVSE,
    SCAN,
    SGRAF,
    VSEPP,
    VSRN,
    TwoBranchEmbedding,
    TwoBranchSimilarity,
    VSEInfinity,
)
from itm.text import SPECIALS, Vocabulary

# As on CUDA, where gradients are clipped by few kernels for all parameters.
torch.nn.utils.clip_grad._has_foreach_support = lambda tensors, device: True

WORDS = Vocabulary([*SPECIALS, "a", "dog", "cat", "runs", "red", "two"])
# 5, 6, 3 and 8 tokens: a dropped mask changes the scores of captions that share a group.
CAPTIONS = ["a dog runs", "two red cat runs", "a", "a red dog runs a cat"]
TINY = {
    "vocab_size": len(WORDS), "img_dim": 6, "num_regions": 3, "num_labels": 3, "num_concepts": 3,
    "word_dim": 4, "embed_dim": 8, "hidden_dim": 8, "joint_dims": [8, 4], "sim_dim": 4, "hidden": 4,
    "concept_dim": 4, "num_gcn": 2, "caption_dim": 4, "caption_word_dim": 4, "caption_max_len": 8,
    "dropout": 0.0, "caption_dropout": 0.0,
}  # fmt: skip
BERT = {"name": "bert", "finetune": True, "config": {
    "model_type": "bert", "vocab_size": len(WORDS), "hidden_size": 8, "num_hidden_layers": 1,
    "num_attention_heads": 2, "intermediate_size": 8, "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0}}  # fmt: skip
ALIASES = ("scan", "sgraf")
EXTRA = {
    "scan_t2i bert": ("scan_t2i", {"text": BERT}),
    "vsrn f30k": ("vsrn", {"region_norm": "none", "final_bn": True}),
    "vsrn order": ("vsrn", {"measure": "order", "caption_weight": 0.0}),
    "cvse sigmoid": ("cvse", {"activation": "sigmoid", "use_batchnorm": False}),
    "vse_infty probabilistic": ("vse_infty", {"probabilistic": True}),
    "vse_infty padded": ("vse_infty", {"pad_statistics": True}),
    "vsepp order": ("vsepp", {"measure": "order", "use_abs": True}),
    "chan tha": ("chan", {"coding": "THA", "pooling": "Softmax"}),
    "chan vsa": ("chan", {"coding": "VSA", "pooling": "Mean"}),
    "two_branch_embedding attend": ("two_branch_embedding", {"text": {"name": "attend"}}),
    "two_branch_embedding gru": ("two_branch_embedding", {"text": {"name": "gru"}}),
    "two_branch_embedding region": ("two_branch_embedding", {"level": "region"}),
    "two_branch_similarity region": (
        "two_branch_similarity",
        {"level": "region", "num_experts": 2, "weight_penalty": [5e-4, 1e-3, 5e-3]},
    ),
}


def variants():
    """Yield a title, the name in conf/model and options of every model."""
    for name in itm.list_models():
        if name not in ALIASES:
            yield name, name, {}
    for title, (name, options) in EXTRA.items():
        yield title, name, options


def made(name, **options):
    """Build a small model without loss."""
    node = compose([f"model={name}", "~recipe"]).model
    torch.manual_seed(0)
    sizes = {key: value for key, value in TINY.items() if key in node}
    matcher = instantiate(node, **{**sizes, **options})
    matcher.vocab = WORDS
    return matcher


def losses_of(matcher):
    """Name every loss that trains a model: name -> function that builds it."""
    dim = matcher.label_dim
    label = {"num_labels": 3, "hidden": 4} if dim else {}
    return {
        "triplet": lambda: L.Triplet(),
        "triplet all, warmup": lambda: L.Triplet(
            negatives="all", warmup_steps=3, mask_same_image=True
        ),
        "triplet top": lambda: L.Triplet(negatives="top"),
        "sam": lambda: L.SAM(sampling="hardest"),
        "sam random": lambda: L.SAM(sampling="random"),
        "sam released": lambda: L.SAM(sampling="hardest", reference_topk=True, indexing="released"),
        "neighborhood": lambda: L.Neighborhood(image_neighbors=0.1, mask_same_image=True),
        "multilabel": lambda: L.MultiLabel(dim=dim, **label),
        "triplet distance": distance_weighted,
        "infonce": lambda: L.InfoNCE(),
        "sigmoid": lambda: L.Sigmoid(),
        "pcmepp": lambda: L.PCMEPP(),
        "logistic": lambda: L.Logistic(),
        "logistic drawn": lambda: L.Logistic(negatives=2, mask_same_image=True),
    }


def distance_weighted():
    """Build the loss as it is after the first batch, which looks whether scores are cosines."""
    loss = L.Triplet(negatives="distance", dim=8)
    loss._check_scores = False
    return loss


def host_pairs(matcher):
    """Make a batch on the host, and its features."""
    x = np.random.default_rng(0).normal(size=(4, 3, 6)).astype(np.float32)
    x = x if matcher.num_regions else [x[0], x[1, :2], x[2, :1], x[3]]
    labels = np.eye(3, dtype=np.float32)[[0, 1, 2, 0]]
    relevance = np.random.default_rng(1).random((4, 4)).astype(np.float32)
    return matcher.pairs(x, CAPTIONS, labels=labels, concepts=labels, relevance=relevance), x


def to_gpu(batch, waiting=True):
    """Send every tensor of a batch, as Lightning does."""

    def move(value):
        if isinstance(value, torch.Tensor):
            return value.to(gpu.DEVICE, non_blocking=not waiting)
        return value

    images, captions = (type(side)(*map(move, side)) for side in batch[:2])
    return Pairs(images, captions, *map(move, batch[2:]))


def step(matcher, pairs, optimizer, precision=None):
    """Take one step of training; return the loss and the gradients."""
    kind = pairs.images.regions.device.type
    optimizer.zero_grad()
    with torch.autocast(kind, precision or torch.float32, enabled=precision is not None):
        total = matcher.losses(pairs)["total"]
    total.backward()
    matcher.configure_gradient_clipping(optimizer, 2.0)
    gradients = {k: p.grad for k, p in matcher.named_parameters() if p.grad is not None}
    optimizer.step()
    return total, gradients


def optimizer_of(matcher):
    """Build Adam over the matcher's groups."""
    matcher.optimizer = lambda groups: torch.optim.Adam(groups, lr=2e-4, foreach=True)
    found = matcher.configure_optimizers()
    return found[0][0] if isinstance(found, tuple) else found


def check_step(name, options, make_loss, precision):
    """Compare a step with the same step on the host; return problems and events."""
    torch.manual_seed(0)
    plain = made(name, **options)
    plain.loss = make_loss()
    pairs, _ = host_pairs(plain)
    plain.train()
    twin, problems = copy.deepcopy(plain), []
    torch.manual_seed(1)
    expected, by_host = step(plain, pairs, optimizer_of(plain))
    simulation = gpu.Simulation()
    with simulation, torch.autograd.set_detect_anomaly(True, check_nan=False):
        gpu.move(twin, simulation)
        there, optimizer = to_gpu(pairs), optimizer_of(twin)
        simulation.events.clear()
        torch.manual_seed(1)
        total, by_device = step(twin, there, optimizer, precision)
        events = list(simulation.events)
        total = simulation.fetch(total.detach())
        by_device = {k: simulation.fetch(g) for k, g in by_device.items()}
        left = [k for k, p in twin.named_parameters() if not isinstance(p, gpu.Fake)]
        problems += [f"{key} left the device" for key in left]
    if precision is None:
        torch.testing.assert_close(total, expected.detach(), rtol=1e-5, atol=1e-6)
        if by_host.keys() != by_device.keys():
            problems.append(f"gradients of other parameters: {by_host.keys() ^ by_device.keys()}")
        for key in by_host:
            torch.testing.assert_close(
                by_device[key], by_host[key], rtol=1e-3, atol=1e-5, msg=lambda m, k=key: f"{k}: {m}"
            )
    elif not all(torch.isfinite(x).all() for x in (total, *by_device.values())):
        problems.append("not finite")
    return problems, events


def check_scores(name, options):
    """Compare `Matcher.score` and validation with the host; return the events of scoring."""
    plain = made(name, **options).eval()
    pairs, features = host_pairs(plain)
    expected = plain.score(features, CAPTIONS)
    twin = copy.deepcopy(plain)
    simulation = gpu.Simulation()
    with simulation:
        gpu.move(twin, simulation)
        twin.transfer_batch_to_device = lambda batch, *_: type(batch)(
            *(x.to(gpu.DEVICE) if isinstance(x, torch.Tensor) else x for x in batch)
        )
        np.testing.assert_allclose(twin.score(features, CAPTIONS), expected, atol=1e-5)
        split = SimpleNamespace(
            captions=CAPTIONS, caption_image=np.arange(4), num_images=4, protocol="full"
        )
        logged = {}
        data = SimpleNamespace(val_split=split)
        twin._trainer = SimpleNamespace(  # of Lightning's trainer, what validation reads
            datamodule=data, sanity_checking=False, progress_bar_callback=None,
            precision_plugin=SimpleNamespace(forward_context=nullcontext),
            _evaluation_loop=SimpleNamespace(_logged_outputs=[]),
        )  # fmt: skip
        twin.log = lambda name, value, **_: logged.update({name: value})
        with torch.no_grad():
            validation.on_epoch_start(twin)
            there = to_gpu(pairs)
            for batch in there[:2]:
                validation.step(twin, batch, 0)
            encoded = twin.encoded_images[0][0], twin.encoded_captions[0][0]
            simulation.events.clear()
            twin.similarity(*encoded)
            events = list(simulation.events)
            validation._log_retrieval(twin, "val", split)
        assert "val/rsum" in logged, logged
    return [], events


def report(**values):
    """Print one line."""
    print(json.dumps(values), flush=True)


def run(function, *arguments):
    """Call a check; an exception is a problem."""
    try:
        return function(*arguments)
    except Exception as error:
        return [f"{type(error).__name__}: {str(error)[:400]}"], []


def waits(events):
    """Count the waits of events by place."""
    return dict(Counter(f"{e.site} {e.name}" for e in events if e.kind == "wait"))


def steps(every, only):
    """Report a step of every model (or of some) with every loss, and its scores."""
    for title, name, options in variants():
        if only and name not in only:
            continue
        known = losses_of(made(name, **options))
        whole = every or title == "vse_infty probabilistic"  # Gaussians, which all losses take
        chosen = known if whole else ["triplet all, warmup", "sam released"]
        kinds = (None, torch.bfloat16, torch.float16) if every else (None, torch.bfloat16)
        for loss in chosen:
            for precision in kinds:
                problems, events = run(check_step, name, options, known[loss], precision)
                report(model=title, loss=loss, precision=str(precision), problems=problems,
                       waits=waits(events))  # fmt: skip
        problems, events = run(check_scores, name, options)
        report(
            model=title, loss="scoring", precision="None", problems=problems, waits=waits(events)
        )


# Small gradients -------------------------------------------------------------------------------

MEAN = 1e-7  # times a loss: as small as the gradients of a mean in a wide matcher


def small_gradients(name):
    """Return the distance of a GRU's gradients in bfloat16 from those in float32, relative."""
    matcher, found = made(name).train(), []
    matcher.loss = L.InfoNCE()
    pairs, simulation = host_pairs(matcher)[0], gpu.Simulation()
    with simulation:
        gpu.move(matcher, simulation)
        there = to_gpu(pairs)
        for half in (False, True):
            matcher.zero_grad()
            with torch.autocast(gpu.DEVICE.type, torch.bfloat16, enabled=half):
                total = matcher.losses(there)["total"]
            (MEAN * total).backward()
            grus = [p.grad for key, p in matcher.named_parameters() if ".rnn." in key]
            found.append(torch.cat([simulation.fetch(x).flatten().float() for x in grus]))
    return float((found[1] - found[0]).norm() / found[0].norm())


def small():
    """Report it for a GRU over words, and for VSRN, which has one over regions, too."""
    for name in ("vsepp", "vsrn"):
        report(model=name, distance=small_gradients(name))


# Kernels at the papers' sizes, from shapes alone ---------------------------------------------

MEMORY = 1 << 34  # bytes of a block: a quarter of a GPU's memory
VOCABULARY, LENGTHS = 10_000, [*range(8, 21)] * 100
WIDE = {"vocab_size": VOCABULARY, "img_dim": 2048, "embed_dim": 1024}
PAPER = {
    "scan_t2i": lambda: SCAN(**WIDE, loss=L.Triplet()),
    "scan_i2t": lambda: SCAN(**WIDE, direction="i2t", aggregation="LogSumExp", loss=L.Triplet()),
    "casc": lambda: CASC(**WIDE, loss=L.Triplet()),
    "sgr": lambda: SGRAF(**WIDE, loss=L.Triplet()),
    "saf": lambda: SGRAF(**WIDE, module="SAF", loss=L.Triplet()),
    "vsrn": lambda: VSRN(**{**WIDE, "embed_dim": 2048}, loss=L.Triplet()),
    "cvse": lambda: CVSE(**WIDE, loss=L.Triplet()),
    "vsepp": lambda: VSEPP(**WIDE, loss=L.Triplet()),
    "vse_infty": lambda: VSEInfinity(**WIDE, loss=L.Triplet()),
    "pcmepp": lambda: VSEInfinity(**WIDE, probabilistic=True, loss=L.PCMEPP()),
    "chan": lambda: CHAN(**WIDE, loss=L.Triplet()),
    "two_branch_embedding": lambda: TwoBranchEmbedding(VOCABULARY, 2048, loss=L.Neighborhood()),
    "two_branch_similarity": lambda: TwoBranchSimilarity(VOCABULARY, 2048, loss=L.Logistic()),
}


def paper_pairs(name, batch=128):
    """Make a batch at paper size."""
    lengths = LENGTHS[:batch]
    kinds = {"casc": 500, "cvse": 300}.get(name, 0)
    multi_hot = torch.zeros(batch, kinds) if kinds else None
    rows = torch.arange(batch)
    tokens = torch.ones(batch, max(lengths), dtype=torch.long)
    return Pairs(
        Images(torch.zeros(batch, 36, 2048), torch.ones(batch, 36, dtype=torch.bool), rows),
        Captions(tokens, tuple(lengths), rows, rows, multi_hot, multi_hot),
    )


def launches_of_step(name):
    """Count the kernels of a training step of batch 128 in bfloat16."""
    matcher, pairs = PAPER[name]().train(), paper_pairs(name)
    simulation = gpu.Simulation(shapes_only=True)
    with simulation, torch.autograd.set_detect_anomaly(True, check_nan=False):
        gpu.move(matcher, simulation)
        there, optimizer = to_gpu(pairs, waiting=False), optimizer_of(matcher)
        for _ in range(2):
            simulation.events.clear()
            step(matcher, there, optimizer, torch.bfloat16)
    return gpu.total(simulation.events)


def encodings(lengths, width, host_lengths):
    """Make encodings without numbers on the device."""
    count, size = len(lengths), int(lengths.max())
    mask = (torch.arange(size) < lengths[:, None]).to(gpu.DEVICE)
    vector, parts = (torch.empty(count, *s, width, device=gpu.DEVICE) for s in ((), (size,)))
    return Encoded(vector, parts, mask, {"lengths": lengths} if host_lengths else None)


def launches_of_scoring(name, images=256, captions=1000, chunk=256):
    """Count the kernels that score images x captions from encodings, sorted by length."""
    matcher = PAPER[name]().eval()
    simulation = gpu.Simulation(shapes_only=True)
    with simulation, torch.no_grad():
        gpu.move(matcher, simulation)
        width = matcher.hparams["embed_dim"]
        image = encodings(torch.full((images,), 36), width, False)
        if hasattr(matcher, "cross"):
            image = matcher.cross.prepare(image._replace(vector=None))
        elif name == "casc":
            image = matcher.t2i.prepare(image._replace(vector=None))
        lengths = torch.tensor(sorted(LENGTHS[:captions]))
        texts = [
            (encodings(lengths[r], width, True), r) for r in torch.arange(captions).split(chunk)
        ]
        simulation.events.clear()
        similarity_matrix(
            matcher.similarity, [(image, torch.arange(images))], texts, matcher.pair_floats,
            gpu.DEVICE, MEMORY, np.empty((images, captions), np.float32),
        )  # fmt: skip
    return gpu.total(simulation.events)


def wide(pairs=2048):
    """Report the values of the largest tensor in the scores of a very large training batch."""
    for name in ("scan_t2i", "scan_i2t", "chan"):
        matcher = PAPER[name]()
        simulation = gpu.Simulation(shapes_only=True)
        with simulation, torch.no_grad():
            gpu.move(matcher, simulation)
            image = encodings(torch.full((pairs,), 36), 1024, False)
            matcher.similarity(image, encodings(torch.tensor([20] * pairs), 1024, True))
        shapes = [e.shape for e in simulation.events if e.shape is not None]
        report(model=name, values=max(map(math.prod, shapes)))


def launches(only):
    """Report the kernels of all models (or of some), and of scoring those that compare parts."""
    for name in only or PAPER:
        report(model=name, part="training", **launches_of_step(name))
    for name in ("scan_t2i", "scan_i2t", "casc", "chan", "sgr", "saf"):
        if only and name not in only:
            continue
        report(model=name, part="scoring", **launches_of_scoring(name))


# Faults made on purpose -------------------------------------------------------------------------


def defects():
    """Report for each fault what a training step of SAF noticed."""
    from itm.layers import functional, packing, text
    from itm.models.sgraf import sgraf

    def host_mask(lengths, size, device):
        return torch.arange(size) < torch.tensor(lengths)[:, None]

    def waiting_mask(lengths, size, device):
        ends = torch.tensor(lengths, device=device)
        return torch.arange(size, device=device) < ends[:, None]

    def arange_without_device(lengths, size, device):
        return torch.arange(size) < torch.tensor(lengths, device=device)[:, None]

    normalise = functional.l2norm

    def asks(x, dim=-1, eps=1e-8):
        return normalise(x, dim, eps if float(x.abs().max()) >= 0 else eps)

    def boolean_index(x, dim=-1, eps=1e-8):
        y = normalise(x, dim, eps)
        return y + 0 * y[y > 0].sum()

    pack = packing.pack

    def without_masks(captions, slack=0.0):
        packed = pack(captions, slack)
        return packed._replace(masks=[None] * len(packed.masks))

    faults = {
        "host mask": [(text, "length_mask", host_mask)],
        "waiting copy": [(text, "length_mask", waiting_mask)],
        "arange without device": [(text, "length_mask", arange_without_device)],
        "value asked for": [(sgraf, "l2norm", asks)],
        "boolean index": [(sgraf, "l2norm", boolean_index)],
        "dropped mask": [(sgraf, "pack", without_masks)],
    }
    for title, patches in faults.items():
        with ExitStack() as stack:
            for module, name, value in patches:
                stack.enter_context(mock.patch.object(module, name, value))
            problems, events = run(check_step, "saf", {}, lambda: L.Triplet(), None)
        report(defect=title, problems=problems, waits=waits(events))


if __name__ == "__main__":
    torch.set_num_threads(1)
    what, *rest = sys.argv[1:]
    every = "all" in rest
    only = {x for x in rest if x != "all"}
    parts = {
        "steps": lambda: steps(every, only),
        "small": small,
        "wide": wide,
        "launches": lambda: launches(only),
        "defects": defects,
    }
    parts[what]()
    sys.stdout.flush()
    os._exit(0)  # autograd's thread of the device may still run, which aborts a usual exit (rare)
