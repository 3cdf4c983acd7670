"""Which index a command means when none is named."""

from __future__ import annotations

from pathlib import Path

import click

from clipsearch.backends import BACKEND_CHOICES
from clipsearch.cli.settings import offline
from clipsearch.errors import IndexNotFoundError, OptionError
from clipsearch.remote_urls import is_remote, refuse_other_urls

_MANIFEST_NAME = "manifest.json"
"""As in clipsearch.manifest, whose imports a command that names an option can do without."""


def user_index() -> Path:
    """The index in the user's data folder."""
    import platformdirs

    return Path(platformdirs.user_data_dir("clipsearch", appauthor=False), "photos.index")


def nearest_index(start: Path) -> Path | None:
    """The ``*.index`` folder in ``start`` or the nearest folder above it.

    OptionError when that folder holds several.
    """
    for folder in (start, *start.parents):
        try:
            found = sorted(
                path for path in folder.glob("*.index") if (path / _MANIFEST_NAME).is_file()
            )
        except OSError:
            continue
        if len(found) > 1:
            names = ", ".join(path.name for path in found)
            raise OptionError(f"several indexes in {folder} ({names}): name one with --index")
        if found:
            return found[0]
    return None


def named_index(named: str) -> Path:
    """The folder of the index that was named; of a URL the mirror, brought up to date.

    Raises OptionError for a URL of something else, and for any while CLIPSEARCH_OFFLINE is set,
    and as ``index_folder``.
    """
    refuse_other_urls(named)
    if not is_remote(named):
        return Path(named)
    if offline():
        raise OptionError(f"CLIPSEARCH_OFFLINE forbids the network, and {named} is not here")
    from clipsearch.store import index_folder

    return index_folder(named)


def existing_index(named: str | None) -> Path:
    """The index to ask: the one named, else the nearest, else the user's own."""
    if named is not None:
        return named_index(named)
    place = nearest_index(Path.cwd()) or user_index()
    if not (place / _MANIFEST_NAME).is_file():
        raise IndexNotFoundError(
            "no index here: make one with 'clipsearch index FOLDER', or name one with --index"
        )
    return place


def index_to_write(named: str | None) -> Path:
    """The index to add to: the one named, else the nearest, else the user's own."""
    if named is not None:
        return named_index(named)
    return nearest_index(Path.cwd()) or user_index()


index_option = click.option(
    "--index",
    "index_path",
    metavar="INDEX",
    envvar="CLIPSEARCH_INDEX",
    type=click.Path(path_type=str),
    help="The index folder, or its URL (s3://bucket/photos.index). Without it: the nearest "
    "*.index folder from here upwards, else one in your data folder.",
)

device_option = click.option(
    "--device",
    metavar="DEVICE",
    envvar="CLIPSEARCH_DEVICE",
    help="cpu, cuda, cuda:1 or mps. Without it: the fastest there is.",
)

devices_option = click.option(
    "--device",
    metavar="DEVICE",
    envvar="CLIPSEARCH_DEVICE",
    help="cpu, cuda, cuda:1 or mps; several with commas between (cuda:0,cuda:1) or all, a process "
    "each. Without it: the fastest there is.",
)

backend_option = click.option(
    "--backend",
    type=click.Choice(BACKEND_CHOICES),
    envvar="CLIPSEARCH_BACKEND",
    help="What encodes images: torch is the reference; torch-bf16 and torch-fp16 compute in half "
    "precision; onnx and onnx-int8 need pip install 'clipsearch[onnx]'. One other than torch has "
    "to agree with it on real photos first. auto takes the fastest whose vectors are the same.",
)

moved_model_option = click.option(
    "--model",
    metavar="FOLDER",
    help="Where the index's own model folder is now, if it has moved since.",
)

space_option = click.option(
    "--space",
    "space",
    metavar="MODEL",
    help="Answer with the vectors of this model, which 'clipsearch model add' has brought into the "
    "index. Without it: the model that the index answers with.",
)
