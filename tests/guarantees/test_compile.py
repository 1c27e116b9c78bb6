"""`compile=true`: the same numbers, from graphs that are made once and used again."""

import copy
import shutil

import numpy as np
import pytest
import torch
from small_models import MODELS, WORDS

from itm.losses import Triplet

# What torch.compile warns about while it traces is its own affair.
pytestmark = pytest.mark.filterwarnings("default")

LEXICON = ["a", "dog", "cat", "runs", "red"]


class Backend:
    """Counts what it compiles and what runs; the operations themselves stay as they are."""

    def __init__(self):
        self.compiled, self.runs = 0, 0

    def __call__(self, graph, inputs):
        self.compiled += 1

        def forward(*values):
            self.runs += 1
            return graph.forward(*values)

        return forward


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield
    torch._dynamo.reset()


def built(name):
    torch.manual_seed(0)
    matcher = MODELS[name](loss=Triplet())
    matcher.vocab = WORDS
    return matcher


def batches(matcher, count=5, size=6):
    """Captions of 1 to 9 words, other lengths in every batch."""
    rng = np.random.default_rng(0)
    for _ in range(count):
        lines = [" ".join(rng.choice(LEXICON, rng.integers(1, 10))) for _ in range(size)]
        labels = rng.integers(0, 2, (size, 3)).astype(np.float32)
        features = rng.normal(size=(size, 3, 6)).astype(np.float32)
        yield matcher.pairs(features, lines, labels=labels, concepts=labels)


def steps(matcher, pairs):
    optimizer = torch.optim.SGD(matcher.parameters(), lr=0.1)
    for batch in pairs:
        torch.manual_seed(1)
        optimizer.zero_grad()
        loss = matcher.losses(batch)["total"]
        loss.backward()
        optimizer.step()
        yield loss.item()


QUICK = ("scan_t2i", "vsrn")
NAMES = [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in MODELS]


@pytest.mark.parametrize("name", NAMES)
def test_training_is_that_of_eager_and_settles(name):
    eager, compiled = built(name), built(name)
    backend = Backend()
    compiled.compile(backend=backend)
    pairs = list(batches(eager))
    first = list(steps(eager, pairs))
    made, second = [], []
    for loss in steps(compiled, pairs):
        second.append(loss)
        made.append(backend.compiled)
    np.testing.assert_allclose(second, first, rtol=1e-5)
    assert made[0] > 0
    runs = backend.runs
    list(steps(compiled, pairs))
    assert backend.runs > runs  # graphs run in every step, not in the first alone
    assert backend.compiled == made[-1]  # nothing is compiled for lengths that were seen before


@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler")
@pytest.mark.parametrize("name", ["vsrn"])
def test_what_torch_makes_of_it_trains_as_eager(name):
    """With torch's own compiler, and eager nowhere but in the GRU."""
    eager, compiled = built(name), built(name)
    torch._dynamo.config.suppress_errors = False
    compiled.compile()
    pairs = list(batches(eager, count=2))
    np.testing.assert_allclose(list(steps(compiled, pairs)), list(steps(eager, pairs)), rtol=1e-5)
    counters = torch._dynamo.utils.counters
    assert counters["stats"]["unique_graphs"] > 0 and counters["inductor"]
    assert all("RNN, GRU" in reason for reason in counters["graph_break"])  # torch's own limit


def test_scores_are_those_of_eager():
    matcher = built("scan_t2i").eval()
    rng = np.random.default_rng(0)
    features = rng.normal(size=(9, 3, 6)).astype(np.float32)
    lines = [" ".join(rng.choice(LEXICON, n)) for n in [1, 3, 3, 5, 2, 3]]
    eager = matcher.score(features, lines)
    backend = Backend()
    matcher.compile(backend=backend)
    np.testing.assert_allclose(matcher.score(features, lines), eager, atol=1e-6)
    assert backend.runs > 0


def test_a_copy_is_not_compiled():
    """Averaging copies the matcher; compiled methods of the copy would be the original's."""
    matcher = built("vsrn").eval()
    matcher.compile(backend=Backend())
    other = copy.deepcopy(matcher)
    with torch.no_grad():
        for p in other.parameters():
            p.zero_()
    batch = next(batches(matcher))
    assert not other.encode_images(batch.images).vector.any()
    assert matcher.encode_images(batch.images).vector.any()
