"""XNOR-Net (Rastegari, Ordonez, Redmon, Farhadi; arXiv 1603.05279): weights `mean|w| * sign(w)`, no shortcut.

The gradient passes the weight's `sign` where `|w| <= 1`, and `mean|w|` as written; activations: `sign(x)`, straight
through where `|x| <= 1`. The paper's second scale, one number per pixel of the activation's map, is left out: it would
be a real-valued convolution beside every binary one (and its authors' own code leaves it out too).
"""

from __future__ import annotations

from bbg.methods.base import Method, clipped
from bbg.methods.bbg import ScaledWeight, SignActivation


class ClippedWeight(ScaledWeight):
    """`mean|w| * sign(w)` per filter; the gradient passes `sign` where `|w| <= 1`."""

    gradient = staticmethod(clipped)


XNOR = Method("xnor", ClippedWeight, SignActivation, shortcut="none", act="identity")
"""The real-valued residual of a ResNet's block stays; see models/resnet.py."""
