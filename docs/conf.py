"""How the pages become a site: ``make docs``. They are plain Markdown, and are read on their own too."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from pygments.lexers.special import TextLexer
from sphinx.application import Sphinx

DOCS = Path(__file__).parent
ROOT = DOCS.parent
sys.path[:0] = [str(DOCS), str(ROOT / "src")]
os.environ["PYTHONPATH"] = str(ROOT / "src")  # for the process that runs the tour

from street import Mermaid  # noqa: E402

from neurobridge import __version__  # noqa: E402

project, author, version, release = "NeuroBridge", "The NeuroBridge developers", __version__, __version__
project_copyright = f"{author}, Apache-2.0"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
exclude_patterns = ["_build"]

myst_heading_anchors = 4
myst_enable_extensions = ["dollarmath"]
myst_fence_as_directive = ["mermaid"]
nb_execution_mode = "cache"
nb_execution_timeout = 1200
nb_execution_raise_on_error = True
nb_execution_in_temp = True
nb_merge_streams = True

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_default_options = {"members": True}
python_maximum_signature_line_length = 100
napoleon_google_docstring, napoleon_numpy_docstring = True, False

html_theme = "pydata_sphinx_theme"
html_title = "NeuroBridge"
html_show_sourcelink = False
html_theme_options = {"navigation_with_keys": False, "navbar_center": [], "secondary_sidebar_items": ["page-toc"]}
html_sidebars = {"**": ["globaltoc.html"]}
html_math_renderer = "mathml"
copybutton_prompt_text = "$ "

OUTSIDE = {"../benchmarks/RESULTS.md": "results.md", "../CONTRIBUTING.md": "contributing.md"}  # links -> pages here


def inside(app: Sphinx, name: str, text: list[str]) -> None:
    """Links to documents beside this folder lead to the pages that include them."""
    for path, page in OUTSIDE.items():
        text[0] = text[0].replace(f"]({path}", f"]({page}")


def plain(app: Sphinx, what: str, name: str, thing: object, options: object, lines: list[str]) -> None:
    """In a docstring |x| is an amount and no substitution, and dir/*.h5 names files."""
    lines[:] = [line.replace("|", r"\|").replace("/*.", r"/\*.") for line in lines]


def formula(writer, node: nodes.math | nodes.math_block) -> None:
    """A formula as browsers draw it by themselves: no script, no network."""
    writer.body.append(tex2mathml(node.astext(), as_block=isinstance(node, nodes.math_block)))
    raise nodes.SkipNode


def setup(app: Sphinx) -> None:
    app.add_html_math_renderer("mathml", inline_renderers=(formula, None), block_renderers=(formula, None))
    app.add_directive("mermaid", Mermaid)
    app.add_lexer("csv", TextLexer)
    app.connect("source-read", inside)
    app.connect("autodoc-process-docstring", plain)
