"""`Mixin`: the base of classes that are mixed into a Keras model or layer.

For a type checker it has the attributes of everything, as those of what a class is mixed into are there, too.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    Mixin = Any
else:
    Mixin = object
