"""The files of a saved label set: ``labels/<name>.json`` and the Parquet file it names.

The JSON says what the set is and vouches for the Parquet file by its sha256; that one has a row
for every image and label, a null label for an image that got none, so that which images were
looked at is known. A new table comes under a new name, before the JSON that names it. A set of
``classify`` has a third file (``label_scores``), which only saves time.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipsearch.encoder import Float32
from clipsearch.errors import IndexFormatError, LabelError
from clipsearch.label_definitions import check_definitions
from clipsearch.label_scores import ScoresRef
from clipsearch.manifest import FileRef
from clipsearch.records import Int32
from clipsearch.shards import Int64
from clipsearch.tag_statistics import CorpusStatistics

FORMAT = "clipsearch label set"
FORMAT_VERSION = 2
"""Of sets that an earlier clipsearch would score otherwise: with definitions, or taught."""
_PLAIN_VERSION = 1
CLASSIFY, TAG, DISCOVER = "classify", "tag", "discover"
SECOND_SCORE = {CLASSIFY: "probability", TAG: "cosine", DISCOVER: "margin"}
"""What stands beside the score in the table of a set of each kind."""
_LONGEST_NAME = 64
_NAME_BYTES = 150  # with what is added to it still a file name everywhere
# Windows keeps these for devices, whatever follows a dot.
_DEVICES = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³])(\..*)?", re.I)
_TOKEN = r"[0-9a-f]{12}"


@dataclass(frozen=True)
class LabelSet:
    """What a saved label set is, beside its rows.

    kind : "classify" or "discover" (one label an image at most) or "tag" (any number).
    labels : the C labels. templates, context : how they became prompts.
    index, space : uuid of the index, fingerprint of the space that scored.
    generation, next_id : of the index when it was scored.
    thresholds : what a label's score had to reach, C numbers, None but for "tag".
    most : how many labels an image could have at most, None for any number.
    statistics : what scores new images alike, None but for "tag".
    table : the Parquet file, by its name inside ``labels/``.
    scores : the file of remembered scores, None but for "classify".
    discovery : the discovery whose clusters the labels of "discover" are, and discovery_state
        what it was then; a set that follows its discovery is brought up to date with it.
    none : what an image had to reach to get a label; None where that is not known.
    definitions : what a file says of the labels beside their names (``label_definitions``).
    teaching : the table of confirmed examples (``label_examples``). temperature : what logits
        were divided by. version : counts up with every save that changes anything.
    """

    name: str
    kind: str
    labels: tuple[str, ...]
    templates: tuple[str, ...]
    context: str | None
    index: str
    space: str
    generation: int
    next_id: int
    saved_at: str
    software: str
    thresholds: tuple[float, ...] | None = None
    most: int | None = None
    statistics: CorpusStatistics | None = None
    table: FileRef | None = None
    scores: ScoresRef | None = None
    discovery: str | None = None
    discovery_state: str | None = None
    none: NoneRule | None = None
    definitions: dict[str, Any] | None = None
    teaching: FileRef | None = None
    temperature: float | None = None
    version: int = 1


@dataclass(frozen=True)
class NoneRule:
    """What an image has to reach to get a label (``abstaining``).

    setting : "auto", "off" or the number that was asked for. threshold : what came of it.
    """

    setting: str
    threshold: float


@dataclass(frozen=True)
class LabelRows:
    """Images and their labels, by rising id and, of one image, best first.

    ids : (n,) int64, repeated for an image of several labels. labels : (n,) int32, positions in
    the set's labels, -1 for an image without one. scores : (n,) float32, what ranks (the cosine,
    or for "tag" the standardised score). second : (n,) float32, the probability, for "tag" the
    cosine, for "discover" the margin. Scores of an image without a label mean nothing.
    """

    ids: Int64
    labels: Int32
    scores: Float32
    second: Float32


def check_name(name: str) -> str:
    """The name of a label set, fit to be a file name on every system.

    Raises LabelError for one that is not.
    """
    normal = unicodedata.normalize("NFC", name)
    if not is_name(normal):
        raise LabelError(
            f"{name!r} is no name for a label set: expected up to {_LONGEST_NAME} letters, digits "
            "and - _ . such as pets or trip-2024, beginning with a letter or digit, and not a "
            "device of Windows such as con"
        )
    return normal


def is_name(name: str) -> bool:
    """Whether ``name``, composed (NFC), is fit to be a file name on every system."""
    return (
        1 <= len(name) <= _LONGEST_NAME
        and all(letter.isalnum() or letter in "-_." for letter in name)
        and len(name.encode()) <= _NAME_BYTES
        and name[0] not in ".-"
        and name[-1] != "."
        and _DEVICES.fullmatch(name) is None
    )


def names_in(folder: Path) -> list[str]:
    """The names that have a JSON in a folder of label sets or of discoveries, in order."""
    try:
        found = os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []
    names = [
        unicodedata.normalize("NFC", file.removesuffix(".json"))
        for file in found
        if file.endswith(".json")
    ]
    return sorted(name for name in names if is_name(name))


def same_name(name: str) -> str:
    """What is equal for names that one folder cannot hold side by side on every system."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def json_name(name: str) -> str:
    """ "pets" -> "pets.json"."""
    return f"{name}.json"


