"""Two-branch embedding network: an image branch and a sentence branch into one space.

Wang, Li, Huang, Lazebnik: Learning Two-Branch Neural Networks for Image-Text Matching Tasks,
TPAMI 41(2), 2019. What it shares with the similarity network is in `branches.py`.
"""

from typing import Any

from torch import Tensor

from itm.batch import Encoded
from itm.layers.functional import distances
from itm.layers.sentence import sentence_encoder
from itm.matcher.matcher import OBJECTS
from itm.models.two_branch.branches import (
    LEVELS,
    Branch,
    TwoBranch,
    dense,
    from_tensorflow,
    linear,
    to_tensorflow,
)
from itm.utils.checks import check_choice


class TwoBranchEmbedding(TwoBranch):
    """Embedding network.

    branch: x -> linear -> batch norm -> ReLU -> dropout -> linear -> unit length, per side.
    score:  s = -d, d = sqrt(|v - t|^2 + 1e-4), so that larger is better as everywhere.

    The defaults are those of the authors' code; their inputs are 4096 (VGG-19) and 6000 (HGLMM)
    wide, with text={"name": "vectors"}.

    Args:
        vocab_size: words V; not needed for text=vectors.
        img_dim: width F of the image or region features.
        word_dim: width of the word vectors (text=mean, attend, gru).
        sentence_dim: width of the sentence vectors: precomputed ones, or the GRU's or BERT's.
        hidden_dim: width between the two linear maps.
        embed_dim: width D of the joint space.
        dropout: after the ReLU, training only.
        bn_momentum: weight of the batch in the running statistics (TensorFlow's momentum is one
            minus this; the PyTorch port: 0.1).
        bn_eps: added to the variance.
        bn_biased: the running variance takes the biased variance of a batch, as in TensorFlow;
            False for that of PyTorch.
        text: sentence encoder, see `itm.layers.sentence`; {"name": "mean"} when None.
        text_lr_scale: learning rate of the sentence branch relative to the rest (PyTorch port: 2).
        level: what a caption is compared with: the "image", by the mean of its regions; or, for
            phrases, each "region", an image then scores as its best region.
        loss: see `Matcher`.
        optimizer: see `Matcher`.
        scheduler: see `Matcher`.
    """

    def __init__(
        self,
        vocab_size: int | None = None,
        img_dim: int = 2048,
        word_dim: int = 300,
        sentence_dim: int | None = None,
        hidden_dim: int = 2048,
        embed_dim: int = 512,
        dropout: float = 0.5,
        bn_momentum: float = 0.9,
        bn_eps: float = 1e-5,
        bn_biased: bool = True,
        text: dict[str, Any] | None = None,
        text_lr_scale: float = 1.0,
        level: str = "image",
        *,
        loss=None,
        optimizer=None,
        scheduler=None,
    ):
        super().__init__(loss, optimizer, scheduler)
        self.save_hyperparameters(ignore=OBJECTS)
        check_choice("level", level, LEVELS)
        norm = {"momentum": bn_momentum, "eps": bn_eps, "biased": bn_biased}
        self.level = level
        self.text_lr_scale = text_lr_scale
        self.text = sentence_encoder(text or {"name": "mean"}, vocab_size, word_dim, sentence_dim)
        self.image = Branch(img_dim, hidden_dim, embed_dim, dropout, norm)
        self.sentence = Branch(self.text.dim, hidden_dim, embed_dim, dropout, norm)

    def region_scores(self, regions: Tensor, mask: Tensor, captions: Encoded) -> Tensor:
        """(N, R) scores of each caption with the regions (N, R, D) of its row."""
        assert captions.vector is not None
        return -distances(regions, captions.vector[:, None]).squeeze(-1)

    def similarity(self, images: Encoded, captions: Encoded) -> Tensor:
        """(I, C) minus the distances; at level "region" of the nearest region."""
        assert captions.vector is not None
        if images.vector is not None:
            return -distances(images.vector, captions.vector)
        assert images.parts is not None and images.mask is not None
        scores = -distances(images.parts, captions.vector)  # (I, R, C)
        return scores.masked_fill(~images.mask[..., None], float("-inf")).amax(1)

    @property
    def ranks_by_vectors(self) -> bool:
        """At level "image": of unit vectors the nearest has the largest product."""
        return self.level == "image"

    def pair_floats(self, regions: int, words: int) -> int:
        """Products, squared distances and their root, for each region."""
        return 4 * regions

    def to_published(self) -> tuple[list[dict[str, Tensor]], dict[str, Any]]:
        """State dicts under the original names: TensorFlow's for text=vectors, else the port's.

        Raises:
            ValueError: what no published code has: regions, another eps, or text=gru or bert.
        """
        h = self.hparams
        state, name = self.state_dict(), (h["text"] or {"name": "mean"})["name"]
        if (h["level"], h["bn_eps"]) != ("image", 1e-5):
            raise ValueError(
                "the published network has level=image and bn_eps=1e-5; this one has level="
                f"{h['level']} and bn_eps={h['bn_eps']}"
            )
        if name == "vectors":
            return [to_tensorflow(state, TENSORFLOW)], {}
        if name not in ("mean", "attend"):
            raise ValueError(f"no published two-branch network has text={name}")
        options = {"word_embedding_reg": (h["text"] or {}).get("word_reg", 0.0)}
        return [{theirs: state[ours] for theirs, ours in PORT.items() if ours in state}], options


