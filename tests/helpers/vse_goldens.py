"""Golden cases of VSE++ and VSE-infinity: weights, data, and the original's five training steps."""

import json
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from goldens_path import case, read_npz
from torch import nn

from itm.data.augmentation import drop_words, keep_regions
from itm.data.padding import make_captions
from itm.losses import Triplet
from itm.published.convert import FAMILIES, from_published

# A batch norm that the original saves and never uses: reading drops it, writing makes another.
UNUSED = "mlp.bns.1."
DROP = 0.2  # share of regions and of words in the augmented cases


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

    def batch(self, step=0):
        """The training batch of a step, widened to float64, with the recorded augmentation."""
        images, captions = self.data("train")
        expected, augmented = self.expected, "aug_rows" in self.expected
        rows = expected["aug_rows"][step] if augmented else expected["batch_rows"]
        features, lines = [images[row // 5] for row in rows], [captions[row] for row in rows]
        if augmented:
            kept = [keep_regions(draws, DROP) for draws in expected["aug_region_u"][step]]
            assert [x.sum() for x in kept] == expected["aug_regions"][step].tolist()
            features = [x[own] for x, own in zip(features, kept, strict=True)]
        pairs = self.matcher.pairs(features, lines)
        if augmented:
            tokens = [self.dropped(line, step, k) for k, line in enumerate(lines)]
            index = list(range(len(rows)))
            pairs = pairs._replace(captions=make_captions(tokens, index, index))
        if not step:
            np.testing.assert_array_equal(rows, expected["batch_rows"])
            np.testing.assert_array_equal(rows // 5, expected["batch_image"])
            np.testing.assert_array_equal(pairs.captions.tokens, expected["batch_tokens"])
            np.testing.assert_array_equal(pairs.captions.lengths, expected["batch_lengths"])
        return widened(pairs)

    def dropped(self, caption, step, k):
        """The ids of a caption after the recorded draws of a step."""
        draws = self.expected["aug_word_u"][step, k]
        words, before, after = self.matcher.vocab.by_word(caption)
        random, mask = self.expected["aug_word_random"][step, k], self.matcher.vocab.mask_id
        return [*before, *drop_words(words, draws[~np.isnan(draws)], random, DROP, mask), *after]

    def train(self, suffix=""):
        """Train the matcher for five steps in float64, as the original does."""
        matcher, expected = self.matcher.double().train(), self.expected
        matcher.loss = Triplet(self.options["margin"])
        matcher.optimizer = partial(torch.optim.Adam, lr=self.options["learning_rate"])
        if self.family == "vse_infty":
            matcher.image.pad_statistics = not suffix
            decay = 1e-4 if self.bert else 0.01
            matcher.optimizer = partial(torch.optim.AdamW, lr=5e-4, weight_decay=decay)
        optimizer = matcher.configure_optimizers()
        usual = ["hardest" if self.options["max_violation"] else "all"] * 5
        losses, norms = [], []
        for step, negatives in enumerate(expected.get("negatives", usual)):
            matcher.loss.negatives = str(negatives)
            if "lrs" in expected:
                # The original lists [text head, transformer, image]; ours are [rest, transformer].
                for group, lr in zip(optimizer.param_groups, expected["lrs"][step], strict=False):
                    group["lr"] = lr
            optimizer.zero_grad()
            loss = matcher.losses(self.batch(step))["total"]
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
