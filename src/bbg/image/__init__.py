"""Images: the one decoder, and the one preprocessing of training, evaluation and prediction (Pillow, no torch)."""

from __future__ import annotations

from bbg.image.decoder import Source, image_size, load_image, reason_of
from bbg.image.mask import load_mask
from bbg.image.preprocess import DECODE, PRESETS, Preprocess, plain

__all__ = ["DECODE", "PRESETS", "Preprocess", "Source", "image_size", "load_image", "load_mask", "plain", "reason_of"]
