"""A comparison as one HTML file: charts, tables, pictures and a discussion; no script."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from comparison_results import CNN, NAMES, PROBE, TAUGHT, Comparison, Result
from comparison_tables import changed_rows, curve_rows, duration
from comparison_words import best_with_photos, discussion
from damaged_pictures import DAMAGE, STYLES, changed_picture
from PIL import Image

from clipsearch.encoder import UInt8
from clipsearch.evaluation_charts import Bar, bars, chart_style, grouped_bars, heat_map, lines
from clipsearch.html_pages import image_address, policy_hash, shown, template_text
from clipsearch.svg_pieces import percent

_PLACE = Path(__file__).parent
_SIDE = 168  # pixels of a picture on the page
_MOST_PICTURES = 12
_SERIES = {CNN: 1, NAMES: 0, TAUGHT: 2, PROBE: 3}
_KINDS = {
    CNN: "a network trained on the training photos",
    NAMES: "names alone, no photo",
    TAUGHT: "names and the training photos",
    PROBE: "frozen features and the training photos",
}


def report(found: Comparison) -> bytes:
    """The page as UTF-8."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    page = Environment(
        loader=FileSystemLoader(_PLACE), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    own = (_PLACE / "comparison_report.css").read_text(encoding="utf-8")
    style = template_text("cluster_report.css") + chart_style() + own
    models = [result.method.backbone for result in found.kinds(NAMES)]
    text = page.get_template("comparison_report.html").render(
        title="A trained network, or labels by their names?",
        facts=(
            f"{shown(found.cnn.method.backbone)} and {', '.join(map(shown, models))} · "
            f"{found.training_photos:,} training photos · {len(found.truth):,} test photos · "
            f"{len(found.labels)} classes"
        ),
        style=style,
        style_hash=policy_hash(style),
        figures=_figures(found),
        words=[(heading, [shown(one) for one in said]) for heading, said in discussion(found)],
        accuracy=_accuracy(found),
        cost=_cost(found),
        classes=_classes(found),
        withheld=_withheld(found),
        curve=_curve(found),
        changed=_changed(found),
        disagreements=_disagreements(found),
        settings=[(name, shown(value)) for name, value in found.settings.items()],
        took=duration(found.seconds),
        notes=[shown(note) for note in found.notes],
    )
    return text.encode("utf-8", "replace")


def _figures(found: Comparison) -> list[dict[str, str]]:
    """The few figures to begin with."""
    picked = [
        (found.cnn, f"{found.training_photos:,} labelled photos, {duration(found.cnn.seconds)}"),
        (found.names, f"no labelled photo, {duration(found.names.seconds)}"),
    ]
    best = best_with_photos(found)
    if best is not None:
        picked.append((best, f"the same photos, {duration(best.seconds)}"))
    return [
        {"name": shown(result.method.name), "value": percent(result.accuracy), "about": about}
        for result, about in picked
    ]


def _table(rows: Sequence[Sequence[str]]) -> dict[str, Any]:
    return {"head": rows[0], "rows": [[shown(cell) for cell in row] for row in rows[1:]]}


def _accuracy(found: Comparison) -> dict[str, Any]:
    rows = [["Method", "Learned from", "In", "Top-1", "95 %", "Mean of classes", "Top-5", "ECE"]]
    drawn = []
    for result in found.clean:
        low, high = result.interval
        rows.append([
            result.method.name, f"{result.method.photos:,}", duration(result.seconds),
            percent(result.accuracy), f"{percent(low)} to {percent(high)}",
            percent(result.mean_per_class), percent(result.top5),
            percent(result.calibration_error),
        ])  # fmt: skip
        drawn.append(
            Bar(result.method.name, result.accuracy, low, high, series=_series(result),
                about=f"{result.method.name}, {_KINDS[result.method.kind]}")
        )  # fmt: skip
    kinds = {result.method.kind for result in found.clean}
    return {
        "chart": bars("Accuracy on the test photos by method", drawn),
        "table": _table(rows),
        "kinds": [(_SERIES[kind], _KINDS[kind]) for kind in _KINDS if kind in kinds],
    }


