"""The formats of images that are decoded: Pillow's name of each, and the endings that its files have in a folder.

Pillow knows some forty more. Among them are formats that start other programs (EPS), and rare ones that few people
test.
"""

FORMATS = {
    "BMP": (".bmp",),
    "GIF": (".gif",),
    "JPEG": (".jpeg", ".jpg"),
    "PNG": (".png",),
    "PPM": (".pgm", ".ppm"),
    "TIFF": (".tif", ".tiff"),
    "WEBP": (".webp",),
}
