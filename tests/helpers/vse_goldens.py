"""Golden cases of VSE++ and VSE-infinity: weights, data, and the original's five training steps."""

import json
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from goldens_path import case, read_npz
from torch import nn

from itm.losses import Triplet
from itm.published.convert import FAMILIES, from_published

# A batch norm that the original saves and never uses: reading drops it, writing makes another.
UNUSED = "mlp.bns.1."


class Steps(NamedTuple):
    """What five training steps leave behind."""

    losses: list[float]
    norms: list[float]
    scores: np.ndarray
    tensors: dict[str, torch.Tensor]


class VSEGolden:
    """A golden case: its matcher, images (each once), captions, options and expected arrays."""

    def __init__(self, name, checkpoint="checkpoint.pth.tar"):
        self.family = name.split("/")[0]
        self.folder = folder = case(name)
        self.options = json.loads((folder / "options.json").read_text())
        self.expected = read_npz(folder / "expected.npz")
        self.path = folder / checkpoint
        self.bert = (folder / "bert").is_dir()
        pickled = (folder / "vocab.pkl").is_file()
        self.vocab = None if self.bert else folder / ("vocab.pkl" if pickled else "vocab.json")
        self.matcher = self.read(self.path)

    def read(self, path):
        text = self.folder / "bert" if self.bert else None
        return from_published(path, vocab=self.vocab, text=text)

    def data(self, split):
        """Images of a split, cut to their real regions, and its captions."""
        (folder,) = (self.folder / "data").iterdir()
        lines = (folder / f"{split}_caps.txt").read_bytes().decode().split("\n")
        captions = [line for line in lines if line]
        images = np.load(folder / f"{split}_ims.npy")
        images = images[::5] if len(images) == len(captions) else images
        counts = folder / f"{split}_lens.npy"
        if counts.is_file():
            images = [x[:n] for x, n in zip(images, np.load(counts), strict=True)]
        return images, captions

    def batch(self):
        """The training batch, widened to float64."""
        images, captions = self.data("train")
        rows = self.expected["batch_rows"]
        pairs = self.matcher.pairs(
            [images[i] for i in self.expected["batch_image"]], [captions[row] for row in rows]
        )
        np.testing.assert_array_equal(pairs.captions.tokens, self.expected["batch_tokens"])
        np.testing.assert_array_equal(pairs.captions.lengths, self.expected["batch_lengths"])
        return widened(pairs)

    def train(self, suffix=""):
        """Train the matcher for five steps in float64, as the original does."""
        matcher, expected = self.matcher.double().train(), self.expected
        matcher.loss = Triplet(self.options["margin"])
        matcher.optimizer = partial(torch.optim.Adam, lr=self.options["learning_rate"])
        if self.family == "vse_infty":
            matcher.image.pad_statistics = not suffix
            decay = 1e-4 if self.bert else 0.01
            matcher.optimizer = partial(torch.optim.AdamW, lr=5e-4, weight_decay=decay)
        optimizer, pairs = matcher.configure_optimizers(), self.batch()
        usual = ["hardest" if self.options["max_violation"] else "all"] * 5
        losses, norms = [], []
        for step, negatives in enumerate(expected.get("negatives", usual)):
            matcher.loss.negatives = str(negatives)
            if "lrs" in expected:
                # The original lists [text head, transformer, image]; ours are [rest, transformer].
                for group, lr in zip(optimizer.param_groups, expected["lrs"][step], strict=False):
                    group["lr"] = lr
            optimizer.zero_grad()
            loss = matcher.losses(pairs)["total"]
            loss.backward()
            norms.append(float(nn.utils.clip_grad_norm_(matcher.parameters(), 2.0)))
            optimizer.step()
            losses.append(loss.item())
        matcher.eval()
        images, captions = self.data("test")
        test = widened(matcher.pairs(images, captions, image=[0] * len(captions)))
        with torch.no_grad():
            scores = matcher(test.images, test.captions).numpy()
        states, _ = FAMILIES[self.family].write(matcher)
        tensors = {
            f"{side}.{name}": value
            for side, state in zip(("image", "text"), states, strict=True)
            for name, value in state.items()
        }
        return Steps(losses, norms, scores, tensors)


def widened(pairs):
    """The batch with features in float64."""
    return pairs._replace(
        images=pairs.images._replace(regions=pairs.images.regions.double()),
    )


def check_steps(expected, found, suffix="", rtol=1e-9):
    """Compare five steps with the original's."""
    np.testing.assert_allclose(found.losses, expected[f"losses{suffix}"], rtol=rtol)
    np.testing.assert_allclose(found.norms, expected[f"grad_norms{suffix}"], rtol=rtol)
    np.testing.assert_allclose(found.scores, expected[f"sims_after{suffix}"], atol=1e-8)
    names = expected[f"after_names{suffix}"].tolist()
    assert sorted(found.tensors) == sorted(names)
    used = [UNUSED not in name for name in names]
    for kind, measure in (("sum", torch.Tensor.sum), ("norm", torch.Tensor.norm)):
        values = [float(measure(found.tensors[name].double())) for name in names]
        after = expected[f"after_{kind}{suffix}"]
        np.testing.assert_allclose(np.array(values)[used], after[used], atol=1e-8)
