"""A layer that lets maps of one size through."""

from __future__ import annotations

from torch import Tensor, nn

from bbg.errors import BbgError


class FixedSize(nn.Module):
    """Gives its input `[N, C, height, width]`; BbgError where the map has another size."""

    def __init__(self, height: int, width: int) -> None:
        super().__init__()
        self.height, self.width = height, width

    def forward(self, x: Tensor) -> Tensor:
        """`x` itself."""
        if tuple(x.shape[2:]) != (self.height, self.width):
            came = " x ".join(map(str, x.shape[2:]))
            raise BbgError(
                f"images of {came}: this network decides by their size, and was binarized for {self.height} x "
                f"{self.width}; give such images, or binarize it anew with an example of that size"
            )
        return x

    def extra_repr(self) -> str:
        """The size."""
        return f"{self.height}, {self.width}"
