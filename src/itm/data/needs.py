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


def adopt(data: RegionDataModule, needs: DataNeeds, stage: str | None) -> None:
    """Add the needs of a matcher to the options of a data module, in place of an earlier matcher's.

    Word lists that the matcher already has are kept, because its weights only make sense with
    them. If the data module was given a file for such a list, the two are compared later. What a
    training needs stays for the validation and test after it, so that readers are made once.
    """
    own = _own(data)
    if stage not in (None, "fit"):
        needs = needs._replace(names=needs.names | data.adopted.names)
    data.needs = sorted(own.names | needs.names)
    data.sentences = needs.sentences if own.sentences == 1 else own.sentences
    data.vectors = own.vectors or needs.vectors
    if data.vocab is None:
        data.vocabulary = _preferred(needs.vocab, own.vocab)
    if data.labels is None:
        data.label_vocabulary = _preferred(needs.labels, own.labels)
    if data.concepts is None:
        data.concept_vocabulary = _preferred(needs.concepts, own.concepts)
    data.adopted = needs._replace(
        names=needs.names - own.names,
        sentences=needs.sentences if own.sentences == 1 else 1,
        vectors=needs.vectors and not own.vectors,
        vocab=None if data.vocabulary is own.vocab else needs.vocab,
        labels=None if data.label_vocabulary is own.labels else needs.labels,
        concepts=None if data.concept_vocabulary is own.concepts else needs.concepts,
    )


def _own(data: RegionDataModule) -> DataNeeds:
    """Return the options and word lists of a data module, except those from the last matcher."""
    last = data.adopted
    return DataNeeds(
        frozenset(data.needs) - last.names,
        1 if data.sentences == last.sentences else data.sentences,
        data.vectors and not last.vectors,
        None if data.vocabulary is last.vocab else data.vocabulary,
        None if data.label_vocabulary is last.labels else data.label_vocabulary,
        None if data.concept_vocabulary is last.concepts else data.concept_vocabulary,
    )


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