def table_name(name: str, token: str) -> str:
    """The Parquet file of a set; ``token`` is 12 hexadecimal digits."""
    return f"{name}.{token}.parquet"


def scores_name(name: str, token: str) -> str:
    """The file of what a set remembers, beside the table of the same token."""
    return f"{name}.{token}.scores"


def examples_name(name: str, token: str) -> str:
    """The Parquet file of a set's confirmed examples, beside the table of the same token."""
    return f"{name}.{token}.examples"


def version_name(label_set: LabelSet) -> str:
    """The file in which a set is kept once another has its name: beside its table."""
    assert label_set.table is not None
    return f"{label_set.table.name.removesuffix('.parquet')}.version"


def is_version_of(name: str, file: str) -> bool:
    """Whether ``file`` is what ``version_name`` says of an earlier set ``name``."""
    return _is_named(name, file, "version")


def is_examples_of(name: str, file: str) -> bool:
    """Whether ``file`` has examples of the set ``name``, now or earlier."""
    return _is_named(name, file, "examples")


def is_table_of(name: str, file: str) -> bool:
    """Whether ``file`` is a table of the set ``name``, now or earlier."""
    return _is_named(name, file, "parquet")


def is_file_of(name: str, file: str) -> bool:
    """Whether ``file`` belongs to the set ``name``, now or earlier; its JSON is not meant."""
    return _is_named(name, file, "parquet|scores|examples|version")


def _is_named(name: str, file: str, endings: str) -> bool:
    normal = unicodedata.normalize("NFC", file)
    return re.fullmatch(rf"{re.escape(name)}\.{_TOKEN}\.({endings})", normal) is not None


def cure(name: str) -> str:
    """What every message about a damaged label set ends with."""
    return f"save it again with --save-as {name}, or delete labels/{json_name(name)}"


def set_bytes(label_set: LabelSet) -> bytes:
    """``label_set`` as JSON, with a checksum over itself."""
    is_plain = label_set.definitions is None and label_set.teaching is None
    document = {
        "format": FORMAT,
        "format_version": _PLAIN_VERSION if is_plain else FORMAT_VERSION,
        **dataclasses.asdict(label_set),
    }
    document = json.loads(json.dumps(document, allow_nan=False))
    document["checksum"] = _checksum(document)
    return (json.dumps(document, indent=1) + "\n").encode("ascii")


