"""The site's settings for Sphinx; `make docs` builds it."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "src"), str(Path(__file__).parent / "_ext")]

import wsfleet  # noqa: E402

project = "wsfleet"
author = copyright = "The wsfleet authors"
release = version = wsfleet.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "pages"]
exclude_patterns = ["_ext"]

# The headings' names are those that GitHub gives them, so that a link works there and here.
myst_heading_anchors = 4

html_theme = "furo"
html_title = f"wsfleet {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_copy_source = False

default_role = "code"  # docstrings write `like this`
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autodoc_default_options = {"members": True}
python_display_short_literal_types = True
python_use_unqualified_type_names = True
maximum_signature_line_length = 90

# The build is offline, so names of others are not looked up. What is ours and meant for users must be there.
nitpick_ignore_regex = [
    (r"py:.*", r"(asyncio|collections|contextlib|dataclasses|enum|http|os|pathlib|ssl|types|typing|websockets)\..*"),
    (r"py:.*", r"(Any|Callable|Mapping|Sequence|Iterable|Iterator|AsyncIterator|Awaitable|Literal|Path|PathLike|Self)"),
    (r"py:.*", r"(ABC|Generic|StrEnum|Struct|SSLContext|TracebackType|Unpack|Exception|ServerConnection|Response)"),
    (r"py:.*", r"(MeterProvider|TracerProvider)"),
    (r"py:class", r"wsfleet\.config\.reading\.Given"),  # passed between the processes of `wsfleet run`
    (r"py:.*", r"wsfleet(\.\w+)+\.[A-Z](_co)?"),  # type variables
    (r"py:.*", r"(msgspec|opentelemetry|starlette|prometheus_client)\..*"),
]
