"""The formats of images that are decoded: Pillow's name of each, and the endings that its files have in a folder.

Pillow knows some forty more. Among them are formats that start other programs (EPS), and rare ones that few people
test.
"""

MAX_PIXELS = 80_000_000  # of a picture or a frame; below Pillow's own limit for a "decompression bomb"
FORMATS = {
    "BMP": (".bmp",),
    "GIF": (".gif",),
    "JPEG": (".jpeg", ".jpg"),
    "PNG": (".png",),
    "PPM": (".pgm", ".ppm"),
    "TIFF": (".tif", ".tiff"),
    "WEBP": (".webp",),
}
