"""Every public class of the library has an example that runs."""

import doctest
import importlib
import inspect

import pytest

# Packages whose classes users call, and modules that docs/from_python.md imports from.
PACKAGES = (
    "batch", "data", "index", "layers", "losses", "matcher", "metrics", "models", "phrases",
    "relevance", "scenes", "text", "training.optim",
)  # fmt: skip
# Whose example is in the docstring of another class or of the package.
ELSEWHERE = {
    "itm.batch.Pairs": "itm.data.RegionDataModule",
    "itm.index.Hit": "itm.index",
    "itm.index.Index": "itm.index",
    "itm.matcher.Matcher": "itm.matcher",
    "itm.metrics.Bank": "itm.metrics",
    "itm.metrics.Reranked": "itm.metrics",
    "itm.relevance.CiderIndex": "itm.relevance",
}


def public_classes():
    for package in PACKAGES:
        module = importlib.import_module(f"itm.{package}")
        names = getattr(module, "__all__", None) or [n for n in vars(module) if n[0].isupper()]
        for name in sorted(names):
            value = getattr(module, name)
            own = inspect.isclass(value) and value.__module__.startswith(f"itm.{package}")
            if own and f"{module.__name__}.{name}" not in ELSEWHERE:
                yield pytest.param(value, id=f"{package}.{name}")
    for name in ("itm.index", "itm.matcher", "itm.metrics", "itm.relevance"):
        yield pytest.param(importlib.import_module(name), id=name)


@pytest.mark.parametrize("kind", list(public_classes()))
def test_the_example_of_a_class_runs(kind, monkeypatch, tmp_path_factory):
    monkeypatch.setenv("ITM_CACHE", str(tmp_path_factory.getbasetemp() / "examples"))
    finder = doctest.DocTestFinder(recurse=False)
    (test,) = finder.find(kind, kind.__name__, globs={kind.__name__: kind})
    assert test.examples, f"{kind.__name__} has no example"
    assert doctest.DocTestRunner().run(test).failed == 0


def test_classes_without_a_runnable_example():
    """A hub name needs a download; its class is tested with a small transformer elsewhere."""
    skipped = [
        parameter.values[0].__name__
        for parameter in public_classes()
        if "+SKIP" in parameter.values[0].__doc__
    ]
    assert skipped == ["BertText", "BertVocabulary"]
