"""`open_index`: the `ImageIndex` of any source: a folder, a .zip, a packed set, a name."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from keras_vit.data import builtin, packed
from keras_vit.data.index import ImageIndex, median_size
from keras_vit.data.layout import fingerprint_of, layout
from keras_vit.data.sources import BUILT_IN, count_suffixes, is_name, open_tree


@contextlib.contextmanager
def open_index(
    source: str | Path, test_fraction: float = 0.2, seed: int = 0, skip_bad: bool = False
) -> Iterator[ImageIndex]:
    """Yield the `ImageIndex` of a source; the arguments are those of `load_data`."""
    if packed.is_packed(source):
        yield packed.open_packed(source, skip_bad)
    elif is_name(source):
        yield builtin.open_built_in(str(source), test_fraction, seed)
    else:
        with open_tree(source) as tree:
            labels, items = layout(tree, test_fraction, seed)

            def read(i):
                return tree.read(items[i].name)

            used = {item.name for item in items}
            yield ImageIndex(
                tree.source,
                labels,
                items,
                fingerprint_of(labels, items),
                read,
                lambda: median_size(items, read),
                ignored=count_suffixes([*tree.others, *(name for name in tree.files if name not in used)]),
            )


def suggest_image_size(source: str | Path) -> int:
    """The image size that suits a source, from the headers of up to 64 of its pictures.

    By the median of their shorter sides: up to 16, that (to a multiple of 2); up to 64, the
    nearer one of 32 and 64; else 224.
    """
    if isinstance(source, str) and source in BUILT_IN:
        return BUILT_IN[source]
    if packed.is_packed(source):
        return packed.read_contents(source)["suggested_image_size"]
    with open_index(source) as index:
        return index.suggested_size()
