"""JSON files with one thing wrong: every key left out, and every value replaced by others."""

import json

DEEP, LARGE, LONG = "@deep@", "@large@", "x" * 100_000
VALUES = (None, [], {}, [{}], -1, 0, 0.5, 10**30, float("nan"), LARGE, True, "x", "", LONG, DEEP)
WHOLE = ["", "{", "null", "[]", "{}", "[1]", "[null]", "5", '"x"', "NaN", "\0", "[" * 100_000, '{"a":' * 9999]


def mutations(value, most=4):
    """(what was changed, the text of the file) for keys and first items, `most` levels deep.

    All keys of the whole, and eight of each object in it.
    """
    for text in WHOLE:
        yield text[:20], text
    for path in _paths(value, most):
        for new in (..., *VALUES):
            changed = json.loads(json.dumps(value))
            owner = changed
            for key in path[:-1]:
                owner = owner[key]
            if new is ...:
                del owner[path[-1]]
            else:
                owner[path[-1]] = new
            text = json.dumps(changed).replace(f'"{LARGE}"', "1e400")
            yield f"{path} = {str(new)[:20]}", text.replace(f'"{DEEP}"', "[" * 5000 + "]" * 5000)


def _paths(value, most, top=True):
    if not most or not isinstance(value, dict | list):
        return
    for key in list(value)[: 99 if top else 8] if isinstance(value, dict) else range(min(1, len(value))):
        yield (key,)
        for path in _paths(value[key], most - 1, top=False):
            yield (key, *path)
