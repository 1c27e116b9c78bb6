"""VSRN written from its description with loops in float64, and small matchers to compare."""

import numpy as np
import torch

from itm.batch import Pairs
from itm.data.padding import make_captions, make_images
from itm.losses import Triplet
from itm.models import VSRN


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


class Weights(dict):
    """Weights of a matcher as float64 arrays."""

    def __init__(self, matcher):
        super().__init__({k: v.detach().double().numpy() for k, v in matcher.state_dict().items()})

    def linear(self, name: str, x: np.ndarray) -> np.ndarray:
        y = x @ self[f"{name}.weight"].T
        return y + self[f"{name}.bias"] if f"{name}.bias" in self else y

    def gru(self, name: str, x: np.ndarray, h: np.ndarray, suffix: str = "_l0") -> np.ndarray:
        """One step, gates in PyTorch's order: reset, update, new."""
        a = self[f"{name}.weight_ih{suffix}"] @ x + self[f"{name}.bias_ih{suffix}"]
        b = self[f"{name}.weight_hh{suffix}"] @ h + self[f"{name}.bias_hh{suffix}"]
        (ar, az, an), (br, bz, bn) = np.split(a, 3), np.split(b, 3)
        z = sigmoid(az + bz)
        return (1 - z) * np.tanh(an + sigmoid(ar + br) * bn) + z * h

    def run(self, name: str, xs: np.ndarray) -> np.ndarray:
        """All states over a sequence, from zero."""
        h, states = np.zeros(self[f"{name}.weight_hh_l0"].shape[1]), []
        for x in xs:
            h = self.gru(name, x, h)
            states.append(h)
        return np.stack(states)

    def batch_norm(self, name: str, rows: list[np.ndarray], training: bool) -> list[np.ndarray]:
        """Each entry of `rows` is (n_i, D); statistics over all of them when training."""
        every = np.concatenate(rows)
        mean = every.mean(0) if training else self[f"{name}.running_mean"]
        var = every.var(0) if training else self[f"{name}.running_var"]
        scale = self[f"{name}.weight"] / np.sqrt(var + 1e-5)
        return [(x - mean) * scale + self[f"{name}.bias"] for x in rows]


def encode(
    matcher, images: list[np.ndarray], training: bool
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Vectors (I, D) and region vectors of images (R_i, F), each of its own size."""
    w, h = Weights(matcher), matcher.hparams
    xs = [w.linear("image.project", x.astype(float)) for x in images]
    if h["region_norm"] == "columns":
        xs = [x / np.sqrt((x**2).sum(0)) for x in xs]
    for k in range(h["num_gcn"]):
        block, received = f"image.blocks.{k}", []
        for x in xs:
            theta, phi, g = (w.linear(f"{block}.{name}", x) for name in ("theta", "phi", "g"))
            y = np.zeros_like(x)
            for i in range(len(x)):
                for j in range(len(x)):
                    y[i] += theta[i] @ phi[j] / len(x) * g[j]
            received.append(w.linear(f"{block}.out", y))
        normed = w.batch_norm(f"{block}.norm", received, training)
        xs = [x + y for x, y in zip(xs, normed, strict=True)]
    xs = [x / np.sqrt((x**2).sum(0)) for x in xs]
    vectors = np.stack([w.run("image.rnn", x)[-1] for x in xs])
    if h["final_bn"]:
        vectors = w.batch_norm("image.norm", [vectors], training)[0]
    if not h["no_imgnorm"]:
        vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.abs(vectors) if h["use_abs"] else vectors, xs


def encode_captions(matcher, captions: list[list[int]]) -> np.ndarray:
    """Vectors (C, D) of captions as lists of ids."""
    w = Weights(matcher)
    vectors = np.stack([w.run("text.rnn", w["text.embed.weight"][ids])[-1] for ids in captions])
    vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.abs(vectors) if matcher.hparams["use_abs"] else vectors


def caption_loss(
    matcher, regions: list[np.ndarray], captions: list[list[int]], image: list[int]
) -> float:
    """Labels, masks and loss as the original data loader and decoder make them, step by step."""
    w, max_len = Weights(matcher), matcher.hparams["caption_max_len"]
    total = 0.0
    for ids, row in zip(captions, image, strict=True):
        if len(ids) > max_len - 1:
            ids = [*ids[: max_len - 1], ids[-1]]
        label = ids + [0] * (max_len + 1 - len(ids))
        mask = np.zeros(max_len + 1)
        mask[: len(ids) + 1] = 1
        states = w.run("captioner.encoder", w.linear("captioner.project", regions[row]))
        h = states[-1]
        for i in range(max_len - 1):
            energy = [
                w.linear(
                    "captioner.energy",
                    np.tanh(w.linear("captioner.attend", np.concatenate([o, h]))),
                )[0]
                for o in states
            ]
            alpha = np.exp(energy) / np.exp(energy).sum()
            word = w["captioner.embed.weight"][label[i]]
            h = w.gru("captioner.decoder", np.concatenate([word, alpha @ states]), h, "")
            logits = w.linear("captioner.out", h)
            logp = logits - np.log(np.exp(logits).sum())
            total -= mask[i + 1] * logp[label[i + 1]]
    return total / len(captions)


def toy(seed: int = 0, **options) -> VSRN:
    """A small matcher with graph blocks that do something: their batch norm starts at zero."""
    torch.manual_seed(seed)
    sizes = {"vocab_size": 11, "img_dim": 5, "word_dim": 3, "embed_dim": 6, "num_gcn": 2}
    captioner = {"caption_dim": 4, "caption_word_dim": 3, "caption_dropout": 0.0}
    matcher = VSRN(**{**sizes, **captioner, "loss": Triplet(), **options})
    for block in matcher.image.blocks:
        torch.nn.init.uniform_(block.norm.weight, 0.5, 1.5)
        torch.nn.init.normal_(block.norm.running_mean)
        torch.nn.init.uniform_(block.norm.running_var, 0.5, 1.5)
    return matcher


def toy_data(seed: int = 0, longest: int = 9):
    """Ragged images and captions; image 1 has two captions, and one caption is `longest`."""
    rng = np.random.default_rng(seed)
    images = [rng.normal(size=(n, 5)) for n in (4, 7, 2)]
    lengths = (5, longest, 3, 6)
    captions = [[1, *rng.integers(3, 11, n - 2).tolist(), 2] for n in lengths]
    return images, captions, [0, 1, 1, 2]


def toy_pairs(images, captions, image, extra: int = 0) -> Pairs:
    """A batch with `extra` padding behind the longest image and the longest caption."""
    regions = make_images(list(images), range(len(images)))
    words = make_captions(captions, range(len(captions)), image)
    pad = torch.nn.functional.pad
    regions = regions._replace(
        regions=pad(regions.regions, (0, 0, 0, extra)), mask=pad(regions.mask, (0, extra))
    )
    return Pairs(regions, words._replace(tokens=pad(words.tokens, (0, extra))))


def widen(pairs: Pairs) -> Pairs:
    return pairs._replace(images=pairs.images._replace(regions=pairs.images.regions.double()))
