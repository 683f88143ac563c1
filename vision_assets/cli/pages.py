"""HTML pages that need no other file: how their templates are filled. What is not here: what stands in them."""

from jinja2 import Environment, PackageLoader, StrictUndefined
from pydantic import ByteSize


def rendered(template: str, **values: object) -> str:
    """Fill a template of this folder; every value is escaped.

    Args:
        template: The file's name.
        values: By the names in the template, all of which must be there.
    """
    environment = Environment(
        autoescape=True,
        loader=PackageLoader("vision_assets.cli", "."),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["bytes"] = lambda size: ByteSize(size).human_readable(separator=" ")
    return environment.get_template(template).render(**values)
