"""Define what a matcher asks of the data module of its trainer.

`RegionDataModule.setup` asks the trainer's module for its `DataNeeds` and hands itself over when
the word lists are made, so Python code need not repeat what model and loss read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

from itm.text.vocabulary import Tokens

if TYPE_CHECKING:
    from itm.data.module import RegionDataModule
    from itm.text.concepts import Concepts
    from itm.text.labels import Labels


class DataNeeds(NamedTuple):
    """What a matcher and its loss read.

    Attributes:
        names: "labels", "concepts" and "relevance", as in `Loading.needs`.
        sentences: captions per image in a batch.
        vectors: whether the text encoder reads sentence vectors.
        vocab: the matcher's vocabulary; None = the data module makes one.
        labels: the matcher's label vocabulary, or None.
        concepts: the matcher's concept vocabulary, or None.
    """

    names: frozenset[str] = frozenset()
    sentences: int = 1
    vectors: bool = False
    vocab: Tokens | None = None
    labels: Labels | None = None
    concepts: Concepts | None = None


@runtime_checkable
class DataUser(Protocol):
    """A Lightning module that states its needs and takes what it needs; every `Matcher` is one."""

    def data_needs(self, stage: str | None) -> DataNeeds:
        """Return the needs in a stage: "fit", "validate", "test", "predict" or None."""
        ...

    def take_data(self, data: RegionDataModule, stage: str | None) -> None:
        """Take word lists and sizes from a data module that is set up."""
        ...


def find_user(trainer: Any) -> DataUser | None:
    """Return the module of a trainer if it states its needs, else None."""
    module = None if trainer is None else trainer.lightning_module
    return module if isinstance(module, DataUser) else None


def adopt(data: RegionDataModule, needs: DataNeeds) -> None:
    """Add the needs of a matcher to the options of a data module.

    Word lists that the matcher already has are kept, because its weights only make sense with
    them. If the data module was given a file for such a list, the two are compared later.
    """
    before = set(data.needs), data.vectors, _lists(data)
    data.needs = sorted({*data.needs, *needs.names})
    data.sentences = needs.sentences if data.sentences == 1 else data.sentences
    data.vectors = data.vectors or needs.vectors
    if data.vocab is None:
        data.vocabulary = _preferred(needs.vocab, data.vocabulary)
    if data.labels is None:
        data.label_vocabulary = _preferred(needs.labels, data.label_vocabulary)
    if data.concepts is None:
        data.concept_vocabulary = _preferred(needs.concepts, data.concept_vocabulary)
    if before != (set(data.needs), data.vectors, _lists(data)):
        data.forget_readers()


def _lists(data: RegionDataModule) -> list[int]:
    return [id(x) for x in (data.vocabulary, data.label_vocabulary, data.concept_vocabulary)]


def same_words(mine: Any, other: Any) -> bool:
    """Tell whether two word lists have the same content, whatever their file or tagger."""
    return mine is other or content(mine.state()) == content(other.state())


def content(state: dict[str, Any]) -> dict[str, Any]:
    """Return the state of a word list without the name of the file or tagger it came from."""
    return {key: value for key, value in state.items() if key != "source"}


def _preferred(own: Any, here: Any) -> Any:
    """Return the matcher's own word list, or the one that is here if it has none or the same."""
    if own is None or (here is not None and same_words(here, own)):
        return here
    return own
