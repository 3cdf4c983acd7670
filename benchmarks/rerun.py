"""How long does a run take over a collection that has not changed?

Makes FILES small, different images in a temporary folder, indexes them once, and then times
whole processes in turns: one that only walks the folder and stats every file, and
``clipsearch index`` over the same folder. Prints the median of each and their ratio.
"""

from __future__ import annotations

import argparse
import io
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image

_WALK = """
import os, sys
for folder, _, names in os.walk(sys.argv[1]):
    for name in names:
        os.stat(os.path.join(folder, name))
"""
_INDEX = "from clipsearch.cli import main; main()"


def make_files(folder: Path, count: int) -> None:
    """``count`` JPEGs of one small picture, each with a comment of its own."""
    stream = io.BytesIO()
    Image.radial_gradient("L").resize((64, 64)).save(stream, "JPEG")
    data = stream.getvalue()
    for start in range(0, count, 250):
        inside = folder / f"{start // 5000:03d}" / f"{start // 250:05d}"
        inside.mkdir(parents=True)
        for number in range(start, min(start + 250, count)):
            comment = b"%012d" % number
            header = b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment
            (inside / f"IMG_{number:07d}.jpg").write_bytes(data[:2] + header + data[2:])


def timed(*command: str) -> float:
    """Seconds of one process; it must end well."""
    begin = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        os.environ["XDG_CACHE_HOME"] = os.path.join(work, "home")
        photos, index = os.path.join(work, "photos"), os.path.join(work, "photos.index")
        make_files(Path(photos), options.files)
        python = sys.executable
        update = (python, "-c", _INDEX, "index", photos, "--index", index)
        print(f"indexing {options.files:,} files takes {timed(*update, '--model', 'mini'):.0f} s")
        walks, updates, starts = [], [], []
        for _ in range(options.rounds):
            walks.append(timed(python, "-c", _WALK, photos))
            updates.append(timed(*update))
            starts.append(timed(python, "-c", _INDEX, "--version"))
        walk, again = statistics.median(walks), statistics.median(updates)
        print(f"walk and stat   {walk:.3f} s ({min(walks):.3f} to {max(walks):.3f})")
        print(f"clipsearch index {again:.3f} s ({min(updates):.3f} to {max(updates):.3f})")
        print(f"clipsearch --version {statistics.median(starts):.3f} s")
        print(f"ratio {again / walk:.2f}")


if __name__ == "__main__":
    main()
