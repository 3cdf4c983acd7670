"""Which model is meant where no index has one yet."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from clipsearch.cli.output import human_bytes
from clipsearch.cli.places import named_index, nearest_index, user_index
from clipsearch.cli.settings import offline
from clipsearch.errors import IndexNotFoundError, ModelNotChosenError, OptionError
from clipsearch.presets import BUILT_IN, RECOMMENDED, find_preset

if TYPE_CHECKING:
    from clipsearch.encoder import Encoder, Space


def can_ask() -> bool:
    """Whether there is a person to ask who may also fetch something."""
    return sys.stdin.isatty() and sys.stderr.isatty() and not offline()


def ask_for_model(note: str) -> str:
    """The name of the model that a person picks; what is not here is fetched then.

    note : what is to be known of the choice, the end of a sentence.
    """
    preset = find_preset(RECOMMENDED)
    if preset is None:
        raise OptionError(f"the recommended model {RECOMMENDED} is not among the presets")
    click.echo(
        f"No model is on this machine yet, and {note}.\n"
        f"  1  {preset.model}, recommended; fetches {human_bytes(preset.download_mb * 1e6)} once\n"
        "  2  mini, built in; quick, weak, no network",
        err=True,
    )
    answer = click.prompt("Which one", type=click.Choice(["1", "2"]), default="1", err=True)
    return preset.model if answer == "1" else BUILT_IN


def chosen_encoder(context: click.Context) -> Encoder:
    """The model that was named; else that of the index that a command without images would
    ask; else what ``clipsearch index`` would take for a new one."""
    from clipsearch.encoder import load_encoder
    from clipsearch.model_names import choose_model
    from clipsearch.query_encoders import QueryEncoders

    # Torch's threads would spin while they wait, and keep the cores from those that decode.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("KMP_BLOCKTIME", "0")
    given = context.params
    model, device = given["model"], given["device"]
    may_fetch = not offline()
    if context.get_parameter_source("model") != click.core.ParameterSource.COMMANDLINE:
        may_fetch = False
        # What is set for every command is for new indexes; one that is there keeps its model.
        space = _space_of_index(context)
        if space is not None:
            return QueryEncoders(None, device, None).encoder(space)
        model = os.environ.get("CLIPSEARCH_MODEL") or model
    if model is None:
        try:
            model = choose_model()
        except ModelNotChosenError:
            if not can_ask():
                raise
            model, may_fetch = ask_for_model("labels need one"), True
    return load_encoder(model, device=device, allow_download=may_fetch)


def _space_of_index(context: click.Context) -> Space | None:
    """The space that the index answers in; None where there is no index, or an empty one."""
    from clipsearch.manifest import read_manifest
    from clipsearch.spaces import space_named
    from clipsearch.store import open_store

    named = context.params["index_path"]
    try:
        here = None if named is not None else nearest_index(Path.cwd())
        place = named_index(named) if named is not None else here or user_index()
    except OptionError as error:
        raise OptionError(f"{error}, or a model with --model") from None
    is_typed = context.get_parameter_source("index_path") == click.core.ParameterSource.COMMANDLINE
    try:
        manifest = read_manifest(open_store(place), str(place))
    except IndexNotFoundError:
        if is_typed:
            raise
        return None
    if manifest.default_space is None and not is_typed:
        return None
    return space_named(manifest, None, str(place))
