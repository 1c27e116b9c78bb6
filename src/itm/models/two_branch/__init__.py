"""The two-branch embedding and similarity networks (Wang et al., TPAMI 2019)."""

from itm.models.two_branch.embedding import TwoBranchEmbedding
from itm.models.two_branch.similarity import TwoBranchSimilarity

__all__ = ["TwoBranchEmbedding", "TwoBranchSimilarity"]
