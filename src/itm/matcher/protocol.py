"""Type what scoring, inputs, saved state and gradient caching need from a matcher.

These modules depend on this protocol, not on `itm.matcher.Matcher`, because `Matcher` is built from
them.
"""

from collections.abc import Callable, Iterator, MutableMapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from itm.batch import Captions, Encoded, Images
from itm.text.vocabulary import Tokens


class MatcherLike(Protocol):
    """A module that encodes images and captions and scores their encodings; see `Matcher`."""

    training: bool
    pending: Any
    loss: Any
    vocab: Tokens | None
    concepts: Any
    labels: Any
    trained_on: list[dict[str, Any]]
    num_regions: int | None
    needs_regions: bool
    text: Any
    memory_budget: int | None
    record: dict[str, Any]
    recorded: Tensor | None

    @property
    def device(self) -> torch.device: ...  # noqa: D102

    @property
    def dtype(self) -> torch.dtype | str: ...  # noqa: D102
    @property
    def hparams(self) -> MutableMapping[str, Any]: ...  # noqa: D102
    @property
    def label_dim(self) -> int | None: ...  # noqa: D102
    @property
    def ranks_by_vectors(self) -> bool: ...  # noqa: D102

    def encode_images(self, images: Images) -> Encoded: ...  # noqa: D102
    def encode_captions(self, captions: Captions) -> Encoded: ...  # noqa: D102
    def similarity(self, images: Encoded, captions: Encoded) -> Tensor: ...  # noqa: D102
    def uncertainty(self, encoded: Encoded) -> Tensor: ...  # noqa: D102
    def training_encoders(  # noqa: D102
        self,
    ) -> tuple[Callable[[Images], Encoded], Callable[[Captions], Encoded]]: ...
    def pair_floats(self, regions: int, words: int) -> int: ...  # noqa: D102

    def eval(self) -> Any: ...  # noqa: D102
    def train(self, mode: bool = True) -> Any: ...  # noqa: D102
    def state_dict(self) -> dict[str, Tensor]: ...  # noqa: D102
    def named_modules(self) -> Iterator[tuple[str, nn.Module]]: ...  # noqa: D102
    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]: ...  # noqa: D102
    def named_buffers(self) -> Iterator[tuple[str, Tensor]]: ...  # noqa: D102
    def transfer_batch_to_device(  # noqa: D102
        self, batch: Any, device: torch.device, dataloader_idx: int
    ) -> Any: ...
