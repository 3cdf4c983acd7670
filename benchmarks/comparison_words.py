"""A comparison in plain words: every sentence follows from the figures."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from comparison_results import CNN, NAMES, PROBE, TAUGHT, Comparison, Result, sign_test
from comparison_tables import duration
from damaged_pictures import DAMAGE, STYLES

from clipsearch.svg_pieces import percent

_CHANCE = 0.05
_LEVEL = 0.01  # accuracies that differ by less are told as level


def discussion(found: Comparison) -> list[tuple[str, list[str]]]:
    """Headings, each with its sentences."""
    parts = [
        ("How good", _how_good(found)),
        ("What is compared with what", _what_is_compared(found)),
        ("What it costs", _cost(found)),
        ("Few photos", _few(found)),
        ("Classes without photos", _withheld(found)),
        ("Photos that are not so good", _changed(found)),
        ("How far the figures go", _believed(found)),
        ("So, which of them", _advice(found)),
    ]
    return [(heading, sentences) for heading, sentences in parts if sentences]


def best_with_photos(found: Comparison) -> Result | None:
    """The best of what an encoder's features and the same training photos make."""
    names = {result.method.backbone for result in found.kinds(NAMES)}
    known = [
        result
        for result in found.clean
        if result.method.kind in (TAUGHT, PROBE) and result.method.backbone in names
    ]
    return max(known, key=lambda result: result.accuracy, default=None)


def _how_good(found: Comparison) -> list[str]:
    cnn, names = found.cnn, found.names
    said = [
        f"{cnn.method.name} on {found.training_photos:,} labelled photos, labels "
        f"{percent(cnn.accuracy)} of the {len(found.truth):,} test photos rightly. "
        f"{names.method.backbone}, given nothing but the {len(found.labels)} names, labels "
        f"{percent(names.accuracy)}: {_points(names.accuracy - cnn.accuracy, 'more', 'fewer')}."
    ]
    only_cnn = int((cnn.right & ~names.right).sum())
    only_names = int((names.right & ~cnn.right).sum())
    chance = sign_test(cnn.right, names.right)
    said.append(
        f"{_counted(only_names, 'photo')} only the names get right, {only_cnn:,} only the trained "
        "network; by chance alone they would be divided so unevenly "
        + (f"with probability {chance:.2g}." if chance >= 1e-4 else "less than once in 10,000.")
        + (" So this test cannot tell the two apart." if chance >= _CHANCE else "")
    )
    weaker = [one for one in found.kinds(NAMES) if one.accuracy < cnn.accuracy - _LEVEL]
    if weaker and names not in weaker:
        said.append(
            "Not every model does it: "
            + _listed([f"{one.method.backbone} by names has {percent(one.accuracy)}"
                       for one in weaker])
            + ", less than the trained network."
        )  # fmt: skip
    best = best_with_photos(found)
    if best is not None:
        gain = best.accuracy - max(cnn.accuracy, names.accuracy)
        said.append(
            f"The same {found.training_photos:,} photos, spent on the features of an encoder "
            f"instead of on a network of one's own, bring {percent(best.accuracy)} "
            f"({best.method.name})"
            + (": more than either." if gain > 0 else ", no more than the better of the two.")
        )
    said += _classes(found)
    return said


def _classes(found: Comparison) -> list[str]:
    """Where the one is ahead, and where the other."""
    gaps = found.names.per_class - found.cnn.per_class
    there = np.flatnonzero(~np.isnan(gaps))
    order = there[np.argsort(gaps[there], kind="stable")]
    ahead = [place for place in order[::-1][:3].tolist() if gaps[place] > _LEVEL]
    behind = [place for place in order[:3].tolist() if gaps[place] < -_LEVEL]

    def told(places: Sequence[int]) -> str:
        return _listed([
            f"{found.labels[place]} ({percent(found.names.per_class[place])} against "
            f"{percent(found.cnn.per_class[place])})"
            for place in places
        ])  # fmt: skip

    said = []
    if ahead:
        said.append(f"Names are furthest ahead for {told(ahead)}.")
    if behind:
        said.append(f"The trained network is furthest ahead for {told(behind)}.")
    elif ahead:
        said.append("There is no class for which the trained network is ahead.")
    return said


