"""Shape annotations (`Float[Tensor, "B T N H"]`): documentation at run time, checked in tests. Not a dependency.

B batch   T time   D model width   N heads   H hidden width of a head   P projected width   K key width   V value width
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
else:
    try:
        from jaxtyping import Bool, Float, Int
    except ModuleNotFoundError:  # only the tests install jaxtyping

        class _Shaped:
            def __class_getitem__(cls, item):
                return item[0]

        Bool = Float = Int = _Shaped

__all__ = ["Bool", "Float", "Int"]
