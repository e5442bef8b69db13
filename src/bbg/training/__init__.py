"""Training: the loop, its schedule, its checkpoints, and the tasks that it trains for."""

import os

from bbg.environment import import_matplotlib

if "MPLBACKEND" in os.environ:  # lightning_fabric imports what imports matplotlib, which the variable may forbid
    import_matplotlib()
