"""The card of a fine-tuned model: from what it was made, how, and what it gained and lost."""

from __future__ import annotations

from clipsearch import __version__
from clipsearch.model_names import folder_of
from indexer.fine_tuning_records import BeforeAfter, FineTuned

_NAMED = 40


def model_card(found: FineTuned) -> str:
    """The card as Markdown."""
    recipe = found.recipe
    origin = folder_of(found.model)
    name = _plain(found.model if origin is None else origin.name)
    lines = [
        f"# {name}, fine-tuned",
        "",
        f"Made by clipsearch {__version__} from `{name}`: its image tower was "
        f"trained on {found.photos:,} photos of {len(found.classes):,} classes, and "
        f"{found.alpha:.0%} of what came of it is in these weights (alpha {found.alpha:g}, as in "
        "WiSE-FT); the text tower is as it was. The terms of the original weights hold for these.",
        "",
        f"Classes: {_names(found.classes)}.",
        *([f"Left out of the training: {_names(found.left_out)}."] if found.left_out else []),
        "",
        f"Recipe: a linear probe for {recipe.probe_epochs} epochs (AdamW at "
        f"{recipe.probe_rate:g}), then {_counted(recipe.epochs, 'epoch', 'epochs')} of the whole "
        f"tower (at {recipe.rate:g}), batches of {recipe.batch_size}, windows of "
        f"{recipe.least_crop:.0%} to 100 % of a photo, half of them mirrored; seed {recipe.seed}.",
        "",
        "| top-1 among all labels, % | photos | before | a linear probe instead | after |",
        "|---|---|---|---|---|",
        *(_row(result) for result in found.results),
        "",
        *_remarks(found),
    ]
    if len(found.curve) > 2:
        lines += [
            "",
            "| alpha | photos held out, % | classes left out, % |",
            "|---|---|---|",
            *(
                f"| {point.alpha:g} | {_percent(point.trained)} | {_percent(point.others)} |"
                for point in found.curve
            ),
        ]
    return "\n".join(lines) + "\n"


def _remarks(found: FineTuned) -> list[str]:
    told = []
    if found.chosen:
        on = " and those of classes left out" if found.curve[0].others is not None else ""
        told.append(
            f"Alpha was chosen on the photos held out{on}, so these figures flatter a little; "
            "photos of --test have no say."
        )
    if found.rehearsed:
        told.append(
            f"The rehearsal was a training without {_names(found.rehearsed)}, which the model here "
            "was trained on: it shows what such a training does to words that it is not about."
        )
    told.append("What is measured on classes that were trained on is not zero-shot.")
    return told


def _row(result: BeforeAfter) -> str:
    return (
        f"| {result.what}, {_counted(result.classes, 'class', 'classes')} | {result.photos:,} "
        f"| {_percent(result.before)} | {_percent(result.probe)} | {_percent(result.after)} |"
    )


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}".removesuffix("%")


def _counted(count: int, one: str, several: str) -> str:
    return f"{count:,} {one if count == 1 else several}"


def _names(names: tuple[str, ...]) -> str:
    shown = ", ".join(_plain(name) for name in names[:_NAMED])
    more = len(names) - _NAMED
    return f"{shown} and {more:,} more" if more > 0 else shown


def _plain(text: str) -> str:
    """A name that can do nothing to the text around it."""
    safe = "".join(letter if letter.isprintable() else " " for letter in text)
    return safe.encode("utf-8", "replace").decode().replace("|", "/").replace("`", "'")
