"""The report is one well-formed file that needs nothing else, escapes what it is given, and appears whole or not."""

from html.parser import HTMLParser

import numpy as np
import pytest
from matplotlib.figure import Figure as MatplotlibFigure

from neurobridge.evaluation import figures, report

VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """Collects tags, attributes and text; fails on a tag closed out of order."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> closes out of order"

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def drawn():
    rng = np.random.default_rng(0)
    pictures = rng.random((3, 32, 32, 3))
    areas = np.array(["V1", "V4", "IT", "V1"])
    xy, steps = rng.normal(size=(30, 2)), np.arange(100)
    labels = {"area": areas[rng.integers(0, 4, 30)], "position": rng.random(30), "class": rng.integers(0, 20, 30)}
    panel = {"top-1": [figures.Bar("ours", 0.3, 0.2, 0.4, "ours"), figures.Bar("ridge", -0.1)]}
    return {
        "losses": figures.loss_curves({"stage": {"train": (steps, rng.random(100)), "valid": (steps, steps * np.nan)}}),
        "bars": figures.bars(panel, chance={"top-1": 0.01}),
        "gallery": figures.gallery({"target": pictures, "oracle": pictures.transpose(0, 3, 1, 2)}, row_labels="abc"),
        "scatter": figures.representation_scatter(xy, labels),
        "raster": figures.raster_and_psth(rng.poisson(0.3, size=(5, 4, 30)), areas, bin_s=0.01),
        "noise": figures.noise_statistics(
            rng.random(9), [np.nan, 1.0], rng.random(9), cortex={"Fano factor": (1, 1.6)}
        ),
    }


@pytest.fixture(scope="module")
def page(drawn, tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "deep" / "report.html"
    rows = [["ours", (0.43, 0.38, 0.48), 0.12345, 1200]]
    blocks = [
        report.Text("What ran", ["A <script>alert(1)</script> & an ampersand.", "Second paragraph."]),
        report.Table("Scores", ["model", "top-1", "R2", "N"], rows, "a < b", frozenset({0})),
        *(report.Figure(name, figure, f"Caption of {name}.", name == "gallery") for name, figure in drawn.items()),
    ]
    report.write_report(
        path,
        title="A run",
        subtitle="seed 0",
        blocks=blocks,
        summary={"top-1": (0.43, 0.38, 0.48)},
        sections={0: "Data"},
    )
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]
    parsed = Page()
    parsed.feed(path.read_text(encoding="utf-8"))
    parsed.close()
    return parsed


def test_it_is_well_formed_and_needs_nothing_else(page):
    assert not page.open
    assert not {"script", "link", "iframe"} & {tag for tag, _ in page.tags}
    sources = [value for _, attributes in page.tags for key, value in attributes.items() if key in ("src", "href")]
    assert all(source.startswith(("data:image/", "#")) for source in sources)
    assert sum(source.startswith("data:image/jpeg") for source in sources) == 1
    style = page.text[: page.text.index("Contents")]
    assert "http" not in style
    assert "url(" not in style


def test_every_block_is_in_the_contents_and_every_link_leads_somewhere(page):
    links = {attributes["href"][1:] for tag, attributes in page.tags if tag == "a"} - {"report"}
    sections = {attributes["id"] for tag, attributes in page.tags if tag == "section"}
    assert links == sections
    assert len(sections) == 8


def test_what_it_is_given_is_escaped_and_formatted(page):
    assert "<script>alert(1)</script> & an ampersand." in page.text
    assert "0.43 [0.38, 0.48]" in page.text
    assert "0.123" in page.text
    assert "1,200" in page.text
    assert sum(attributes.get("class") == "ours" for tag, attributes in page.tags if tag == "tr") == 1


def test_it_can_be_read_aloud_folded_and_printed(page):
    images = [attributes for tag, attributes in page.tags if tag == "img"]
    assert len(images) == len({attributes["alt"] for attributes in images}) == 6
    assert any("bars. top-1; ours" in attributes["alt"] or "bars. top-1" in attributes["alt"] for attributes in images)
    tags = [tag for tag, _ in page.tags]
    assert tags.count("table") == tags.count("caption") == tags.count("details") == tags.count("summary") == 1
    assert {"header", "nav", "main"} <= set(tags)
    scopes = [attributes.get("scope") for tag, attributes in page.tags if tag == "th"]
    assert set(scopes) == {"col", "row"}
    labels = {attributes["aria-labelledby"] for tag, attributes in page.tags if tag == "section"}
    assert labels == {attributes["id"] for tag, attributes in page.tags if tag == "h3"}
    for wanted in ("prefers-color-scheme: dark", "@media print", "details::details-content"):
        assert wanted in page.text


def test_only_long_tables_are_folded(tmp_path):
    tables = [report.Table(f"{n} rows", ["a"], [["x"]] * n) for n in (report.UNFOLDED, report.UNFOLDED + 1)]
    path = report.write_report(tmp_path / "report.html", title="x", blocks=tables)
    parsed = Page()
    parsed.feed(path.read_text())
    assert [("open" in attributes) for tag, attributes in parsed.tags if tag == "details"] == [True, False]


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        ((0.146, 0.1402, 0.1523), "0.146 [0.140, 0.152]"),
        ((-0.2, -0.5, 0.1), "−0.20 [−0.50, 0.10]"),
        ((1.0, 1.0, 1.0), "1.00 [1.00, 1.00]"),
        ((float("nan"), 0.0, 1.0), "–"),
        (None, "–"),
        (0.0, "0.000"),
        (0.00123, "0.0012"),
        (12.345, "12.35"),
        (12345.6, "12,346"),
        (-3e-7, "−3.0e−07"),
        (np.float32(0.5), "0.500"),
        (np.int64(7), "7"),
        (True, "yes"),
    ],
)
def test_cells(cell, text):
    assert report.format_cell(cell) == text


def test_a_row_of_the_wrong_length_is_refused():
    with pytest.raises(ValueError, match="2 cells for 1 columns"):
        report.Table("Bad", ["a"], [["x", "y"]])


def test_a_report_that_fails_leaves_the_old_one_alone(tmp_path):
    path = tmp_path / "report.html"
    path.write_text("old")
    broken = MatplotlibFigure()
    broken.text(0, 0, "$\\frac$")  # mathematics that cannot be drawn
    with pytest.raises(ValueError, match="frac"):
        report.write_report(path, title="x", blocks=[report.Figure("broken", broken)])
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
