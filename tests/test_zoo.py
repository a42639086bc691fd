"""docs/zoo.md: every model stands in it, with the parameters it has and that are published."""

from __future__ import annotations

import json
import sys

import pytest
from places import ROOT

torch = pytest.importorskip("torch")
sys.path.insert(0, str(ROOT / "benchmarks"))

ROWS = {row["model"]: row for row in json.loads((ROOT / "docs/zoo.json").read_text(encoding="utf-8"))}


def test_every_model_stands_in_the_document():
    from edgedet.models import checkpoint

    document = (ROOT / "docs/zoo.md").read_text(encoding="utf-8")
    assert list(ROWS) == checkpoint.names()
    assert all(f"| {model} |" in document for model in ROWS)


def test_the_figures_are_those_of_the_models():
    import zoo

    from edgedet.models import checkpoint

    for model in checkpoint.names():
        if ROWS[model]["gmacs"] < 5:  # counting the largest takes seconds each
            counted = zoo.counted(model)
            assert (counted.parameters, counted.gmacs) == (ROWS[model]["parameters"], ROWS[model]["gmacs"]), model


def test_counts_are_the_published_ones():
    import zoo

    for model, (parameters, gmacs) in zoo.PUBLISHED.items():
        if parameters is not None:
            assert ROWS[model]["parameters"] == pytest.approx(parameters, rel=0.02), model
        if gmacs is not None:
            assert ROWS[model]["gmacs"] == pytest.approx(gmacs, rel=0.05), model
