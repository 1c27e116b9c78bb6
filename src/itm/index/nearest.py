"""Find the rows whose vectors have the largest dot products with a query.

Exactly by one product with all vectors, or approximately by an index of FAISS, which pays from some
tens of thousands of vectors on.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from itm.utils.checks import check_choice
from itm.utils.files import unfinished_beside

KINDS = ("flat", "ivf", "hnsw")
FLAT = 50_000  # vectors up to which one product with all takes milliseconds
HEADERS = {b"IwFl": "ivf", b"IHNf": "hnsw"}  # first bytes of the FAISS files that are read


def faiss_module() -> Any:
    """Import faiss.

    Raises:
        ImportError: it is not installed; the message names the extra.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # SWIG's, about its own types
            import faiss
    except ImportError as error:
        raise ImportError(
            "an approximate index needs FAISS: pip install 'itm-lightning[search]'; "
            "kind='flat' searches exactly without it"
        ) from error
    return faiss


def choose(count: int) -> str:
    """Choose a kind for so many vectors: "flat", or "ivf" for many where FAISS is installed.

    HNSW answers as fast as IVF, but one core needs about a millisecond per vector to build it.
    """
    if count <= FLAT:
        return "flat"
    try:
        faiss_module()
    except ImportError:
        return "flat"
    return "ivf"


def largest(scores: Tensor, k: int) -> Tensor:
    """Return positions of the k largest of (N,) scores, largest first; of equal ones the first."""
    k = min(k, len(scores))
    if not k:
        return torch.zeros(0, dtype=torch.long)
    least = scores.topk(k).values[-1]
    found = (scores >= least).nonzero().squeeze(1)  # more than k when the last ones are equal
    return found[scores[found].argsort(descending=True, stable=True)[:k]]


class Nearest:
    """Search among N vectors by dot product.

    Args:
        vectors: (N, D) float32.
        kind: "flat" (exact), or FAISS's "ivf" (inverted lists, Jegou et al., TPAMI 2011) or "hnsw"
            (graph, Malkov and Yashunin, TPAMI 2020); `choose(N)` when None.
        index: the FAISS index of these vectors; built when None.

    Raises:
        ImportError: "ivf" or "hnsw" without FAISS.
        ValueError: an unknown kind.
    """

    def __init__(self, vectors: Tensor, kind: str | None = None, index: Any = None):
        self.vectors = vectors
        self.kind = kind or choose(len(vectors))
        check_choice("kind", self.kind, KINDS)
        self.index = index
        if index is None and self.kind != "flat":
            self.index = build(vectors, self.kind)

    def find(self, query: Tensor, k: int, exact: bool = False) -> Tensor:
        """Return the rows (k,) of the largest dot products with a query (D,), largest first.

        All N rows when k >= N. The approximate kinds may miss some, but never return fewer rows.
        """
        if self.index is not None and not exact and k < len(self.vectors):
            found = self.index.search(query[None].numpy(), k, params=self._effort(k))[1][0]
            if found[-1] >= 0:  # FAISS fills up with -1 when it finds fewer than k
                return torch.from_numpy(found)
        return largest(self.vectors @ query, k)

    def _effort(self, k: int) -> Any:
        """Choose how much FAISS visits: a thirty-second of the lists, or a beam of several k."""
        faiss = faiss_module()
        if self.kind == "ivf":
            return faiss.SearchParametersIVF(nprobe=max(16, self.index.nlist // 32))
        return faiss.SearchParametersHNSW(efSearch=max(128, 2 * k))

    def save(self, path: Path) -> None:
        """Write the FAISS index; without one remove the file."""
        if self.index is None:
            path.unlink(missing_ok=True)
            return
        # Beside the file first: this index may be mapped from it.
        with unfinished_beside(path) as unfinished:
            try:
                faiss_module().write_index(self.index, str(unfinished))
            except RuntimeError as error:
                raise OSError(f"cannot write {path} ({error})") from error

    @classmethod
    def load(cls, path: Path, vectors: Tensor) -> Nearest:
        """Read the index that `save` wrote for these vectors; a flat one when there is no file.

        Without FAISS the search is exact, with a warning.

        Raises:
            ValueError: a file that is not a FAISS index of the two kinds, or of other vectors.
        """
        if not path.is_file():
            return cls(vectors, "flat")
        try:
            faiss = faiss_module()
        except ImportError as error:
            warnings.warn(f"{path} is not used: {error}", stacklevel=2)
            return cls(vectors, "flat")
        with path.open("rb") as file:
            kind = HEADERS.get(file.read(4))
        if kind is None:
            raise ValueError(
                f"{path}: expected a FAISS index with inverted lists or HNSW; build it again"
            )
        try:
            index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY)
        except RuntimeError as error:
            raise ValueError(f"{path} cannot be read, build it again ({error})") from error
        lists: Any = faiss.downcast_InvertedLists(index.invlists) if kind == "ivf" else None
        if getattr(lists, "filename", ""):
            raise ValueError(f"{path} points to another file, {lists.filename}; build it again")
        if (index.ntotal, index.d) != tuple(vectors.shape) or (
            index.metric_type != faiss.METRIC_INNER_PRODUCT
        ):
            raise ValueError(
                f"{path} holds {index.ntotal} vectors of width {index.d}, expected "
                f"{len(vectors)} of width {vectors.shape[1]} under dot products; build it again"
            )
        return cls(vectors, kind, index)


def build(vectors: Tensor, kind: str) -> Any:
    """Build the FAISS index "ivf" or "hnsw" of vectors (N, D) for dot products."""
    faiss = faiss_module()
    count, width = vectors.shape
    lists = max(1, min(round(2 * count**0.5), count // 40))
    name = {"ivf": f"IVF{lists},Flat", "hnsw": "HNSW32,Flat"}[kind]
    index = faiss.index_factory(width, name, faiss.METRIC_INNER_PRODUCT)
    if kind == "hnsw":
        index.hnsw.efConstruction = 80
    else:  # k-means over a sample takes seconds, over all vectors minutes
        index.cp.max_points_per_centroid, index.cp.min_points_per_centroid = 64, 1
        index.train(vectors.numpy())
    index.add(vectors.numpy())
    return index