def _cost(found: Comparison) -> dict[str, Any]:
    rows = [["Network", "Million numbers", "MB", "Pixels", "Photos a second", "Network alone"]]
    for name, cost in found.costs.items():
        rows.append([
            name, f"{cost.parameters / 1e6:.1f}", f"{cost.megabytes:.1f}",
            f"{cost.pixels} × {cost.pixels}", f"{cost.rate:.0f}", f"{cost.bare:.0f}",
        ])  # fmt: skip
    seen = [["Network", "Trained on"]]
    seen += [[name, cost.seen] for name, cost in found.costs.items()]
    return {"table": _table(rows), "seen": _table(seen)}


def _classes(found: Comparison) -> dict[str, Any]:
    """The classes, those where names gain least first."""
    shown_here = _told(found)
    table = np.stack([result.per_class for result in shown_here], axis=1)
    counts = np.bincount(found.truth, minlength=len(found.labels))
    gaps = found.names.per_class - found.cnn.per_class
    order = [place for place in np.argsort(gaps, kind="stable").tolist() if counts[place]]
    names = [found.labels[place] for place in order]
    picked = np.nan_to_num(table[order])
    methods = [result.method.name for result in shown_here]
    chart = heat_map(
        "Accuracy of each class, in per cent", methods, names, np.rint(100 * picked.T).astype(int),
        shades=picked.T, axes=("method", "class"), diagonal=False,
    )  # fmt: skip
    rows = [["Class", "Test photos", *methods]]
    rows += [
        [found.labels[place], str(counts[place]), *(percent(one) for one in table[place].tolist())]
        for place in order
    ]
    return {"chart": chart, "table": _table(rows)}


def _told(found: Comparison) -> list[Result]:
    """The methods of the charts that have room for few: networks, names, the best of each rest."""
    best = best_with_photos(found)
    return [*found.kinds(CNN), *found.kinds(NAMES), *([best] if best else [])]


def _withheld(found: Comparison) -> dict[str, Any] | None:
    withheld = found.withheld
    if withheld is None:
        return None
    shares = [withheld.shares(result) for result in withheld.results]
    names = [result.method.name for result in withheld.results]
    rows = [["Method", "Classes with photos", "Classes without", "All"]]
    for result, (known, out) in zip(withheld.results, shares, strict=True):
        name = result.method.name
        rows.append([name, percent(known), percent(out), percent(result.accuracy)])
    cnn = withheld.results[0]
    called = [["Shown", "Test photos", "What the trained network calls them"]]
    for place in withheld.classes:
        given = cnn.given[cnn.truth == place]
        labels, counts = np.unique(given, return_counts=True)
        order = np.argsort(-counts, kind="stable")[:4]
        called.append([
            found.labels[place], str(len(given)),
            ", ".join(f"{found.labels[labels[at]]} {counts[at]}" for at in order),
        ])  # fmt: skip
    return {
        "names": ", ".join(shown(found.labels[place]) for place in withheld.classes),
        "chart": grouped_bars(
            "Accuracy with and without photos of a class", names,
            ["with photos", "without"], shares,
        ),
        "table": _table(rows),
        "called": _table(called),
    }  # fmt: skip


def _curve(found: Comparison) -> dict[str, Any] | None:
    counts = sorted({count for by in found.curve.values() for count in by if count})
    if not counts:
        return None
    names = [shown(name) for name in found.curve]
    all_photos = found.training_photos / len(found.labels)
    columns = [*counts, 0]
    series = {
        name: [float(np.mean(by[count])) if by.get(count) else np.nan for count in columns]
        for name, by in zip(names, found.curve.values(), strict=True)
    }
    places = [*map(float, np.log2(counts)), float(np.log2(max(all_photos, counts[-1] + 1)))]
    chart = lines(
        "Accuracy by how many photos of each class there are to learn from",
        [*map(str, counts), "all"], series, places=places,
    )  # fmt: skip
    rows = curve_rows(found)
    rows[0] = ["Method", *(f"{head} a class" for head in rows[0][1:-1]), "All"]
    return {"chart": chart, "table": _table(rows)}


