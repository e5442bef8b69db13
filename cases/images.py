"""Images as cameras take them, made by a formula: no photograph has to be shipped or downloaded."""

from __future__ import annotations

import numpy as np

# How much the three colours of a pixel move together. In photographs most of a pixel's variance is brightness, less is
# blue against yellow, least red against green (Ruderman, Cronin and Chiao, 1998).
COLOURS = np.array([[1.0, 0.20, 0.06], [1.0, 0.03, -0.12], [1.0, -0.23, 0.06]])


def photographs(side: int, count: int = 8, seed: int = 0) -> np.ndarray:
    """Images with the statistics of photographs, uint8 `[count, side, side, 3]`; the same for the same arguments.

    The amplitude spectrum of photographs falls with frequency about as `1 / f` (Field, 1987), a little faster through a
    lens. White noise is given such a spectrum:

        image = inverse FFT( FFT(noise) / f^1.2 ),   f = sqrt(fx^2 + fy^2)

    Neighbouring pixels are then alike, at every scale. The first half of the images is of one scene, the second of
    another: a scene has its own mean colour. The contrast is such that few pixels are clipped.
    """
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal((count, 3, side, side))
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None, :])
    frequency[0, 0] = np.inf  # the mean is set below
    waves = np.fft.irfft2(np.fft.rfft2(noise) / frequency**1.2, s=(side, side))
    waves /= waves.std(axis=(2, 3), keepdims=True)
    pixels = np.einsum("pc,ncyx->nyxp", COLOURS, waves)
    colour = rng.uniform(80, 160, (2, 3))[np.arange(count) * 2 // count]
    return np.clip(np.rint(colour[:, None, None] + 45 * pixels), 0, 255).astype(np.uint8)
