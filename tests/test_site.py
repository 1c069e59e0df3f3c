"""The documentation as a site: built whole, with warnings as errors, and from one server."""

import html.parser
import sys

import pytest
from command_lines import ROOT, process

PAGES = ("first_hour", "products", "quality", "reading_the_report", "extending", "flags", "api")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    command = ["sphinx", "-q", "-W", "--keep-going", "-b", "html", "-c", "docs"]
    command += ["-d", str(folder / "read"), ".", str(folder / "html")]
    done = process(sys.executable, "-m", *command, timeout=400)
    assert done.returncode == 0, done.stderr
    return folder / "html"


class Loaded(html.parser.HTMLParser):
    """What a browser loads of itself with a page: everything but what links lead to."""

    def __init__(self, page):
        super().__init__()
        self.found = []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.found += [
            value
            for name, value in attributes
            if name in ("src", "srcset") or (name == "href" and tag == "link")
        ]


def test_every_page_is_there_and_the_first_one_leads_to_it(site):
    first = (site / "docs/index.html").read_text(encoding="utf-8")
    for page in [*(path.stem for path in ROOT.glob("docs/*.md")), *PAGES]:
        assert (site / f"docs/{page}.html").is_file()
        assert f'href="{page}.html' in first, page


def test_the_reference_has_what_docstrings_say(site):
    text = (site / "docs/api.html").read_text(encoding="utf-8")
    for name in ("cae_jax.load", "cae_jax.serving.detector.Detector.score", "cae_jax.types.Method"):
        assert f'id="{name}"' in text
    assert "altered or cannot be read" in text


def test_nothing_comes_from_another_server(site):
    for path in site.rglob("*.html"):
        loaded = Loaded(path.read_text(encoding="utf-8")).found
        assert loaded, path
        assert not [one for one in loaded if "//" in one], path
    for path in site.rglob("*.css"):
        assert "@import" not in (text := path.read_text(encoding="utf-8")), path
        assert "url(http" not in text.replace('"', "").replace("'", ""), path
