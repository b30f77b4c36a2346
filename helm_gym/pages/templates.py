"""The one template environment: Markdown pages are written as they are, HTML pages are escaped."""

from __future__ import annotations

import importlib.util
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from helm_gym.errors import ConfigError
from helm_gym.files import replacing
from helm_gym.pages.table import md_cell, md_cells, with_interval
from helm_gym.store import writing

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

NEEDED = {"matplotlib": "matplotlib", "jinja2": "Jinja2"}


def check_installed() -> None:
    """Say how to install what pages need, before any time is spent.

    Raises:
        ConfigError: a package is missing.
    """
    missing = [name for module, name in NEEDED.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise ConfigError(
            f"the report needs {' and '.join(missing)}: pip install 'helm-gym[report]'"
        )


def render(template: str, /, **values: Any) -> str:
    """Fill in one of the package's templates.

    Text is escaped in ``*.html.j2``. In ``*.md.j2`` the filters ``cell`` (one text) and ``cells``
    (a line of a table) keep a name from breaking the page or adding HTML to it.

    Args:
        template: name of the file in ``templates/``, such as ``atlas.md.j2``.
        values: what the template names; one that is missing raises.
    """
    return _environment().get_template(template).render(**values).rstrip() + "\n"


@cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("helm_gym.pages"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=lambda name: name is not None and name.endswith(".html.j2"),
    )
    environment.filters |= {
        "cell": md_cell,
        "cells": md_cells,
        "interval": with_interval,
        "code": _code,
    }
    return environment


def _code(text: str) -> Markup:
    """Backticks as ``<code>``, everything else escaped; for HTML pages."""
    from markupsafe import Markup, escape

    return Markup(re.sub(r"`([^`]*)`", r"<code>\1</code>", str(escape(text))))


def write_page(path: Path, page: str | bytes) -> None:
    """Write a page or a figure, whole or not at all; its folder is made.

    Raises:
        ConfigError: it cannot be written.
    """
    with writing(path), replacing(path) as file:
        file.write(page.encode() if isinstance(page, str) else page)
