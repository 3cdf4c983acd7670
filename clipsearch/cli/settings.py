"""Settings: flags beat CLIPSEARCH_* variables beat config.toml."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Any

from clipsearch.errors import OptionError


def config_path() -> Path:
    """The user's config.toml, or the file CLIPSEARCH_CONFIG names."""
    named = os.environ.get("CLIPSEARCH_CONFIG")
    if named:
        return Path(named)
    import platformdirs

    return Path(platformdirs.user_config_dir("clipsearch", appauthor=False), "config.toml")


class _ForEveryCommand(dict[str, Any]):
    """click's default map: a table of the command's own, over the settings for all."""

    def get(self, key: str, default: Any = None) -> Any:
        shared = {name: value for name, value in self.items() if not isinstance(value, dict)}
        own = super().get(key)
        if isinstance(own, dict):
            return {**shared, **own}
        return shared if own is None else own


def default_map() -> dict[str, Any]:
    """What config.toml sets: keys at the top for every command that has such an option,
    tables such as [search] for one. An empty map when there is no such file.

    Raises OptionError when the file cannot be read or is no TOML.
    """
    path = config_path()
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        if os.environ.get("CLIPSEARCH_CONFIG"):
            raise OptionError(f"CLIPSEARCH_CONFIG names a file that is not there: {path}") from None
        return {}
    except (NotADirectoryError, PermissionError):
        # A settings folder that is not ours to read (cron, sudo, a container) holds no settings.
        if not os.environ.get("CLIPSEARCH_CONFIG"):
            return {}
        raise OptionError(
            f"cannot read the settings that CLIPSEARCH_CONFIG names: {path}"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError(f"cannot read the settings in {path}: {error}") from error
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise OptionError(f"the settings in {path} are no TOML: {error}") from error
    return _ForEveryCommand(_with_underscores(document))


def _with_underscores(document: dict[str, Any]) -> dict[str, Any]:
    return {
        key.replace("-", "_"): _with_underscores(value) if isinstance(value, dict) else value
        for key, value in document.items()
    }


def offline() -> bool:
    """Whether CLIPSEARCH_OFFLINE forbids every use of a network."""
    return os.environ.get("CLIPSEARCH_OFFLINE", "") not in ("", "0")
