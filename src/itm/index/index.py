"""Search one query at a time: a sentence -> images, an image -> captions.

Every image and caption is encoded once. A query finds candidates by the dot product of global
vectors, and the candidates are scored exactly by the matcher's own `similarity`:

- matchers that rank by vectors (VSRN, CVSE, the embedding network) need only `top` candidates,
  found among all vectors or, if there are many, by FAISS;
- the others (SCAN, SGRAF, CASC, the similarity network) score all items or, if there are many, the
  `shortlist` nearest ones by the global vector or by the normalised mean of regions and words.
"""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from itm.batch import Chunk
from itm.data.fingerprint import feature_digest
from itm.data.layout import Features, Split
from itm.index.encodings import caption_groups, shelve, shelve_images
from itm.index.files import Sides, mapped_files, read_index, write_index
from itm.index.nearest import Nearest, check_kind, largest
from itm.layers.functional import global_vector
from itm.layers.text import as_text_encoder
from itm.matcher.inputs import caption_batches, check_captions, check_features, image_batches
from itm.matcher.matcher import Matcher
from itm.matcher.weight_identity import same_weights, weight_sample
from itm.utils.changes import check_unchanged
from itm.utils.rows import check_rows, to_array

if TYPE_CHECKING:
    from itm.data.module import RegionDataModule

TOP = 10  # results of a query, unless told otherwise


class Hit(NamedTuple):
    """One result.

    Attributes:
        item: the image's id, or the caption.
        score: the matcher's similarity, larger = better.
    """

    item: Any
    score: float