def _what_is_compared(found: Comparison) -> list[str]:
    cnn = found.cnn
    said = [
        f"The trained network has seen {found.costs[cnn.method.backbone].seen}. The encoders come "
        "with what others trained them on: "
        + "; ".join(
            f"{one.method.backbone}: {found.costs[one.method.backbone].seen}"
            for one in found.kinds(NAMES)
        )
        + "."
    ]
    said.append(
        "Where that holds photos of these very classes, nothing here is a zero-shot figure: it is "
        "called labels by names. It says what a person gets who types names and labels no photo, "
        "not how the encoder would do on things it has never met."
    )
    return said


def _cost(found: Comparison) -> list[str]:
    cnn, names = found.cnn, found.names
    mine, theirs = found.costs[cnn.method.backbone], found.costs[names.method.backbone]
    said = [
        f"Until it could label its first photo, the trained network took {duration(cnn.seconds)} "
        f"on this machine, and somebody who labels {found.training_photos:,} photos; names took "
        f"{duration(names.seconds)} and nobody."
    ]
    said.append(
        f"From then on {mine.backbone} labels {mine.rate:.0f} photos a second from their files "
        f"and {theirs.backbone} {theirs.rate:.0f}; the files of their weights have "
        f"{mine.megabytes:.0f} and {theirs.megabytes:.0f} MB. The encoder's work is done once for "
        "all labels to come: other names cost their texts alone, while the trained network labels "
        "every photo anew."
    )
    return said


def _few(found: Comparison) -> list[str]:
    cnn, names = found.curve[found.cnn.method.name], found.names
    counts = [count for count in cnn if count]
    if not counts:
        return []
    known = [(count, float(np.mean(cnn[count]))) for count in counts] + [(0, found.cnn.accuracy)]
    said = [
        "The trained network begins at "
        + _listed([f"{percent(share)} with {_each(count)}" for count, share in known])
        + "."
    ]
    enough = [count for count, share in known if share >= names.accuracy]
    if not enough:
        said.append(
            f"With none of these does it reach what {names.method.backbone} has by names alone, "
            f"{percent(names.accuracy)}."
        )
    else:
        said.append(
            f"It passes what {names.method.backbone} has by names alone, "
            f"{percent(names.accuracy)}, with {_each(enough[0])}."
        )
    backbones = [result.method.backbone for result in found.kinds(NAMES)]
    for backbone in backbones:
        taught, probe = (
            found.curve.get(f"{backbone}, {way}", {}).get(counts[0]) for way in ("taught", "probe")
        )
        if taught and probe:
            said.append(
                f"With {_each(counts[0])}, teaching has {percent(float(np.mean(taught)))} with "
                f"{backbone} and a probe that does not know the names "
                f"{percent(float(np.mean(probe)))}; names alone have "
                f"{percent(_by_names(found, backbone).accuracy)}."
            )
    return said


def _withheld(found: Comparison) -> list[str]:
    withheld = found.withheld
    if withheld is None:
        return []
    cnn = next(one for one in withheld.results if one.method.kind == CNN)
    names = next(one for one in withheld.results if one.method.name == found.names.method.name)
    (mine, mine_out), (theirs, theirs_out) = withheld.shares(cnn), withheld.shares(names)
    sure, sure_out = withheld.confidence(cnn)
    gone = np.isin(names.truth, withheld.classes)
    left = _listed([found.labels[place] for place in withheld.classes])
    said = [
        f"Trained without photos of {left}, the network has {percent(mine)} on the other classes "
        f"and {percent(mine_out)} on these: it has no name for them, and gives another, with a "
        f"confidence of {sure_out:.0%} in the middle where it has {sure:.0%} for what it knows. "
        f"{names.method.backbone} by names has {percent(theirs)} and {percent(theirs_out)}: no "
        "photo was needed, only a word."
    ]
    taught = [
        one
        for one in withheld.results
        if one.method.kind == TAUGHT and one.method.backbone == names.method.backbone
    ]
    for one in taught:
        known, out = withheld.shares(one)
        said.append(
            f"Taught by the photos of the other classes it has {percent(known)} and {percent(out)}"
            + (
                ": the names that nothing was shown of lose by it."
                if out < theirs_out and sign_test(one.right[gone], names.right[gone]) < _CHANCE
                else ": no loss that this test could show for the names without photos."
            )
        )
    return said


