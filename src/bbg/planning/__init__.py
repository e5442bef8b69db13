"""Planning: which layers of a network get 1 bit and which 8, for a budget of time or of bytes.

    plan = bbg.plan(model, data, budget="200us")
    print(plan)                                   # each layer: what a bit costs in loss, and what it saves
    mixed = bbg.binarize(model, bits=plan.bits, example=images)

For each layer that can be binary: what it takes at 8 bits and at 1 bit (costs.py), and how much the loss rises with
this layer alone at 1 bit, behind a short recovery (sensitivity.py); planner.py measures both. The frontier
(frontier.py) makes layers binary in the order of what they save per loss, and the budget says where to stop. A plan
for another budget needs no new measurements: `plan.at("100kB")`.
"""

from __future__ import annotations

from bbg.planning.frontier import Plan
from bbg.planning.planner import plan

__all__ = ["Plan", "plan"]
