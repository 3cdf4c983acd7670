"""Draw docs/demo.svg from what `clipsearch demo` really prints: python docs/make_demo.py"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text


def main() -> None:
    program = "from clipsearch.cli import main; main()"
    output = subprocess.run(
        [sys.executable, "-c", program, "demo"], capture_output=True, text=True, check=True
    ).stdout
    # The folder of the demo differs from user to user and says nothing.
    output = re.sub(r"\S*[/\\]demo[/\\](pictures|demo\.index)", r"\1", output)
    console = Console(record=True, width=100, file=open("/dev/null", "w"))  # noqa: SIM115
    shown = output.partition("\nNow yours")[0]  # the closing hints are in the README anyway
    for line in shown.strip("\n").splitlines():
        console.print(Text(line, style="bold" if line.startswith("$") else ""))
    drawing = console.export_svg(title="clipsearch demo")
    # The fonts would come from another site; the reader's own monospace will do.
    drawing = re.sub(r"@font-face \{.*?\}\s*", "", drawing, flags=re.S)
    drawing = drawing.replace("font-family: Fira Code, monospace", "font-family: monospace")
    Path(__file__).with_name("demo.svg").write_text(drawing, encoding="utf-8")


if __name__ == "__main__":
    main()