def _changed(found: Comparison) -> dict[str, Any] | None:
    if not found.changed:
        return None
    columns = list(found.changed)
    heads = [f"{kind} {severity}" if severity else kind for kind, severity in columns]
    methods = [result.method.name for result in found.clean]
    table = np.array([
        [result.accuracy, *(found.changed_accuracy(result.method.name, *one) for one in columns)]
        for result in found.clean
    ])  # fmt: skip
    chart = heat_map(
        "Accuracy on damaged and redrawn photos, in per cent", methods, ["as they are", *heads],
        np.rint(100 * table).astype(int), shades=table, axes=("method", "photos"), diagonal=False,
    )  # fmt: skip
    rows = changed_rows(found)
    rows[0][0] = "Method"
    means = [row[:4] for row in rows]
    return {
        "chart": chart,
        "means": _table(means),
        "table": _table(rows),
        "strip": _strip(found),
    }


def _strip(found: Comparison) -> list[dict[str, str]]:
    """One photo that both label rightly, as it is and in every way that it was changed."""
    both = np.flatnonzero(found.cnn.right & found.names.right)
    place = int(both[len(both) // 2]) if len(both) else 0
    picture = found.pictures[place]
    drawn = [_photo(found, place, picture, found.cnn, found.names, "as it is")]
    severities = {kind: [one for name, one in found.changed if name == kind] for kind in DAMAGE}
    ways = [(kind, some[len(some) // 2]) for kind, some in severities.items() if some]
    for kind, severity in [*ways, *((kind, 0) for kind in STYLES if (kind, 0) in found.changed)]:
        results = {one.method.name: one for one in found.changed[kind, severity]}
        changed = changed_picture(kind, severity, picture, place)
        drawn.append(
            _photo(
                found, place, changed, results[found.cnn.method.name],
                results[found.names.method.name], f"{kind} {severity or ''}".strip(),
            )
        )  # fmt: skip
    return drawn


def _disagreements(found: Comparison) -> list[dict[str, Any]]:
    """Photos that only one of the two labels rightly, or that both get wrong, the surest first."""
    cnn, names = found.cnn, found.names
    sure_cnn, sure_names = cnn.probabilities.max(axis=1), names.probabilities.max(axis=1)
    name = names.method.name
    groups = (
        (f"{name} right, the trained network wrong", names.right & ~cnn.right, sure_cnn),
        (f"the trained network right, {name} wrong", cnn.right & ~names.right, sure_names),
        ("both wrong", ~cnn.right & ~names.right, sure_cnn + sure_names),
    )
    drawn = []
    for heading, which, sure in groups:
        places = np.flatnonzero(which)
        order = places[np.argsort(-sure[places], kind="stable")]
        drawn.append({
            "heading": shown(heading),
            "count": len(places),
            "photos": [
                _photo(found, place, found.pictures[place], cnn, names)
                for place in _spread(order, found.truth)[:_MOST_PICTURES]
            ],
        })  # fmt: skip
    return drawn


def _spread(order: np.ndarray, truth: np.ndarray) -> list[int]:
    """The first of every class before the second of any, in order else."""
    seen: dict[int, int] = {}
    ranked = []
    for rank, place in enumerate(order.tolist()):
        label = int(truth[place])
        ranked.append((seen.get(label, 0), rank, place))
        seen[label] = seen.get(label, 0) + 1
    return [place for _, _, place in sorted(ranked)]


def _photo(
    found: Comparison, place: int, picture: UInt8, cnn: Result, names: Result, about: str = ""
) -> dict[str, Any]:
    """A picture, what it shows, and what the two say of it."""
    file = io.BytesIO()
    small = Image.fromarray(picture).resize((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    small.save(file, "JPEG", quality=80)
    truth = shown(found.labels[int(found.truth[place])])
    said = []
    for who, result in (("network", cnn), (names.method.backbone, names)):
        odds = result.probabilities[place]
        said.append({
            "who": shown(who),
            "label": shown(found.labels[int(odds.argmax())]),
            "sure": f"{odds.max():.0%}",
            "right": bool(result.right[place]),
        })  # fmt: skip
    return {
        "image": image_address(file.getvalue()),
        "alt": f"{truth}, {about}" if about else truth,
        "truth": about or truth,
        "said": said,
    }


def _series(result: Result) -> int:
    return _SERIES[result.method.kind]
