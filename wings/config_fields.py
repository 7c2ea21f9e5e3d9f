"""`Settled`: a configuration's field that takes several types and holds one of them."""

from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    Given = TypeVar("Given", contravariant=True)
    Held = TypeVar("Held", covariant=True)

    class Settled(Generic[Given, Held]):
        """Type of a field that takes a `Given`, which is a `Held` for all who read a ready one."""

        def __get__(self, instance: object, owner: type | None = None) -> Held: ...

        def __set__(self, instance: object, value: Given) -> None: ...

else:

    class Settled:
        """Stands for the type that may be given: a dataclass reads it off the annotation."""

        def __class_getitem__(cls, types: tuple[Any, Any]) -> Any:
            return types[0]


def default(value: Any) -> Any:
    """The default of such a field; like `dataclasses.field`, it has no type of its own."""
    return value
