"""Understanding a binary network: what its bits, gates, filters and activations do, and what it costs.

    for row in bbg.analysis.weight_entropy(model):
        print(row.name, row.layer, row.least)

Every function takes any torch module and looks at the binary layers (bbg.layers) inside it, by the names that
`model.named_modules()` gives them; a network without any gives empty answers. What is a sign, a threshold or a scale
is asked of the layer's own binarizers. No function changes the model.
"""

from __future__ import annotations

from bbg.analysis.activity import Activity, activity
from bbg.analysis.costs import Cost, Summary, costs
from bbg.analysis.plots import histograms
from bbg.analysis.weights import Entropy, Gates, binary_layers, flips, gates, signs, weight_entropy

__all__ = [
    "Activity",
    "Cost",
    "Entropy",
    "Gates",
    "Summary",
    "activity",
    "binary_layers",
    "costs",
    "flips",
    "gates",
    "histograms",
    "signs",
    "weight_entropy",
]
