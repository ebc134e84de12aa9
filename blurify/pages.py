"""HTML pages from the templates of this package; whatever a text holds is shown as it is."""

from __future__ import annotations

from typing import Any


def render(template: str, **content: Any) -> str:
    """Return the page that a template of `blurify/templates` makes of the content.

    >>> render("index.html", title="<b>", summary="", columns=[], texts=(), rows=[]).count("&lt;b&gt;")
    2
    """
    # PyTorch depends on it.
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("blurify"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(content)
