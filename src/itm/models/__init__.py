"""Models of image-text matching, each a `Matcher`."""

import lazy_loader

# Type checkers read __init__.pyi, which also has the signatures that they cannot see here.
__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "casc": ["CASC"],
        "chan": ["CHAN"],
        "cvse": ["CVSE"],
        "scan": ["SCAN"],
        "sgraf": ["SGRAF"],
        "two_branch": ["TwoBranchEmbedding", "TwoBranchSimilarity"],
        "vse_infty": ["VSEInfinity"],
        "vsepp": ["VSEPP"],
        "vsrn": ["VSRN"],
    },
)
