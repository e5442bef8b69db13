"""The keys of a small YAML file without a library for it: words, lists of words, and words by words, one level deep.

That is what the files beside labels of YOLO hold. What is more is read as words, or passed over; nothing is executed,
and the time taken grows with the file.
"""

from __future__ import annotations

import json

Value = str | list[str] | dict[str, str]


def read_keys(text: str) -> dict[str, Value]:
    """The keys at the margin of `text`, with their values."""
    found: dict[str, Value] = {}
    key, flow = "", list[str]()  # flow: the lines so far of a list that is not closed in its first line
    for line in text.splitlines():
        bare = _without_comment(line).rstrip()
        if not bare.strip() or bare in ("---", "..."):
            continue
        if flow:
            flow.append(bare.strip())
        elif bare[0] in " \t-":
            _add(found, key, bare.strip())
            continue
        else:
            name, _, value = bare.partition(":")
            key, flow = _word(name), [value.strip()]
        if flow[0][:1] not in ("[", "{") or flow[-1].endswith("]" if flow[0][0] == "[" else "}"):
            found[key] = _value(" ".join(flow))
            flow = []
    return found


def _add(found: dict[str, Value], key: str, line: str) -> None:
    """A line below `key`: of a list, or of a mapping."""
    known = found.get(key, "")
    if line == "-" or line.startswith("- "):
        if not isinstance(known, list):
            found[key] = known = []
        known.append(_word(line[1:]))
        return
    name, colon, value = line.partition(":")
    if colon:
        if not isinstance(known, dict):
            found[key] = known = {}
        known[_word(name)] = _word(value)


def _value(text: str) -> Value:
    if text[:1] == "[" and text[-1:] == "]":
        return [_word(part) for part in _parts(text[1:-1])]
    if text[:1] == "{" and text[-1:] == "}":
        pairs = (part.partition(":") for part in _parts(text[1:-1]))
        return {_word(name): _word(value) for name, colon, value in pairs if colon}
    return _word(text)


def _parts(text: str) -> list[str]:
    """What stands between the commas of a list in one line."""
    parts, part, quote = [], list[str](), ""
    for character in f"{text},":
        if character == "," and not quote:
            parts.append("".join(part).strip())
            part = []
            continue
        if quote:
            quote = "" if character == quote else quote
        elif character in "\"'" and not part:
            quote = character
        if part or not character.isspace():
            part.append(character)
    return [*filter(None, parts), *filter(None, ["".join(part)])]


def _without_comment(line: str) -> str:
    """The line up to a `#` that begins it or stands behind a space, outside of quotes."""
    quote = ""
    for place, character in enumerate(line):
        if quote:
            quote = "" if character == quote else quote
        elif character in "\"'" and (not place or line[place - 1] in " \t[{,:"):
            quote = character
        elif character == "#" and (not place or line[place - 1] in " \t"):
            return line[:place]
    return line


def _word(text: str) -> str:
    """A word without its quotes."""
    word = text.strip()
    if len(word) > 1 and word[0] == word[-1] == '"':
        try:
            return str(json.loads(word))
        except ValueError:
            return word[1:-1]
    if len(word) > 1 and word[0] == word[-1] == "'":
        return word[1:-1].replace("''", "'")
    return "" if word in ("~", "null") else word
