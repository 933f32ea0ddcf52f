"""`ImageIndex`: the images of a source of any type, with the split and the class of each.

Nothing is decoded before it is asked for.
"""

import contextlib
import dataclasses
import io
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from PIL import Image

from keras_vit.data.decoding import FORMATS, decode, fit
from keras_vit.data.layout import Item
from keras_vit.errors import InputError


@dataclasses.dataclass(frozen=True)
class ImageIndex:
    """What a source has.

    Attributes:
        source: what was given.
        labels: the class names.
        items: [Item], in the order of `layout.PARTS`.
        fingerprint: see `ImageData`.
        read: i -> the bytes of the file that item i is, or uint8 [h, w, 3]. Raises InputError.
        suggested_size: () -> the image size that suits them.
        lost: which records of a packed set were left out.
        records: [packed.Record] of a packed set, for each item; None elsewhere.
        ignored: {suffix: number} of the files of a folder or .zip that were passed over; see `ImageData`.
    """

    source: str
    labels: list
    items: list
    fingerprint: str
    read: Callable[[int], Any]
    suggested_size: Callable[[], Any]
    lost: list = dataclasses.field(default_factory=list)
    records: list | None = None
    ignored: dict = dataclasses.field(default_factory=dict)

    def picture(self, i: int, image_size: tuple[int, int] | None = None) -> np.ndarray:
        """Item i as uint8 [H, W, 3]; None leaves its size. Raises InputError."""
        return self.decoded(self.read(i), i, image_size)

    def decoded(
        self, raw: bytes | np.ndarray, i: int, image_size: tuple[int, int] | None = None
    ) -> np.ndarray:
        """The same from `raw`, what `read(i)` gave."""
        if isinstance(raw, bytes):
            return decode(raw, image_size, self.items[i].name)
        return raw if image_size is None else fit(raw, image_size)

    def complaint(self, problems: dict[int, str]) -> str:
        """What to say about {index: why it cannot be used}."""
        reasons = [problems[i].rstrip(".") for i in sorted(problems)]
        more = f"; and {len(reasons) - 5} more" if len(reasons) > 5 else ""
        return (
            f"{len(reasons)} of {len(self.items)} pictures in {self.source!r} cannot be used: "
            f"{'; '.join(reasons[:5])}{more}. Mend or delete them; --skip-bad (skip_bad=True) leaves them "
            "out."
        )

    def check_none_emptied(self, kept: Iterable[Item]) -> None:
        """Raise an InputError if a class has none left of its pictures in a split."""
        lost = {(item.label, item.split) for item in self.items} - {(item.label, item.split) for item in kept}
        if lost:
            label, split = min(lost)
            raise InputError(
                f"class {self.labels[label]!r} of {self.source!r} has no {split} pictures left without its "
                "bad ones: add good ones or delete the class."
            )


def median_size(items: Sequence[Item], read: Callable[[int], bytes]) -> int:
    """What `suggest_image_size` says, from `read(i)`, the bytes of the file of each item."""
    sides = []
    for i in np.unique(np.linspace(0, len(items) - 1, 64).astype(int)):
        # An unreadable picture has no say; reading them all names it.
        with contextlib.suppress(Exception):
            sides.append(min(Image.open(io.BytesIO(read(int(i))), formats=FORMATS).size))
    side = float(np.median(sides)) if sides else np.inf
    if side <= 16:
        return max(2, 2 * int(side / 2 + 0.5))
    if side <= 64:
        return 32 if side < 48 else 64
    return 224
