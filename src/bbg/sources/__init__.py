"""Sources of images: files, folders, patterns, lists, addresses, videos and cameras."""

from __future__ import annotations

from bbg.sources.find import SUFFIXES, Image, Url, files_below, find
from bbg.sources.video import CAMERA

__all__ = ["CAMERA", "SUFFIXES", "Image", "Url", "files_below", "find"]