class Index:
    """Images and captions ready for single queries.

    Args:
        matcher: any matcher; it encodes and scores in eval mode.
        features: (N, R, F) or (N, F) array or memory map, a list of (R_i, F), or a `Split` or data
            module (its test split), which brings ids and captions; None for captions alone.
        ids: N different names or numbers of the images; None = 0 to N-1.
        captions: M sentences, or an (M, F) array of sentence vectors for `text=vectors`; None for
            images alone.
        kind: how vectors are searched: "flat" exactly, "ivf" or "hnsw" approximately with FAISS;
            None = by their number.
        shortlist: number of candidates that are scored per query, at most, by a matcher that does
            not rank by vectors.
        batch_size: number of items that are encoded at once.

    Raises:
        ImportError: `kind` needs FAISS, which is not installed.
        ValueError: there is nothing to index, or the ids do not fit.
    """

    def __init__(
        self,
        matcher: Matcher,
        features: Features | Split | RegionDataModule | None = None,
        ids: Sequence[str | int] | None = None,
        captions: Sequence[str] | np.ndarray | None = None,
        *,
        kind: str | None = None,
        shortlist: int = 2000,
        batch_size: int = 128,
    ):
        split = getattr(features, "test_split", features)
        texts = captions
        if isinstance(split, Split):
            features, ids = split.view(), split.ids if ids is None else ids
            if captions is None:
                vectors = as_text_encoder(matcher.text).needs_vectors
                texts = split.captions
                captions = split.sentence_vectors() if vectors else texts
        if features is not None:
            check_features(features, matcher)  # type: ignore[arg-type]
        if captions is not None:
            check_captions(captions)
        if ids is not None:
            if features is None:
                raise ValueError("ids name images: give them with features=..., or leave them out")
            check_rows("ids", ids, "a list of different names or numbers, one per image")
        given: list[Any] = [side for side in (features, captions) if side is not None]
        if not given or not all(map(len, given)):
            raise ValueError("give images (features=...), captions, or both: nothing to index")
        if shortlist < 1:
            raise ValueError(f"shortlist={shortlist} must be at least 1")
        check_kind(kind)  # like ids and captions, before items are encoded for hours
        words = None if captions is None else caption_groups(matcher, captions, batch_size)
        sides: Sides = {}
        if features is not None:
            count = len(features)  # type: ignore[arg-type]
            names = _plain_ids(range(count) if ids is None else ids, count)
            sides["images"] = shelve_images(matcher, features, batch_size), names  # type: ignore
        if words is not None:
            assert texts is not None
            items = [x if isinstance(x, str) else row for row, x in enumerate(texts)]
            sides["captions"] = shelve(matcher, words), items
        nearest = {name: Nearest(shelf.vectors, kind) for name, (shelf, _) in sides.items()}
        digest = feature_digest(split) if isinstance(split, Split) else None
        self._set(matcher, sides, nearest, shortlist, digest)

    def _set(
        self,
        matcher: Matcher,
        sides: Sides,
        nearest: dict[str, Nearest],
        shortlist: int,
        digest: str | None,
    ) -> None:
        self.matcher = matcher
        self.digest = digest  # of the features of a split, to notice other ones
        self._weights = weight_sample(matcher)
        self.shortlist = shortlist
        self._shelves = {name: shelf for name, (shelf, _) in sides.items()}
        self._items = {name: items for name, (_, items) in sides.items()}
        self._nearest = nearest
        self._files = mapped_files(None)
        self._row = {name: row for row, name in enumerate(self.ids)}

    @property
    def ids(self) -> list[Any]:
        """Ids of the images."""
        return self._items.get("images", [])

    @property
    def captions(self) -> list[Any]:
        """The captions; row numbers where sentence vectors were given."""
        return self._items.get("captions", [])

    @property
    def kinds(self) -> dict[str, str]:
        """How the vectors of each side are searched: "flat", "ivf" or "hnsw"."""
        return {name: nearest.kind for name, nearest in self._nearest.items()}

    # Queries ----------------------------------------------------------------------------------

    def search(
        self,
        sentence: str | np.ndarray | None = None,
        top: int = TOP,
        *,
        image: Any = None,
        features: np.ndarray | None = None,
        exact: bool = False,
        k: int | None = None,
    ) -> list[Hit]:
        """Find the best images for a sentence, or the best captions for an image.

        Args:
            sentence: a sentence, or its vector (F,) for `text=vectors`.
            top: number of results, at most.
            image: instead of a sentence, the id of an indexed image.
            features: instead of a sentence, the features (R, F) of any image.
            exact: score everything, without shortlist and approximate index.
            k: the old name of `top`.

        Returns:
            The best first; of scores that are equal but for rounding, the first row first.

        Raises:
            KeyError: no image has this id.
            ValueError: not exactly one query, `top` below 1, a sentence of which no token is left
                (unknown words are tokens in most vocabularies), images or captions that are not
                indexed, other weights than those that encoded the items, or a score that is NaN.
        """
        top = _renamed("search", top, k)
        if isinstance(top, bool) or not isinstance(top, int | np.integer):
            raise ValueError(f"top must be a whole number, got {top!r}")
        given = [x is not None for x in (sentence, image, features)]
        if sum(given) != 1 or top < 1:
            raise ValueError("give one of sentence, image=ID and features=..., and top=1 or more")
        top = int(top)  # FAISS takes no numbers of numpy
        if sentence is not None:
            return self._find("images", self._encode_sentence(sentence), top, exact)
        query = self._stored(image) if features is None else self._encode_features(features)
        return self._find("captions", query, top, exact)

    def recall(
        self,
        sentences: Sequence[str] = (),
        images: Sequence[Any] = (),
        top: int = TOP,
        *,
        k: int | None = None,
    ) -> float:
        """Measure the share of the exact best results that `search` finds, averaged over queries.

        It is 1 if nothing is approximate; results that FAISS or the shortlist miss lower it.

        Args:
            sentences: queries for images.
            images: ids of indexed images, queries for captions.
            top: number of results per query that count.
            k: the old name of `top`.

        Raises:
            TypeError: sentences or images are one string, not a list.
            ValueError: there are no queries, or as in `search`.
        """
        top = _renamed("recall", top, k)
        for name, given in (("sentences", sentences), ("images", images)):
            if isinstance(given, str):
                raise TypeError(f"{name} must be a list of queries, got the string {given!r}")
        queries = [{"sentence": x} for x in sentences] + [{"image": x} for x in images]
        if not queries:
            raise ValueError("recall needs queries: sentences or ids of images")
        found = []
        for query in queries:
            best = self.search(**query, top=top, exact=True)
            # By score, since captions may repeat and equal scores may come in any order.
            least = best[-1].score - 1e-5 * max(1.0, abs(best[-1].score))
            mine = self.search(**query, top=top)
            found.append(sum(hit.score >= least for hit in mine) / len(best))
        return float(np.mean(found))

    def _find(self, side: str, query: Chunk, top: int, exact: bool) -> list[Hit]:
        """Find candidates by their vectors, then score them exactly."""
        if side not in self._shelves:
            raise ValueError(f"this index holds no {side}: build it with {side} to search them")
        shelf, nearest = self._shelves[side], self._nearest[side]
        check_unchanged(self._files)  # a mapped file that shrank would end the process
        vector = global_vector(query[0]).float()[0]
        if not torch.isfinite(vector).all():
            where = f" in {min(self._files).parent}" if self._files else ""
            raise ValueError(f"a query's encoding is NaN or infinite: broken weights{where}?")
        self._check_weights()
        count = top if self.matcher.ranks_by_vectors else max(top, self.shortlist)
        every = not self.matcher.ranks_by_vectors and (exact or len(shelf) <= count)
        rows = None if every else nearest.find(vector, count, exact).sort().values
        items = list(shelf.take(rows))
        sides = (items, [query]) if side == "images" else ([query], items)
        scores = torch.from_numpy(self.matcher.score_encoded(*sides)).flatten()
        if missing := int(scores.isnan().sum()):
            raise ValueError(
                f"the matcher scores {missing} of {len(scores)} {side} as NaN: does its similarity "
                "divide by zero, or are its weights broken?"
            )
        return [
            Hit(self._items[side][int(i if rows is None else rows[i])], float(scores[i]))
            for i in largest(scores, top)
        ]

    def _check_weights(self) -> None:
        """Raise ValueError if queries would be encoded with other weights than the items."""
        if not same_weights(self.matcher, self._weights):
            raise ValueError(
                "the weights of the matcher have changed since it encoded the items of this index: "
                "build the index again"
            )

    def _encode_sentence(self, sentence: str | np.ndarray | Tensor) -> Chunk:
        if isinstance(sentence, np.ndarray | Tensor):
            sentence = to_array(sentence)
            return self.matcher.encode(caption_batches(self.matcher, sentence[None], 1))[0]
        if not isinstance(sentence, str):
            kind = type(sentence).__name__
            raise ValueError(f"a query must be one sentence, got a {kind}: search them one by one")
        if not sentence.strip():
            raise ValueError("the query is empty; give a sentence such as 'a red ball'")
        batch = next(caption_batches(self.matcher, [sentence], 1))
        if not batch.lengths[0]:
            raise ValueError(f"the matcher knows no word of {sentence!r}")
        return self.matcher.encode([batch])[0]

    def _encode_features(self, features: np.ndarray) -> Chunk:
        features = to_array(features)
        if features.ndim == 1:
            check_features([features], self.matcher)
            features = features[None]
        if features.dtype.kind == "f" and not np.isfinite(features).all():
            raise ValueError("the image's features hold NaN or infinite values")
        expected = self.matcher.hparams.get("img_dim", features.shape[-1])
        if features.ndim != 2 or features.shape[1] != expected:
            raise ValueError(f"features are {features.shape}, expected (regions, {expected})")
        return self.matcher.encode(image_batches(features[None], 1))[0]

    def _stored(self, image: Any) -> Chunk:
        """Take the encoding of an indexed image."""
        if not isinstance(image, Hashable):  # such as the features of an image, or a list of ids
            kind = type(image).__name__
            raise ValueError(f"image= is one id, got a {kind}: give features with features=...")
        if image not in self._row:
            some = ", ".join(map(repr, self.ids[:3]))
            raise KeyError(f"no image {image!r} among {len(self.ids)} ({some}, ...)")
        return next(self._shelves["images"].take(torch.tensor([self._row[image]])))

    # Folders ----------------------------------------------------------------------------------

    def save(self, folder: str | Path) -> Path:
        """Write the index and its matcher: tensors, FAISS files and JSON, no pickles.

        An earlier index is replaced as a whole. If files of others have these names, the index goes
        into the subfolder `index`, with a warning; its path is returned.

        Raises:
            TakenError: the folder and its subfolder hold such files.
            OSError: the folder cannot be written.
            ValueError: the weights of the matcher have changed since it encoded the items.
        """
        self._check_weights()
        sides = {name: (shelf, self._items[name]) for name, shelf in self._shelves.items()}
        return write_index(
            Path(folder).expanduser(),
            self.matcher,
            sides,
            self._nearest,
            self.shortlist,
            self.digest,
        )

    @classmethod
    def load(
        cls, folder: str | Path, *, device: str = "cpu", model_class: str | None = None
    ) -> Index:
        """Read the index that `save` wrote, its encodings memory-mapped.

        Args:
            folder: where the index was saved.
            device: of the matcher.
            model_class: dotted name of your own matcher, as in `itm.load`.

        Raises:
            FileNotFoundError: no index there.
            ValueError: files are damaged or contradict each other.
        """
        index = cls.__new__(cls)
        folder = Path(folder).expanduser()
        files = mapped_files(folder)
        index._set(*read_index(folder, device, model_class))
        index._files = files
        return index


def _plain_ids(ids: Sequence[str | int], count: int) -> list[str | int]:
    """Return the ids of `count` images as strings and numbers that JSON can hold.

    Raises:
        ValueError: an id is something else, or the images do not have as many different ids.
    """
    names = [x.item() if isinstance(x, np.generic) else x for x in ids]
    if wrong := [x for x in names if type(x) not in (str, int)]:
        raise ValueError(f"ids must be strings or whole numbers, got {wrong[0]!r}")
    different = len(set(names))
    if not count == len(names) == different:
        raise ValueError(
            f"{count} images need as many different ids, got {len(names)} ids, {different} of them "
            "different"
        )
    return names


def _renamed(method: str, top: int, k: int | None) -> int:
    """Accept `k`, the former name of `top` in Python.

    Raises:
        TypeError: both are given.
    """
    if k is None:
        return top
    if top != TOP:
        raise TypeError(f"Index.{method} got top={top} and k={k}, its former name: give top alone")
    note = f"Index.{method}(k={k}) is now called Index.{method}(top={k}), as on the command line"
    warnings.warn(note, FutureWarning, stacklevel=3)
    return k
