"""docs/api.md is true: every command in it is answered by the real page, over a real socket."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.page_browser import PageServer, page_server
from ui.search_questions import PARAMETERS

__all__ = ["page_server"]

_TEXT = (Path(__file__).resolve().parents[1] / "docs" / "api.md").read_text("utf-8")
_BLOCKS = re.findall(r"^```sh\n(.*?)^```$", _TEXT, re.S | re.M)
_WRAPPED = 'set -euo pipefail\ncurl() { command curl -sS --fail-with-body --max-time 60 "$@"; }\n'


@pytest.mark.skipif(
    shutil.which("curl") is None or shutil.which("bash") is None, reason="needs curl and bash"
)
def test_every_command_is_answered(
    page_server: PageServer, photo_library: Path, pictures: Path, tmp_path: Path
) -> None:
    address = page_server(photo_library).rstrip("/")
    shutil.copyfile(pictures / "lion.jpg", tmp_path / "photo.jpg")
    assert len(_BLOCKS) > 8
    for block in _BLOCKS:
        script = _WRAPPED + block.replace("http://127.0.0.1:7860", address)
        done = subprocess.run(
            ["bash", "-c", script], cwd=tmp_path, capture_output=True, timeout=120, check=False
        )
        assert done.returncode == 0, f"{block}\n{done.stdout[-800:]!r}\n{done.stderr!r}"
        assert b'"error"' not in done.stdout
    assert (tmp_path / "small.jpg").read_bytes().startswith(b"\xff\xd8")
    assert (tmp_path / "large.jpg").read_bytes().startswith(b"\xff\xd8")
    assert (tmp_path / "some.zip").read_bytes().startswith(b"PK")
    assert "lion.jpg" in (tmp_path / "labels.csv").read_text("utf-8")
    assert (tmp_path / "animals.csv").read_text("utf-8").startswith("id,path")


def test_the_table_names_every_parameter() -> None:
    table = _TEXT.partition("| parameter | means |")[2].partition("\n\n")[0]
    cells = [line.split("|")[1] for line in table.splitlines()[2:]]
    named = [name for cell in cells for name in re.findall(r"`([a-z]+)`", cell)]
    assert sorted(named) == sorted(PARAMETERS)
    repeated = [name for cell in cells for name in re.findall(r"`([a-z]+)`\+", cell)]
    assert sorted(repeated) == sorted(name for name, repeats in PARAMETERS.items() if repeats)