TENSORFLOW = {
    ours: theirs
    for side, name in (("image", "im_embed"), ("sentence", "sent_embed"))
    for ours, theirs in [
        *dense(f"{side}.first", f"{name}_1").items(),
        *linear(f"{side}.second", f"{name}_2").items(),
    ]
}
"""Our tensor name -> the variable of the authors' TensorFlow code (lwwang/Two_branch_network)."""

PORT = {
    "words.weight": "text.embed.weight",
    "word_attention.0.weight": "text.weigh.weight",
    "word_attention.0.bias": "text.weigh.bias",
} | {
    f"{theirs}_branch.{layer}.{name}": f"{ours}.{part}.{name}"
    for theirs, ours in (("image", "image"), ("text", "sentence"))
    for layer, part, names in (
        ("fc1.0", "first.linear", "weight bias"),
        ("fc1.1", "first.norm", "weight bias running_mean running_var num_batches_tracked"),
        ("fc2", "second", "weight bias"),
    )
    for name in names.split()
}
"""Tensor of the PyTorch port (BryanPlummer/two_branch_networks) -> our name."""


def published(
    states: list[dict[str, Tensor]], options: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
    """Constructor arguments and weights of an original checkpoint, or None if it is none.

    Three layouts are known: the authors' TensorFlow variables, and PyTorch ports with and without
    word vectors. The option "word_embedding_reg" (5e-5 in the port) pulls word vectors towards the
    published ones in further training.
    """
    if len(states) != 1:
        return None
    state = states[0]
    if "sent_embed_1/fc/weights" in state:
        tensors = from_tensorflow(state, TENSORFLOW)
        text, norm = "vectors", {}
    elif "text_branch.fc1.0.weight" in state:
        tensors = {PORT.get(name, name): value for name, value in state.items()}
        words = "attend" if "word_attention.0.weight" in state else "mean"
        text = words if "words.weight" in state else "vectors"
        norm = {"bn_momentum": 0.1, "bn_biased": False, "text_lr_scale": 2.0}
    else:
        return None
    hidden, img_dim = tensors["image.first.linear.weight"].shape
    arguments: dict[str, Any] = {
        "img_dim": img_dim,
        "hidden_dim": hidden,
        "embed_dim": len(tensors["image.second.bias"]),
        "text": {"name": text},
        **norm,
    }
    if text == "vectors":
        arguments["sentence_dim"] = tensors["sentence.first.linear.weight"].shape[1]
    else:
        vocab_size, word_dim = tensors["text.embed.weight"].shape
        arguments |= {"vocab_size": vocab_size, "word_dim": word_dim}
        if word_reg := options.get("word_embedding_reg"):
            arguments["text"]["word_reg"] = word_reg
            tensors["text.initial"] = tensors["text.embed.weight"].clone()
    return arguments, tensors
