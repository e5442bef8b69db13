"""Benchmarks. Each is a module of this package, run from the root of the checkout: `python -m bench.kernels`.

A benchmark owns two functions: `rows(arguments)` measures and returns what is written to bench/results/NAME.json,
`render(result)` makes a section of docs/results.md of that file. To add one, write its file and name it here.
"""

# In the order of the page.
BENCHMARKS = (
    "kernels",
    "layers",
    "runtimes",
    "eight_bits",
    "eight_bit_accuracy",
    "mixed",
    "plans",
    "torchvision_networks",
    "training",
    "finetuning",
    "generality",
    "ranges",
    "decoding",
    "predict",
    "sizes",
    "footprint",
    "larq_engine",
    "bnn_lab",
    "detectors",
    "detection_agreement",
    "ssd300",
    "predict_boxes",
    "scoring",
)

# Not among those that `python -m bench` runs: they need a folder of data or of trainings, or take hours.
BY_NAME = (
    "detection_agreement",
    "detectors",
    "eight_bit_accuracy",
    "finetuning",
    "generality",
    "mixed",
    "plans",
    "predict_boxes",
    "scoring",
    "ssd300",
)
