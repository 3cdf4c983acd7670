"""The decoder process: answers one request after the other until its standard input ends.

It is a process of its own so that a decoder that crashes or hangs on a damaged file takes
nothing with it. ``worker_process`` starts it; the parent alone decides when it ends.
"""

from __future__ import annotations

import contextlib
import os
import signal
import stat
import sys
import traceback
import warnings
from typing import BinaryIO

from PIL import Image

from clipsearch.errors import ImageError, OptionError
from clipsearch.heap import give_back_memory, keep_freed_memory
from clipsearch.images import DecodedImage, decode_image, most_bytes_of_file, read_file
from indexer.decode_messages import (
    READY,
    DecodeOptions,
    FilePart,
    LocalSource,
    Message,
    NamedBytes,
    error_message,
    image_message,
    read_message,
    read_request,
    write_message,
)

_GRACE_SECONDS = 30
_LONGEST_ALARM = 2**31 - 1
_KEPT_PIXELS = 32_000_000  # 128 MB


def main() -> None:
    """Serve the pipes that are standard input and output; does not return."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group
    keep_freed_memory()
    requests, answers = _take_the_pipes()
    try:
        answers.write(b"\n" + READY)
        answers.flush()
        while _serve(requests, answers):
            pass
    except (OSError, EOFError):
        pass  # the parent is gone
    os._exit(0)


def _take_the_pipes() -> tuple[BinaryIO, BinaryIO]:
    """The pipes, and in their places nothing: what a C library prints must not come between."""
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    if os.environ.get("CLIPSEARCH_DEBUG"):
        os.dup2(2, 1)
    else:
        warnings.simplefilter("ignore")
        os.dup2(nothing, 1)
        os.dup2(nothing, 2)
    os.close(nothing)
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource  # not on Windows

        # Whoever runs this with core dumps on wants none for every damaged photo.
        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    return requests, answers


def _serve(requests: BinaryIO, answers: BinaryIO) -> bool:
    """Answer one request; False at the end. Its memory is free before the next is awaited."""
    message = read_message(requests)
    if message is None:
        return False
    source, options = read_request(message)
    del message
    _set_alarm(options.seconds + _GRACE_SECONDS)
    answer = _answer(source, options)
    _set_alarm(0)
    write_message(answers, answer)
    _give_back_memory(answer)
    return True


def _give_back_memory(answer: Message) -> None:
    """Pillow keeps some blocks of a picture for the next one, and those may hold all the others
    in this process: the allocator gives memory back from the end of its heap only. That much may
    stay of ordinary photos, not of a panorama."""
    image = answer.header.get("image")
    if image is not None:
        metadata = image["metadata"]
        if metadata["width"] * metadata["height"] <= _KEPT_PIXELS:
            return
    Image.core.clear_cache()  # type: ignore[attr-defined]
    give_back_memory()


def _set_alarm(seconds: float) -> None:
    """Let the system end this process: a decoder that hangs would outlive a killed parent."""
    if sys.platform != "win32":
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(int(min(seconds, _LONGEST_ALARM)))


def _answer(source: LocalSource, options: DecodeOptions) -> Message:
    try:
        return image_message(_decode(source, options))
    except (ImageError, OptionError) as error:
        return error_message(error)
    except MemoryError:
        return error_message(ImageError("too_large", "it needs more memory than there is"))
    except Exception as error:
        traceback.print_exc()  # seen with CLIPSEARCH_DEBUG
        what = f"the decoder failed on this file ({type(error).__name__}: {error})"
        return error_message(ImageError("corrupt", what))


def _decode(source: LocalSource, options: DecodeOptions) -> DecodedImage:
    if isinstance(source, FilePart):
        name, data = source.path, _read_part(source, options.max_megapixels)
    elif isinstance(source, str):
        name, data = source, read_file(source, options.max_megapixels)
    elif isinstance(source, NamedBytes):
        name, data = source.name, source.data
    else:
        name, data = "", source
    if options.jpeg == "device":
        from clipsearch.undecoded_jpeg import undecoded_jpeg

        undecoded = undecoded_jpeg(data, options.max_megapixels)
        if undecoded is not None:
            return undecoded
    return decode_image(
        data,
        name,
        options.geometry,
        decode=options.decode,
        max_megapixels=options.max_megapixels,
        thumbnail_side=options.thumbnail_side,
        resize=options.resize,
    )


def _read_part(part: FilePart, max_megapixels: float) -> bytes:
    """The bytes of the part. Raises ImageError: vanished, unreadable, truncated, too_large."""
    most = most_bytes_of_file(max_megapixels)  # as for whole files
    if part.offset < 0 or part.size < 0:
        raise ImageError("unreadable", "no part of a file is there")
    if part.size > most:
        raise ImageError("too_large", f"the file has more than {most >> 20} MiB")
    try:
        # Looked at before it is opened: opening a pipe waits for a writer.
        if not stat.S_ISREG(os.stat(part.path).st_mode):
            raise ImageError("unreadable", "what holds it is no regular file")
        with open(part.path, "rb") as file:
            there = os.fstat(file.fileno()).st_size - part.offset
            file.seek(part.offset)
            data = file.read(part.size) if part.size <= there else b""
            if len(data) < part.size:
                raise ImageError("truncated", "the file that holds it ends before it does")
            return data
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ImageError("vanished", "the file that holds it is not there any more") from error
    except (OSError, ValueError, OverflowError) as error:
        number = error.errno if isinstance(error, OSError) else None
        why = os.strerror(number).lower() if number else type(error).__name__
        raise ImageError("unreadable", f"the file cannot be read: {why}") from error
