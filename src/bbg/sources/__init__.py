"""Sources of images: files, folders, patterns, lists, addresses, videos and cameras."""

from __future__ import annotations

from bbg.sources.find import STDIN, SUFFIXES, Image, Url, each_below, files_below, find
from bbg.sources.video import CAMERA

__all__ = ["CAMERA", "STDIN", "SUFFIXES", "Image", "Url", "each_below", "files_below", "find"]
