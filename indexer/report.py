"""What a run tells while it works, and its account at the end."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Planned:
    """Told before the first image is encoded.

    found : files of all kinds. new : images to encode, of ``new_bytes`` bytes together.
    seconds : about how long that will take; None when it is too little to measure.
    disk_bytes : about how much the index will grow. model, device : what encodes.
    """

    found: int
    new: int
    unchanged: int
    new_bytes: int
    seconds: float | None
    disk_bytes: int
    model: str
    device: str


@dataclass(frozen=True)
class BackendPreparing:
    """Told before something that takes a while and is done once for a model on this machine, so
    that a back-end can encode: its name, and a line for people that says what."""

    backend: str
    line: str


@dataclass(frozen=True)
class BackendChosen:
    """Told when another back-end than the reference encodes: its name, and a line for people
    that says how near to the reference it is."""

    backend: str
    line: str


@dataclass(frozen=True)
class Encoded:
    """Told as images are encoded (or found to be unreadable): ``count`` more."""

    count: int


@dataclass(frozen=True)
class Pace:
    """Told about once a second while images are encoded: what the last seconds were bound by.

    verdict : for people, such as "encode-bound, decode 34 % busy". bound : "decode", "encode",
    "write" or "balanced". shares : of "decode", "encode" and "write", the share of its time
    that it was busy, 0 to 1. images_per_second : encoded in these seconds.
    """

    verdict: str
    bound: str
    shares: dict[str, float]
    images_per_second: float


@dataclass(frozen=True)
class Committed:
    """Told when a shard became searchable; ``images`` counts this run's."""

    images: int


@dataclass(frozen=True)
class FillingSpace:
    """Told before images that the index knows are encoded with ``model`` too: how many have no
    vector of it yet, and what encodes."""

    images: int
    model: str
    device: str


@dataclass(frozen=True)
class SpaceFilled:
    """What was done for one of the models of an index.

    encoded : images that were encoded with it, in ``seconds``. lacking : images that have no
    vector of it still, because no file is there that holds them, or of what ``why`` says.
    """

    model: str
    space: str
    encoded: int
    lacking: int
    seconds: float
    why: str = ""


@dataclass(frozen=True)
class Difference:
    """One file that is not as the index knows it. ``before`` is where a moved one was."""

    kind: str
    path: str
    before: str | None = None


@dataclass(frozen=True)
class Forecast:
    """What a run would do. ``changes`` counts the differences by kind; ``offline`` are folders
    of the index that are not there now; the rest is as in ``BuildReport``."""

    index: str
    found: int
    unchanged: int
    encode: int
    encode_bytes: int
    skipped: int
    ignored: int
    ignored_kinds: dict[str, int] = field(default_factory=dict)
    changes: dict[str, int] = field(default_factory=dict)
    offline: tuple[str, ...] = ()
    not_there: int = 0
    unreadable: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class FailedPart:
    """A part of a run on other machines that was given up.

    images : how many it has. first : the file of the first. tries : how often it was begun.
    reason : what went wrong the last time. rows : of the files, in the table of the scan; none
    in the account of a run that is over.
    """

    images: int
    first: str
    tries: int
    reason: str
    rows: tuple[int, ...] = ()

    @property
    def text(self) -> str:
        """In one line."""
        return (
            f"a part of {self.images:,} image{'s' * (self.images != 1)} from {self.first} on, "
            f"after {self.tries} tries: {self.reason}"
        )


@dataclass(frozen=True)
class BuildReport:
    """What a run did. ``found`` = ``indexed`` + ``copies`` + ``skipped`` + ``ignored`` +
    ``given_up``.

    indexed : found files that are in the index with a content of their own; of these ``new``
    were encoded by this run. copies : found files whose content another file holds too.
    skipped : images that could not be taken, by reason in ``skip_reasons``. ignored : files
    that are no images, by extension in ``ignored_kinds``. missing : files that the index
    knows and that are gone. moved : files whose content was at another place so far.
    offline : folders of the index that are not there now. not_there : files of a list that are
    not there and that the index does not know. unreadable : folders that could not be listed,
    and why. spaces : what was done for models that images had no vector of. verdict, shares :
    what the encoding was bound by, as in ``Pace``; "" and nothing where that is not known.
    failed : parts that other machines could not do; given_up : found files in them, which the
    next run tries again.
    """

    index: str
    model: str
    found: int
    indexed: int
    new: int
    copies: int
    skipped: int
    ignored: int
    missing: int
    moved: int
    encode_seconds: float
    generation: int
    offline: tuple[str, ...] = ()
    not_there: int = 0
    skip_reasons: dict[str, int] = field(default_factory=dict)
    skipped_examples: tuple[tuple[str, str], ...] = ()
    ignored_kinds: dict[str, int] = field(default_factory=dict)
    unreadable: tuple[tuple[str, str], ...] = ()
    spaces: tuple[SpaceFilled, ...] = ()
    verdict: str = ""
    shares: dict[str, float] = field(default_factory=dict)
    failed: tuple[FailedPart, ...] = ()
    given_up: int = 0


@dataclass(frozen=True)
class Finished:
    """Told when all is saved and the index is free for others."""

    report: BuildReport


@dataclass(frozen=True)
class Preparing:
    """Told after ``Finished``, when something is encoded that the first search would have to
    encode otherwise. Cutting that short loses nothing."""


Event = (
    BackendPreparing
    | BackendChosen
    | Planned
    | FillingSpace
    | Encoded
    | Pace
    | Committed
    | Finished
    | Preparing
)
