"""The report of an evaluation: it says what was measured, and can do no harm."""

from __future__ import annotations

import base64
import hashlib
import html
import io
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest

from clipsearch import open_index
from clipsearch.accuracy_intervals import wilson_interval
from clipsearch.errors import OptionError
from clipsearch.evaluation import Evaluation
from clipsearch.evaluation_report import export_evaluation_report, write_evaluation_report
from clipsearch.evaluation_run import EvaluationRun
from clipsearch.image_index import ImageIndex
from clipsearch.labelled_images import LabelledImages
from clipsearch.retrieval_evaluation import Retrieval

ODD = 'a "b" <c> & \x07\u202e</text><script>alert(1)</script>'
NAMES = ("cat", "dog", "hot dog", "car side", "bird", "boat")


class Page(HTMLParser):
    """What stands in a page; elements have to be closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.classes: set[str] = set()
        self.attributes: list[tuple[str, str]] = []
        self.ids: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            self.attributes.append((name, value or ""))
            if name == "class":
                self.classes |= set((value or "").split())
            if name == "id":
                self.ids.append(value or "")
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture
def index(mini_index: Path) -> ImageIndex:
    return open_index(mini_index)


def evaluation(
    index: ImageIndex,
    count: int = 120,
    *,
    names: tuple[str, ...] = NAMES,
    name: str = "simple (7 templates)",
    model: str = "mini",
    accuracy: float = 0.7,
    seed: int = 0,
    notes: tuple[str, ...] = (),
) -> Evaluation:
    """One of made-up labels of real images; the files are those of the index, again and again.
    Evaluations of one index, count and names are of the same files."""
    state = index.state()
    draws = np.random.default_rng(1)
    ids = draws.choice(state.vectors.ids, count)
    truth = draws.integers(0, len(names), count).astype(np.int32)
    places = [place.path for place in state.paths.first_places(ids) if place is not None]
    draws = np.random.default_rng(seed)
    top = min(5, len(names))
    ranked = np.array([draws.permutation(len(names))[:top] for _ in range(count)], np.int32)
    for row, right in enumerate(draws.random(count) < accuracy):
        first = int(truth[row]) if right else (int(truth[row]) + 1) % len(names)
        others = [label for label in ranked[row].tolist() if label != first]
        ranked[row] = [first, *others][:top]
    odds = -np.sort(-draws.dirichlet(np.full(top, 0.4), count), axis=1)
    samples = LabelledImages(names, tuple(places), ids, truth, notes)
    return Evaluation(name, model, samples, ranked, odds.astype(np.float32), seconds=0.5)


def written(index: ImageIndex, run: EvaluationRun) -> str:
    file = io.BytesIO()
    write_evaluation_report(file, index, run)
    again = io.BytesIO()
    write_evaluation_report(again, index, run)
    assert again.getvalue() == file.getvalue()
    return file.getvalue().decode()


def sound(text: str) -> Page:
    """The page, which holds nothing but itself, and no style that its policy does not let in."""
    page = Page(text)
    assert not {"script", "iframe", "object", "link", "base", "form"} & set(page.tags)
    for name, value in page.attributes:
        assert not name.startswith("on")
        assert name not in ("style", "action")
        if name in ("src", "href"):
            assert value.startswith(("data:image/jpeg;base64,", "file://", "#"))
        if name == "href" and value.startswith("#"):
            assert value[1:] in page.ids
    assert len(page.ids) == len(set(page.ids))
    (style,) = re.findall(r"<style>(.*?)</style>", text, re.S)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert f"style-src 'sha256-{digest}'" in html.unescape(text)
    assert "default-src 'none'" in html.unescape(text)
    unstyled = {name for name in page.classes if f".{name}" not in style}
    assert unstyled <= {"figure", "figures", "charted", "mark", "photo", "group"}
    assert "http:" not in re.sub(r"data:[^\"]+", "", text)
    assert "https:" not in text
    return page


def rows_of(text: str, region: str) -> list[list[str]]:
    """The cells of a table by the name of its region."""
    match = re.search(rf'aria-label="{region}" tabindex="0">\s*<table>(.*?)</table>', text, re.S)
    assert match is not None, region
    return [
        [html.unescape(re.sub("<.*?>", "", cell)) for cell in re.findall(r"<t[hd].*?</t[hd]>", row)]
        for row in re.findall(r"<tr>(.*?)</tr>", match[1], re.S)
    ]


def test_it_says_what_was_measured(index: ImageIndex) -> None:
    first = evaluation(index, notes=("1 class has no image",))
    better = evaluation(index, model="photo1k", accuracy=0.95, seed=2)
    other = evaluation(index, name="the name alone", accuracy=0.7, seed=3)
    run = EvaluationRun(
        "My photos", "/photos", (first, better, other), (), {"mini": 123.45, "photo1k": None},
        ("mini was trained on such photos",), "Both together are no better",
    )  # fmt: skip
    text = written(index, run)
    sound(text)
    plain = html.unescape(
        re.sub(r"<(?:style|svg).*?</(?:style|svg)>|<[^>]+>", " ", text, flags=re.S)
    )
    assert '<h1 dir="auto">My photos</h1>' in text
    assert "120 files · 6 classes · mini, photo1k · /photos" in plain
    for figure in (first.accuracy, first.top5, first.mean_per_class, first.reliability.error):
        assert f'<dd class="value">{figure:.1%}</dd>' in text
    assert "123.5/s" in plain
    assert "240/s" in plain  # 120 files in half a second
    assert "mini was trained on such photos" in plain
    assert plain.count("1 class has no image") == 1
    assert "Both together are no better" in plain

    compared = rows_of(text, "Wordings and models compared")
    assert [row[:2] for row in compared[1:]] == [
        ["simple (7 templates)", "mini"], ["simple (7 templates)", "photo1k"],
        ["the name alone", "mini"],
    ]  # fmt: skip
    assert [row[2] for row in compared[1:]] == [f"{e.accuracy:.1%}" for e in run.evaluations]
    assert compared[1][6] == ""
    gain = 100 * (better.accuracy - first.accuracy)
    low, high = map(
        float, re.fullmatch(rf"\+{gain:.1f} \((\+[\d.]+) to (\+[\d.]+)\)", compared[2][6]).groups()
    )  # type: ignore[union-attr]
    assert 0 < low < gain < high
    assert re.fullmatch(r"[+-][\d.]+ \(-[\d.]+ to \+[\d.]+\)", compared[3][6])
    low, high = wilson_interval(int(better.right.sum()), 120)
    told = f"simple (7 templates), photo1k: {better.accuracy:.1%} ({low:.1%} to {high:.1%})"
    assert f"<title>{told}</title>" in text

    classes = rows_of(text, "Accuracy of each class")
    assert classes[0] == ["Class", "Files", "mini", "photo1k", "Most frequent wrong label"]
    assert [float(row[2].rstrip("%")) for row in classes[1:]] == sorted(
        float(row[2].rstrip("%")) for row in classes[1:]
    )
    by_name = {row[0]: row for row in classes[1:]}
    assert set(by_name) == set(NAMES)
    for place, name in enumerate(NAMES):
        of_class = first.samples.truth == place
        wrong = int((of_class & ~first.right).sum())
        assert by_name[name][1:] == [
            str(int(of_class.sum())),
            f"{first.right[of_class].mean():.1%}",
            f"{better.right[of_class].mean():.1%}",
            f"{NAMES[(place + 1) % 6]} ({wrong})",
        ]
    confusions = rows_of(text, "The most frequent confusions")
    assert [int(row[2]) for row in confusions[1:]] == [c.count for c in first.confusions()]
    assert confusions[1][:2] == [first.confusions()[0].truth, first.confusions()[0].given]
    for i, j in zip(*np.nonzero(first.confusion), strict=True):
        assert f"<title>{NAMES[i]} → {NAMES[j]}: {first.confusion[i, j]} (" in text

    bins = rows_of(text, "Calibration")
    assert sum(int(row[1]) for row in bins[1:]) == 120
    sure = float(first.probabilities[:, 0].mean())
    excess = f"{abs(100 * (sure - first.accuracy)):.1f} points too"
    assert f"told with {sure:.1%} on average, and {first.accuracy:.1%} are right: {excess}" in plain


def test_the_mistakes_are_shown_with_their_pictures(index: ImageIndex) -> None:
    one = evaluation(index, 200, accuracy=0.5)
    text = written(index, EvaluationRun("t", "s", (one,)))
    figures = re.findall(r"<figure>.*?</figure>", text, re.S)
    wrong = one.mistakes()
    assert len(figures) == 60 < len(wrong)
    assert f"and {len(wrong) - 60} more mistakes" in text
    assert f"{len(wrong)} of 200 files" in text
    before = 1.0
    for row, figure in zip(wrong.tolist(), figures, strict=False):
        sure = float(one.probabilities[row, 0])
        assert sure <= before
        before = sure
        truth, given = (NAMES[int(place)] for place in (one.samples.truth[row], one.given[row]))
        said = f'<span dir="auto">{truth}</span> → <span class="given" dir="auto">{given}</span>'
        assert f"{said} {sure:.0%}" in figure
        rank = int(one.truth_ranks[row])
        assert ("not in the best 5" if not rank else f"true label in place {rank}<") in figure
        path = one.samples.paths[row]
        assert f"{path.parent.name}/{path.name}" in html.unescape(figure)
        assert path.name in unquote(figure)
        jpeg = re.search(r'src="data:image/jpeg;base64,([^"]+)"', figure)
        assert jpeg is not None
        assert base64.b64decode(jpeg[1]).startswith(b"\xff\xd8")
    assert "Wordings and models compared" not in text


@pytest.mark.parametrize("classes", [2, 5, 70, 260])
def test_few_and_many_classes(classes: int, index: ImageIndex) -> None:
    names = tuple(f"class {number}" for number in range(classes))
    one = evaluation(index, 6 * classes + 20, names=names)
    text = written(index, EvaluationRun("t", "s", (one,)))
    page = sound(text)
    assert ("Top-5" in text) == (classes > 5)
    maps = text.count('class="chart heat"')
    assert maps == {2: 1, 5: 1, 70: 2, 260: 1}[classes]
    if classes > 60:
        assert "The 40 classes that are confused most" in text
    beyond = np.count_nonzero(one.samples.counts) - 100
    assert ("more classes; all are in the table" in text) == (beyond > 0) == (classes == 260)
    assert beyond < 0 or f"and {beyond} more classes; all" in text
    assert len(rows_of(text, "Accuracy of each class")) == classes + 1
    assert len(text) < 1_500_000
    assert page.tags.count("h1") == 1


def test_a_closer_look_has_the_shares_of_whole_classes(index: ImageIndex) -> None:
    """Only classes that are confused are in it, and a mistake is a share of all of its class."""
    names = tuple(f"class {number}" for number in range(80))
    one = evaluation(index, 800, names=names, accuracy=2)
    ranked = one.ranked.copy()
    ranked[one.samples.truth == 7, 0] = 9
    confused = Evaluation("n", "m", one.samples, ranked, one.probabilities)
    text = written(index, EvaluationRun("t", "s", (confused,)))
    of_seven = int(one.samples.counts[7])
    assert "The 2 classes that are confused most" in text
    assert text.count(f"<title>class 7 → class 9: {of_seven} (100.0%)</title>") == 2
    assert rows_of(text, "The most frequent confusions")[1:] == [
        ["class 7", "class 9", str(of_seven), "100.0%"]
    ]


def test_no_mistake(index: ImageIndex) -> None:
    text = written(index, EvaluationRun("t", "s", (evaluation(index, accuracy=2),)))
    sound(text)
    assert text.count("None: every file got the true label.") == 2
    assert "<figure>" not in text
    assert '<dd class="value">100.0%</dd>' in text


def test_a_class_without_files(index: ImageIndex) -> None:
    one = evaluation(index, 40)
    more = LabelledImages((*NAMES, "unseen"), one.samples.paths, one.samples.ids, one.samples.truth)
    one = Evaluation("n", "m", more, one.ranked, one.probabilities)
    text = written(index, EvaluationRun("t", "s", (one,)))
    sound(text)
    assert rows_of(text, "Accuracy of each class")[-1] == ["unseen", "0", "–", ""]
    assert "nan" not in text.replace("banana", "").casefold().split("<style>")[0]


def test_names_cannot_be_markup(index: ImageIndex) -> None:
    names = (ODD, "猫の写真", "عربي", "y" * 300)
    one = evaluation(index, 60, names=names, name=ODD, model=ODD, notes=(ODD,))
    other = evaluation(index, 60, names=names, name="other", model="m2", seed=4)
    found = Retrieval(ODD, 2, 3, {1: 0.5}, {1: 0.25}, (ODD,))
    text = written(index, EvaluationRun(ODD, ODD, (one, other), (found,), {}, (ODD,), ODD))
    sound(text)
    assert "\x07" not in text
    assert "\u202e" not in text
    assert "猫の写真" in text


def test_captions(index: ImageIndex) -> None:
    found = [
        Retrieval("mini", 200, 1000, {1: 0.05, 5: 0.178}, {1: 0.03, 5: 0.115}, ("a note",)),
        Retrieval("photo1k", 200, 1000, {1: 0.176, 5: 0.465}, {1: 0.2, 5: 0.47}),
    ]
    text = written(index, EvaluationRun("t", "captions.csv", (), tuple(found)))
    sound(text)
    assert "200 images · 1,000 captions · mini, photo1k · captions.csv" in text
    assert "a note" in text
    assert rows_of(text, "Recall of captions") == [
        ["Model", "Text to image R@1", "Text to image R@5", "Image to text R@1",
         "Image to text R@5"],
        ["mini", "5.0%", "17.8%", "3.0%", "11.5%"],
        ["photo1k", "17.6%", "46.5%", "20.0%", "47.0%"],
    ]  # fmt: skip
    assert "<title>The image finds words: among the best 5, photo1k: 47.0%</title>" in text
    assert "Confusions" not in text


def test_it_is_an_export(index: ImageIndex, tmp_path: Path) -> None:
    run = EvaluationRun("t", "s", (evaluation(index),))
    place = tmp_path / "report.html"
    done = export_evaluation_report(index, run, place)
    assert done.files
    sound(place.read_text(encoding="utf-8"))
    export_evaluation_report(index, run, place)  # its own file is replaced
    place.write_text("mine")
    with pytest.raises(OptionError, match="--force"):
        export_evaluation_report(index, run, place)
    assert place.read_text() == "mine"
    export_evaluation_report(index, run, place, force=True)
    assert place.read_text(encoding="utf-8").startswith("<!doctype html>")
    with pytest.raises(OptionError, match="there is no folder"):
        export_evaluation_report(index, run, tmp_path / "none" / "report.html")
    export_evaluation_report(index, run, tmp_path / "other.html", dry_run=True)
    assert not (tmp_path / "other.html").exists()


def test_pictures_that_are_gone(index: ImageIndex) -> None:
    one = evaluation(index, 30, accuracy=0)
    gone = tuple(Path("/nowhere", path.name) for path in one.samples.paths)
    samples = LabelledImages(NAMES, gone, one.samples.ids + 1000, one.samples.truth)
    one = Evaluation("n", "m", samples, one.ranked, one.probabilities)
    text = written(index, EvaluationRun("t", "s", (one,)))
    sound(text)
    assert text.count("not there now") == 30
    assert text.count("no thumbnail") == 30