def parse_set(name: str, data: bytes) -> LabelSet:
    """The label set in the bytes of ``labels/<name>.json``.

    Raises IndexFormatError when they are damaged, foreign, or of a newer format.
    """
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        raise damaged(name, "not JSON") from None
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise IndexFormatError(
            f"labels/{json_name(name)} in the index is no label set: {cure(name)}"
        )
    version = document.get("format_version")
    if not isinstance(version, int) or not 1 <= version <= FORMAT_VERSION:
        raise IndexFormatError(
            f"the label set {name} has format version {version}, this clipsearch reads up to "
            f"{FORMAT_VERSION}: upgrade clipsearch"
        )
    if document.pop("checksum", None) != _checksum(document):
        raise damaged(name, "its checksum does not match")
    try:
        found = _parse(document)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise damaged(name, str(error)) from error
    if same_name(found.name) != same_name(name):  # a file that somebody has renamed
        raise IndexFormatError(
            f"labels/{json_name(name)} in the index holds the label set {found.name}: rename it "
            f"back, or {cure(name)}"
        )
    return found


def _parse(document: dict[str, Any]) -> LabelSet:
    known = {item.name for item in dataclasses.fields(LabelSet)}
    fields = {name: value for name, value in document.items() if name in known}
    for name in ("labels", "templates"):
        fields[name] = tuple(fields[name])
        if not fields[name] or not all(isinstance(text, str) for text in fields[name]):
            raise ValueError(f"the {name} are no texts")
    if fields["kind"] not in SECOND_SCORE:
        raise ValueError(f"{fields['kind']!r} is no kind of label set")
    table = FileRef(**fields["table"])
    if not is_table_of(check_name(fields["name"]), table.name):
        raise ValueError(f"{table.name!r} is no table of it")
    fields["table"] = table
    fields["scores"] = _scores_ref(fields["name"], fields.get("scores"))
    if fields["thresholds"] is not None:
        fields["thresholds"] = tuple(float(value) for value in fields["thresholds"])
    if fields["statistics"] is not None:
        fields["statistics"] = CorpusStatistics.from_dict(fields["statistics"])
    if fields.get("none") is not None:
        fields["none"] = _none_rule(**fields["none"])
    if fields.get("teaching") is not None:
        fields["teaching"] = FileRef(**fields["teaching"])
        if not is_examples_of(fields["name"], fields["teaching"].name):
            raise ValueError(f"{fields['teaching'].name!r} are no examples of it")
    if fields.get("temperature") is not None:
        fields["temperature"] = float(fields["temperature"])
    if type(fields.get("version", 1)) is not int or fields.get("version", 1) < 1:
        raise ValueError("its version is no number from 1 on")
    found = LabelSet(**fields)
    if found.definitions is not None:
        check_definitions(found.definitions, found.labels)
    if found.kind == TAG:
        numbers = found.thresholds or ()
        is_whole = found.statistics is not None and len(found.statistics.means) == len(found.labels)
        if (
            not is_whole
            or len(numbers) != len(found.labels)
            or not all(map(math.isfinite, numbers))
        ):
            raise ValueError("it lacks thresholds or statistics")
    return found


def _none_rule(setting: str, threshold: float) -> NoneRule:
    if not isinstance(setting, str) or not 0 <= float(threshold) <= 1:
        raise ValueError("what an image has to reach is no number from 0 to 1")
    return NoneRule(setting, float(threshold))


def _scores_ref(name: str, document: object) -> ScoresRef | None:
    """What is remembered, None where there is nothing that this version can read."""
    if not isinstance(document, dict):
        return None
    try:
        found = ScoresRef(**{**document, "shards": tuple(document["shards"])})
        numbers = (found.rows, found.bytes, found.dim, found.seal)
        is_sane = all(type(number) is int and number >= 0 for number in numbers)
        is_sane = is_sane and all(isinstance(sha256, str) for sha256 in found.shards)
        finite = math.isfinite(found.drift) and math.isfinite(found.logit_scale)
        is_ours = _is_named(name, found.name, "scores")
    except (KeyError, TypeError):
        return None
    return found if is_sane and finite and is_ours else None


def _checksum(document: dict[str, Any]) -> str:
    text = json.dumps(document, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def damaged(name: str, why: str) -> IndexFormatError:
    """The error for a set whose files are not what was saved."""
    return IndexFormatError(f"the label set {name} is damaged ({why}): {cure(name)}")
