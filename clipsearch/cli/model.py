"""``clipsearch model``: list, get, path, towers; add, use and drop come from the indexer."""

from __future__ import annotations

import dataclasses
import importlib

import click

from clipsearch.cli import FOUND, NOTHING_FOUND
from clipsearch.cli.output import (
    for_display,
    human_bytes,
    json_line,
    on_terminal,
    table,
    write_bytes,
)
from clipsearch.cli.settings import offline
from clipsearch.errors import ModelNotHereError

_OF_THE_INDEXER = ("add", "use", "drop")


class _ModelGroup(click.Group):
    """Imports what changes an index when it is asked for; nothing else refers upwards."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*super().list_commands(ctx), *_OF_THE_INDEXER]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in _OF_THE_INDEXER:
            command: click.Command = getattr(
                importlib.import_module("indexer.model_command"), cmd_name
            )
            return command
        return super().get_command(ctx, cmd_name)


@click.group(cls=_ModelGroup)
def model() -> None:
    """List the models, fetch one, give an index the vectors of another one and move to it."""


def _number(value: float | None, text: str) -> str:
    return "-" if value is None else text.format(value)


@model.command("list")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def list_models(as_json: bool) -> int:
    """Show the recommended models: accuracy, speed, size, licence, and whether they are here.

    Besides these, any open_clip name (MODEL/PRETRAINED), hf-hub:ORG/NAME, well-known Hugging
    Face id, or folder with open_clip_config.json and safetensors weights will do.
    """
    from clipsearch.model_names import weights_here
    from clipsearch.presets import PRESETS

    here = {preset.name: weights_here(preset.model) for preset in PRESETS}
    if as_json:
        for preset in PRESETS:
            place = here[preset.name]
            document = dataclasses.asdict(preset)
            write_bytes(json_line({**document, "here": None if place is None else str(place)}))
        return FOUND
    rows = [
        (
            preset.name,
            preset.model,
            _number(preset.imagenet_top1, "{:.1f} %"),
            _number(preset.cpu_images_per_second, "{:g}/s"),
            human_bytes(preset.download_mb * 1e6) if preset.download_mb else "built in",
            preset.licence,
            "yes" if here[preset.name] else "no",
        )
        for preset in PRESETS
    ]
    click.echo(
        table(
            ("name", "model", "ImageNet", "images (CPU)", "download", "licence", "here"),
            rows,
            "  rrr",
        )
    )
    if on_terminal():
        click.echo()
        click.echo(table(("", ""), [(preset.name, preset.note) for preset in PRESETS]).lstrip())
        click.echo(
            "\nImageNet: published zero-shot top-1. images (CPU): measured, encoder alone, float32 "
            "on two cores.\nFetch one with: clipsearch model get NAME"
        )
    return FOUND


@model.command("get")
@click.argument("name")
def get_model(name: str) -> int:
    """Fetch the weights of the model NAME, so that it works without a network from then on."""
    from clipsearch.model_names import resolve_model_name, weights_here

    canonical = resolve_model_name(name)
    if offline() and weights_here(canonical) is None:
        raise ModelNotHereError(
            f"{canonical} is not on this machine and CLIPSEARCH_OFFLINE forbids fetching it: "
            "unset it, or use --model mini"
        )
    from clipsearch.open_clip_encoder import fetch_model

    click.echo(f"Getting {canonical}; it loads once to be sure.", err=True)
    click.echo(str(fetch_model(canonical)))
    return FOUND


@model.command("path")
@click.argument("name")
def model_path(name: str) -> int:
    """Print where the weights of the model NAME are on this machine; exit 1 when nowhere."""
    from clipsearch.model_names import not_here_message, resolve_model_name, weights_here

    canonical = resolve_model_name(name)
    place = weights_here(canonical)
    if place is None:
        click.echo(not_here_message(canonical), err=True)
        return NOTHING_FOUND
    click.echo(str(place))
    return FOUND


@model.command("towers")
@click.option("--forget", metavar="MODEL", help="Remove those of this model; all for every one.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def towers(forget: str | None, as_json: bool) -> int:
    """List the towers in your cache: what does without loading torch.

    A text tower answers new words. One is made when a model has been loaded, and made again when
    it is missed. It points at the weights where they are, or holds a copy where they lie in no
    safetensors file. Towers of images are what 'index --backend onnx' and onnx-int8 made.
    """
    from clipsearch.onnx_files import forget_onnx_towers, saved_onnx_towers
    from clipsearch.text_tower_files import forget_towers, saved_towers

    if forget is not None:
        which = None if forget == "all" else forget
        gone = [(tower.model, tower.path) for tower in forget_towers(which)]
        gone += [(tower.model, tower.path) for tower in forget_onnx_towers(which)]
        for model_name, path in gone:
            click.echo(f"Forgotten: {for_display(model_name or path.name)}", err=True)
        if not gone:
            click.echo(f"No text tower of {for_display(forget)}.", err=True)
        return FOUND if gone else NOTHING_FOUND
    found, of_images = saved_towers(), saved_onnx_towers()
    if not found and not of_images:
        click.echo("No text towers: the next 'clipsearch index' makes one.", err=True)
        return NOTHING_FOUND
    if as_json:
        for tower in found:
            write_bytes(json_line({**dataclasses.asdict(tower), "path": str(tower.path)}))
        for image_tower in of_images:
            document = {**dataclasses.asdict(image_tower), "path": str(image_tower.path)}
            write_bytes(json_line({**document, "has_copy": True}))
        return FOUND
    rows = [
        (
            for_display(tower.model or "(damaged)"),
            human_bytes(tower.bytes),
            "copied" if tower.has_copy else "the model's own",
            str(tower.path),
        )
        for tower in found
    ]
    rows += [
        (
            for_display(image_tower.model or "(damaged)"),
            human_bytes(image_tower.bytes),
            f"images, {image_tower.precision}",
            str(image_tower.path),
        )
        for image_tower in of_images
    ]
    click.echo(table(("model", "size", "weights", "path"), rows, " r"))
    return FOUND