def _changed(found: Comparison) -> list[str]:
    if not found.changed:
        return []
    cnn, names = found.cnn, found.names
    said = []
    for kinds, what in ((list(DAMAGE), "damaged"), (list(STYLES), "redrawn")):
        mine = found.mean_changed(cnn.method.name, kinds)
        theirs = found.mean_changed(names.method.name, kinds)
        said.append(
            f"Of {what} copies of the photos the trained network labels {percent(mine)} rightly, "
            f"{_kept(mine, cnn)} of what it has on the photos as they are, and "
            f"{names.method.backbone} by names {percent(theirs)}, {_kept(theirs, names)}."
        )
    for result, who in ((cnn, "The trained network"), (names, names.method.backbone)):
        worst = min(found.changed, key=lambda one: found.changed_accuracy(result.method.name, *one))
        kind, severity = worst
        told = f"{kind} of severity {severity}" if severity else kind
        share = found.changed_accuracy(result.method.name, kind, severity)
        said.append(f"{who} suffers most from {told}: {percent(share)}.")
    return said


def _believed(found: Comparison) -> list[str]:
    low, high = found.cnn.interval
    return [
        f"{len(found.truth):,} photos tell an accuracy only so well: that of the trained network "
        f"is between {percent(low)} and {percent(high)} (95 %). It was trained once, with one "
        "seed, by one recipe: more time, larger pictures or weights from ImageNet would help it, "
        "and a better encoder would help the names.",
        f"Its probabilities are off by {percent(found.cnn.calibration_error)} on the average, "
        f"those of {found.names.method.backbone} by names by "
        f"{percent(found.names.calibration_error)} (expected calibration error).",
    ]


def _advice(found: Comparison) -> list[str]:
    cnn, names, best = found.cnn, found.names, best_with_photos(found)
    told_apart = sign_test(cnn.right, names.right) < _CHANCE
    if told_apart and names.accuracy > cnn.accuracy:
        said = [
            f"For photos and names such as these a network trained on {found.training_photos:,} "
            "photos of one's own gains nothing over the names: begin with them. What an encoder "
            "has not met may be another matter: measure it (clipsearch evaluate)."
        ]
    elif told_apart:
        said = [
            f"With {found.training_photos:,} labelled photos of classes that stay as they are, "
            "training pays against these encoders by names alone."
        ]
    else:
        said = [
            "By accuracy alone neither is to be preferred here; the names need no labelled photos "
            "and take new classes at once."
        ]
    if best is not None and _is_better(best, names) and _is_better(best, cnn):
        said.append(
            f"Where photos have been labelled, they are best spent on the encoder's features: "
            f"{best.method.name} has {percent(best.accuracy)}"
            + (" (clipsearch teach)." if best.method.kind == TAUGHT else ".")
        )
    elif best is not None and names.accuracy >= cnn.accuracy:
        said.append(
            "What labelled photos add to the names here is too little for this test to show "
            f"({best.method.name}: {percent(best.accuracy)}): they are better used for finding out "
            "how good the labels are (clipsearch evaluate)."
        )
    said.append(
        "A trained network is the choice where the classes have no names that an encoder knows "
        "(parts of a machine, say), where its size or speed decides, or where photos are many "
        "and unlike those that encoders have seen."
    )
    return said


def _is_better(one: Result, other: Result) -> bool:
    """By more than chance would bring."""
    return one.accuracy > other.accuracy and sign_test(one.right, other.right) < _CHANCE


def _by_names(found: Comparison, backbone: str) -> Result:
    return next(one for one in found.kinds(NAMES) if one.method.backbone == backbone)


def _kept(share: float, result: Result) -> str:
    return percent(share / result.accuracy) if result.accuracy else "nothing"


def _each(count: int) -> str:
    if not count:
        return "all"
    return "1 photo a class" if count == 1 else f"{count} photos a class"


def _points(difference: float, more: str, fewer: str) -> str:
    if abs(difference) < 5e-4:
        return "as many"
    word = more if difference > 0 else fewer
    return f"{abs(100 * difference):.1f} percentage points {word}"


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}{'s' * (count != 1)}"


def _listed(items: Sequence[str]) -> str:
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"
