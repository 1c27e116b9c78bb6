"""The two-branch embedding and similarity networks (Wang et al., TPAMI 2019)."""

from typing import TYPE_CHECKING

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "embedding": ["TwoBranchEmbedding"],
        "similarity": ["TwoBranchSimilarity"],
    },
)

if TYPE_CHECKING:
    from itm.models.two_branch.embedding import TwoBranchEmbedding as TwoBranchEmbedding
    from itm.models.two_branch.similarity import TwoBranchSimilarity as TwoBranchSimilarity
