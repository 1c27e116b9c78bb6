"""Find the rows whose vectors have the largest dot products with a query.

Exact search multiplies the query by all vectors. FAISS searches approximately, which is faster from
some tens of thousands of vectors on.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from itm.utils.checks import check_choice
from itm.utils.extras import install
from itm.utils.files import unfinished_beside

KINDS = ("flat", "ivf", "hnsw")
FLAT = 50_000  # up to this many vectors, exact search takes milliseconds
ROUNDING = 4 * torch.finfo(torch.float32).eps  # relative to the largest score
HEADERS = {b"IwFl": "ivf", b"IHNf": "hnsw"}  # first bytes of a FAISS file -> kind


def faiss_module() -> Any:
    """Import faiss.

    Raises:
        ImportError: it is not installed; the message names the extra.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of SWIG, about its types
            import faiss  # late: optional
    except ImportError as error:
        raise ImportError(
            f"an approximate index needs FAISS: {install('search')}; "
            "kind='flat' searches exactly without it"
        ) from error
    return faiss


def check_kind(kind: str | None) -> None:
    """Check a kind, or None, and that FAISS is installed if it needs it.

    Raises:
        ImportError: it needs FAISS, which is not installed.
        ValueError: the kind is unknown.
    """
    if kind is not None:
        check_choice("kind", kind, KINDS)
        if kind != "flat":
            faiss_module()


def choose(count: int) -> str:
    """Choose a kind by the number of vectors: "flat", or "ivf" for many if FAISS is installed.

    HNSW answers as fast as IVF, but takes about a millisecond per vector and core to build.
    """
    if count <= FLAT:
        return "flat"
    try:
        faiss_module()
    except ImportError:
        return "flat"
    return "ivf"


def largest(scores: Tensor, k: int) -> Tensor:
    """Return positions of the k largest of (N,) scores without NaN, largest first.

    Ties go to the first. Two neighbours in the order tie if they differ by at most `ROUNDING`,
    because some processors round the scores of copies differently.
    """
    k = min(k, len(scores))
    if not k:
        return torch.zeros(0, dtype=torch.long)
    top = scores.topk(k).values
    slack = ROUNDING * top.abs().nan_to_num(posinf=0).max()  # of the finite ones
    found = (scores >= top[-1] - slack).nonzero().squeeze(1)  # more than k if the last ones tie
    ordered, order = scores[found].sort(descending=True)
    level = torch.zeros(len(found), dtype=torch.long)
    level[1:] = (ordered[:-1] - ordered[1:] > slack).cumsum(0)
    level[order] = level.clone()  # of each position in `found`, which are in the order of rows
    return found[level.argsort(stable=True)[:k]]


class Nearest:
    """Search among N vectors by dot product.

    Args:
        vectors: (N, D) float32.
        kind: "flat" (exact), or FAISS's "ivf" (inverted lists, Jegou et al., TPAMI 2011) or "hnsw"
            (graph, Malkov and Yashunin, TPAMI 2020); None = `choose(N)`.
        index: the FAISS index of these vectors; None = build it.

    Raises:
        ImportError: "ivf" or "hnsw" needs FAISS, which is not installed.
        ValueError: the kind is unknown.
    """

    def __init__(self, vectors: Tensor, kind: str | None = None, index: Any = None):
        check_kind(kind)
        self.vectors = vectors
        self.kind = kind or choose(len(vectors))
        self.index = index
        if index is None and self.kind != "flat":
            self.index = build(vectors, self.kind)

    def find(self, query: Tensor, k: int, exact: bool = False) -> Tensor:
        """Return the rows (k,) of the largest dot products with a query (D,), largest first.

        If k >= N, return all N rows. The approximate kinds may miss some, but never return fewer.
        """
        if self.index is not None and not exact and k < len(self.vectors):
            found = self.index.search(query[None].numpy(), k, params=self._effort(k))[1][0]
            # FAISS fills up with -1 if it finds fewer than k; a file of others may hold any number.
            if ((found >= 0) & (found < len(self.vectors))).all():
                return torch.from_numpy(found)
        return largest(self.vectors @ query, k)

    def _effort(self, k: int) -> Any:
        """Choose how much FAISS searches: a thirty-second of the lists, or a beam of width 2k."""
        faiss = faiss_module()
        if self.kind == "ivf":
            return faiss.SearchParametersIVF(nprobe=max(16, self.index.nlist // 32))
        return faiss.SearchParametersHNSW(efSearch=max(128, 2 * k))

    def save(self, path: Path) -> None:
        """Write the FAISS index; remove the file if there is none."""
        if self.index is None:
            path.unlink(missing_ok=True)
            return
        # Not in place: this index may be mapped from this file.
        with unfinished_beside(path) as unfinished:
            try:
                faiss_module().write_index(self.index, str(unfinished))
            except RuntimeError as error:
                raise OSError(f"cannot write {path} ({error})") from error

    @classmethod
    def load(cls, path: Path, vectors: Tensor) -> Nearest:
        """Read the index that `save` wrote for these vectors; without a file, search exactly.

        If FAISS is not installed, warn and search exactly.

        Raises:
            OSError: the file cannot be opened.
            ValueError: the file is not a FAISS index of the two kinds, or is one of other vectors.
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
