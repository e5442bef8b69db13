"""An annotation of Pascal VOC: the boxes of one image, out of an XML file that may be a stranger's.

The file is read by expat, an event at a time. A document type, which is where entities are declared, is refused, and so
are elements deeper than DEEP: no annotation has either, and both are how XML exhausts its reader.
"""

from __future__ import annotations

from pathlib import Path
from xml.parsers import expat

from bbg.data.layout import Annotated
from bbg.errors import BbgError, first_line
from bbg.reading import contents

LARGEST, DEEP = 4 * 2**20, 16  # bytes of a file, elements in each other
SIDES = ("xmin", "ymin", "xmax", "ymax")
OBJECT = ("annotation", "object")


def read_annotation(path: Path) -> list[Annotated]:
    """The objects of the annotation at `path`; BbgError, which does not name the file, where it is none.

    `truncated` and `occluded` objects are as any others; parts of objects are left aside.
    """
    try:
        return _Reader().read(contents(path, LARGEST))
    except OSError as error:
        raise BbgError(f"cannot be read ({error.strerror})") from error
    except expat.ExpatError as error:
        raise BbgError(f"is no sound XML ({first_line(error)})") from error
    except (ValueError, LookupError) as error:  # of an encoding that is unknown
        if isinstance(error, BbgError):
            raise
        raise BbgError(f"is no sound XML ({first_line(error)})") from error


class _Reader:
    def __init__(self) -> None:
        self.path: list[str] = []
        self.text: list[str] = []
        self.fields: dict[str, str] = {}
        self.found: list[Annotated] = []

    def read(self, data: bytes) -> list[Annotated]:
        parser = expat.ParserCreate()
        parser.StartDoctypeDeclHandler = self._refuse
        parser.StartElementHandler, parser.EndElementHandler = self._begin, self._end
        parser.CharacterDataHandler = self.text.append
        parser.Parse(data, True)
        return self.found

    def _refuse(self, *_: object) -> None:
        raise BbgError("has a document type, which no annotation has and bbg does not read; remove it")

    def _begin(self, name: str, _: dict[str, str]) -> None:
        self.path.append(name)
        if self.path[0] != OBJECT[0]:
            raise BbgError(f"is no annotation: its first element is {name!r:.40}, not 'annotation'")
        if len(self.path) > DEEP:
            raise BbgError(f"has elements deeper than {DEEP}; give an annotation of Pascal VOC")
        self.text.clear()
        if tuple(self.path) == OBJECT:
            self.fields = {}

    def _end(self, name: str) -> None:
        place = tuple(self.path)
        if place[:2] == OBJECT and (len(place) == 3 or place[2:3] == ("bndbox",)):
            self.fields.setdefault(name, "".join(self.text).strip())
        elif place == OBJECT:
            self.found.append(_object(self.fields))
        self.text.clear()
        self.path.pop()


def _object(fields: dict[str, str]) -> Annotated:
    name, difficult = fields.get("name", ""), fields.get("difficult", "0") in ("1", "true", "True")
    try:
        left, top, right, bottom = (float(fields[side]) for side in SIDES)
    except (KeyError, ValueError):
        return Annotated(name, difficult=difficult, problem="has no four numbers")
    return Annotated(name, (left, top, right, bottom), difficult, first=1)
