"""Every loss trains every backbone: a few dozen steps on easy scenes beat chance on unseen ones."""

import math

import pytest
import pytorch_lightning as pl

from itm.app.build import build
from itm.metrics.retrieval import evaluate

# Narrow; without dropout, which slows so short a training down.
MODELS = {
    "scan_t2i": ["model.word_dim=32"],
    "scan_i2t": ["model.word_dim=32"],
    "vsrn": ["model.word_dim=32", "model.num_gcn=1", "model.caption_weight=0"],
    "vsepp": ["model.word_dim=32"],
    "vse_infty": ["model.word_dim=32"],
    "sgr": ["model.word_dim=32", "model.sim_dim=32", "model.sgr_steps=1", "model.dropout=0"],
    "saf": ["model.word_dim=32", "model.sim_dim=32", "model.dropout=0"],
    # The neighbourhood loss is a mean, not a sum: a KL term of the usual weight would drown it.
    "cvse": ["model.word_dim=32", "model.dropout=0", "model.kl_weight=0.05"],
    "casc": ["model.word_dim=32", "model.hidden=64"],
    "chan": ["model.word_dim=32"],
    "two_branch_embedding": ["model.word_dim=64", "model.hidden_dim=128"],
    "two_branch_similarity": [
        "model.word_dim=64",
        "model.hidden_dim=128",
        "model.joint_dims=[64,32]",
    ],
}
# All negatives throughout: the hardest one alone needs more steps to leave its plateau.
LOSSES = {
    "triplet": ["warmup_steps=10000", "warmup_epochs=0"],
    "sam": ["warmup_steps=10000", "warmup_epochs=0"],
    "neighborhood": ["loss.margin=0.2"],
    "multilabel": ["warmup_steps=10000", "warmup_epochs=0"],
    "pcmepp": [],
    "infonce": [],
    "sigmoid": [],
}
# Start values that suit the size of scores: about 0.5 in SAF, 10 in CHAN, -1.4 in distances.
STARTS = {
    ("saf", "sigmoid"): ["loss.bias=-7"],
    ("chan", "sigmoid"): ["loss.scale=1"],
    ("chan", "infonce"): ["loss.temperature=1"],
    ("two_branch_embedding", "sigmoid"): ["loss.bias=10"],
    ("sgr", "pcmepp"): ["loss.init_shift=1", "loss.smoothness_alpha=0"],
    ("saf", "pcmepp"): ["loss.init_shift=1", "loss.smoothness_alpha=0"],
    ("chan", "pcmepp"): ["loss.init_negative_scale=0.5", "loss.init_shift=-10"],
    ("two_branch_embedding", "pcmepp"): ["loss.init_shift=20", "loss.smoothness_alpha=0"],
}
DATA = [
    "data.root.images=[100,100,100]",
    "data.root.regions=8",
    "data.root.noise=0.3",
    "data.batch_size=32",
    "data.num_labels=100",
    "data.num_concepts=60",
    "model.embed_dim=64",
    "optimizer.lr=4e-3",
]


def chance(images: int, captions: int) -> float:
    """Expected rsum of random scores, with the captions of an image drawn without replacement."""
    each = captions // images
    missed = [math.comb(captions - each, k) / math.comb(captions, k) for k in (1, 5, 10)]
    return 100 * sum(1 - miss for miss in missed) + 100 * sum(k / images for k in (1, 5, 10))


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("model", MODELS)
def test_every_loss_trains_every_backbone(model, loss):
    pl.seed_everything(0, verbose=False)
    more = STARTS.get((model, loss), [])
    matcher = build(model, loss, "scenes", [*DATA, *MODELS[model], *LOSSES[loss], *more])
    # SGRAF is slow to learn from a mean over pairs, most of which do not match, and SGR also from
    # the few negatives of a mean over the most violated ones.
    slow = [("sgr", "neighborhood"), ("sgr", "pcmepp"), ("saf", "pcmepp")]
    epochs = 8 if (model, loss) in slow else 3
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=epochs, gradient_clip_val=2.0, limit_val_batches=0,
        logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, use_distributed_sampler=False,
    )  # fmt: skip
    trainer.fit(matcher, datamodule=matcher.data)
    matcher.eval()
    split = matcher.data.test_split
    scores = matcher.score(split.view(), split.captions)
    rsum = evaluate(scores, split.caption_image)["rsum"]
    assert rsum > 1.25 * chance(len(split.view()), len(split.captions)), rsum
