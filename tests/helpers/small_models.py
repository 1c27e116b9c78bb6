"""Every model in a tiny size."""

from __future__ import annotations

from itm.models import (
    CASC,
    CHAN,
    CVSE,
    SCAN,
    SGRAF,
    VSEPP,
    VSRN,
    TwoBranchEmbedding,
    TwoBranchSimilarity,
    VSEInfinity,
)
from itm.text.vocabulary import SPECIALS, Vocabulary

WORDS = Vocabulary([*SPECIALS, "a", "dog", "cat", "runs", "red"])
SMALL = {"vocab_size": len(WORDS), "img_dim": 6, "word_dim": 4, "embed_dim": 8}
BRANCH = {**SMALL, "hidden_dim": 8}

MODELS = {
    "scan_t2i": lambda **o: SCAN(**SMALL, **o),
    "scan_i2t": lambda **o: SCAN(**SMALL, direction="i2t", aggregation="LogSumExp", **o),
    "vsrn": lambda **o: VSRN(**SMALL, num_gcn=1, caption_dim=4, caption_word_dim=4, **o),
    "vsepp": lambda **o: VSEPP(**SMALL, **o),
    "vse_infty": lambda **o: VSEInfinity(**SMALL, **o),
    "pcmepp": lambda **o: VSEInfinity(**SMALL, probabilistic=True, **o),
    "sgr": lambda **o: SGRAF(**SMALL, num_regions=3, sim_dim=4, **o),
    "saf": lambda **o: SGRAF(**SMALL, num_regions=3, sim_dim=4, module="SAF", **o),
    "cvse": lambda **o: CVSE(**SMALL, num_regions=3, num_concepts=3, concept_dim=4, **o),
    "casc": lambda **o: CASC(**SMALL, num_labels=3, hidden=4, **o),
    "chan": lambda **o: CHAN(**SMALL, **o),
    "two_branch_embedding": lambda **o: TwoBranchEmbedding(**BRANCH, **o),
    "two_branch_similarity": lambda **o: TwoBranchSimilarity(**BRANCH, joint_dims=[8, 4], **o),
}
