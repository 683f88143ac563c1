"""Reports of passes over the same tenant, told as of one. What is not here: what each of them counts."""

from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Report = TypeVar("Report", bound="DataclassInstance")


def added(earlier: Report, later: Report, **others: Any) -> Report:
    """Add two reports, field by field.

    Args:
        others: Fields that are not the sum of both.
    """
    sums = {
        one.name: getattr(earlier, one.name) + getattr(later, one.name)
        for one in fields(later)
        if one.name not in others
    }
    return replace(later, **sums, **others)
