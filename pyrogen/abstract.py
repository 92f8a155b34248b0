"""Abstract classes without a metaclass, for modules: a class with an abstract method left cannot be constructed.

``abc.ABC`` does the same by a metaclass, beside which Pyro's own has no place: ``pyro.nn.module.to_pyro_module_`` would
refuse every module of such a class.
"""

from __future__ import annotations

from typing import Any


class Abstract:
    """A base whose subclasses must define what ``abc.abstractmethod`` marks, or cannot be constructed.

    Example:
        >>> from abc import abstractmethod
        >>> class Shape(Abstract):
        ...     @abstractmethod
        ...     def area(self):
        ...         "The area."
        >>> Shape()  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        TypeError: Can't instantiate abstract class Shape ...
    """

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        methods = {name: method for base in reversed(cls.__mro__) for name, method in vars(base).items()}
        abstract = (name for name, method in methods.items() if getattr(method, "__isabstractmethod__", False))
        cls.__abstractmethods__ = frozenset(abstract)
