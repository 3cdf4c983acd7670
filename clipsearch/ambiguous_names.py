"""Names that mean several things one can photograph, and labels that a model cannot tell apart.

A name's meanings come from a list of our own, else from the nouns of ImageNet-21k (timm lists
them) or WordNet, where that is on disk: two of different kinds that the name is the first word
for, and neither is explained by the other, as the fur of the mink is. A word of everyday has its
everyday meaning unless our own list has it.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from clipsearch.background_words import background_words
from clipsearch.encoder import Float32
from clipsearch.errors import LabelError, MissingExtraError
from clipsearch.label_definitions import LabelDefinitions
from clipsearch.prompts import WordedLabels, Wording, same_label
from clipsearch.wordnet import WordNet

LEAST_SPREAD = 0.75
"""By how much the logits of two labels have to differ from image to image (a standard deviation)
for the model to tell one from the other; see benchmarks/class_names.py."""

_FEWEST_IMAGES = 30  # of fewer a spread says little
_MOST_COMPARED = 2000  # labels: all pairs of them are looked at
_MOST_LOOKED_UP = 500  # in WordNet
_SENSES = 4  # of a word in WordNet: rarer ones are seldom meant
_MEANINGS = """
    bank: money house, river bank; bark: tree bark, dog's bark; bass: fish, guitar; bat: animal,
    baseball bat; bolt: screw, lightning; bow: ribbon, weapon, ship's front; buck: deer, dollar;
    bulb: light bulb, flower bulb; calf: young cow, leg; cane: walking stick, sugar cane;
    cardinal: bird, priest; cell: prison cell, cell of the body; chest: box, body; china:
    porcelain, country; chip: microchip, potato chip; club: golf club, nightclub; coach: bus,
    trainer; colt: young horse, gun; cone: ice cream cone, pine cone, traffic cone; court:
    tennis court, court of law; crane: bird, construction machine; cricket: insect, sport; date:
    fruit, calendar day; dock: harbour, plant; drone: flying camera, male bee; fan: ventilator,
    supporter; file: tool, folder; fly: insect, fishing fly; foil: metal foil, fencing sword;
    game: sports match, video game, wild animals; glasses: spectacles, drinking glasses; gum:
    chewing gum, teeth; horn: animal's horn, instrument, car horn; jack: car jack, playing card;
    jaguar: big cat, car; jersey: shirt, cow; keyboard: of a computer, of a piano; kite: toy,
    bird of prey; kiwi: fruit, bird; lead: metal, dog's lead; lighter: cigarette lighter, boat;
    log: wood, journal; match: for lighting fire, sports match; mint: plant, sweet, coin
    factory; model: fashion model, scale model; mole: animal, skin spot; monitor: computer
    screen, lizard; mouse: animal, computer mouse; mustang: horse, car; nail: metal nail,
    fingernail; needle: sewing needle, pine needle, syringe; nut: food, metal nut; orange:
    fruit, colour; organ: instrument, part of the body; palm: tree, hand; pike: fish, spear;
    pitch: sports field, tar; pitcher: jug, baseball player; plane: aeroplane, carpenter's tool,
    tree; plant: green plant, factory; poker: card game, fireplace tool; pool: swimming pool,
    billiards; port: harbour, wine, socket; puma: big cat, shoe brand; pump: for water, shoe;
    punch: drink, blow; pupil: of the eye, at school; rail: railway, handrail, bird; ram: sheep,
    computer memory; ray: fish, light; roller: paint roller, hair roller; ruler: for measuring,
    king; sage: herb, wise man; scale: for weighing, of a fish; seal: animal, stamp; slide:
    playground slide, microscope slide; snapper: fish, photographer; sole: fish, of a shoe;
    spade: shovel, playing card; speaker: loudspeaker, person; spring: season, water, coil;
    spur: of a boot, mountain; squash: vegetable, sport; stall: market stall, stable; straw:
    hay, drinking straw; suit: clothes, playing cards; swallow: bird, gulp; swift: bird, car;
    switch: light switch, network switch; tablet: computer, pill; tank: military vehicle, water
    tank, fish tank; tick: insect, check mark; torch: flashlight, burning torch; track: railway,
    running track; trunk: of a tree, of an elephant, suitcase; turkey: bird, country; vault:
    ceiling, bank vault; well: for water, oil well
"""
_KINDS = (
    # Of WordNet 3.0's offsets, that ImageNet's synsets are: nouns of one kind follow each other.
    (1313093, 2665812, "animal"),
    (2665985, 4615728, "thing"),
    (5216365, 5611221, "part of the body"),
    (7555863, 7938594, "plant or food"),
    (9186064, 9483519, "landscape"),
    (11529603, 13240362, "plant or food"),
)
_KIND_OF = {"animal": "animal", "artifact": "thing", "plant": "plant or food"}


@dataclass(frozen=True)
class AmbiguousName:
    """A label whose name means several things. meanings : in a word or two, the first of them a
    good example for how to say which: "crane (bird)"."""

    label: str
    meanings: tuple[str, ...]


@dataclass(frozen=True)
class AlikeLabels:
    """Two labels that are hardly told apart. spread : the standard deviation of what their
    logits differ by, over images."""

    one: str
    other: str
    spread: float


def ambiguous_names(
    labels: Sequence[str], wordnet: WordNet | None = None
) -> tuple[AmbiguousName, ...]:
    """The labels whose names alone do not tell what is meant, in their order.

    A label of which other words, synonyms or descriptions are given is none of them.
    """
    found = []
    looked_up = 0
    for label, wording in zip(labels, _wordings(labels), strict=True):
        if wording != Wording((label,)):
            continue
        name = same_label(label)
        meanings = _own_meanings().get(name, ())
        if not meanings and " " not in name and name not in _everyday():
            meanings = _kinds_pictured().get(name, ())
            if not meanings and wordnet is not None and looked_up < _MOST_LOOKED_UP:
                looked_up += 1
                meanings = _kinds_known(name, wordnet)
        if meanings:
            found.append(AmbiguousName(label, tuple(meanings)))
    return tuple(found)


def alike_labels(
    labels: Sequence[str], classes: Float32, rows: Float32, logit_scale: float
) -> tuple[AlikeLabels, ...]:
    """Pairs of labels between which the model hardly decides on these images, the most alike
    first; none where the images are few. A label and one above or below it are no such pair.

    classes : (C, dim) float32 class vectors. rows : (n, dim) float32 of a sample of images.
    """
    count = len(labels)
    if len(rows) < _FEWEST_IMAGES or not 2 <= count <= _MOST_COMPARED:
        return ()
    logits = (rows @ classes.T) * np.float32(logit_scale)
    logits -= logits.mean(axis=0)
    shared = logits.T @ logits / np.float32(len(rows))
    own = np.diag(shared)
    spreads = np.sqrt(np.maximum(own[:, None] + own[None, :] - 2 * shared, 0))
    ones, others = np.nonzero(np.triu(spreads < LEAST_SPREAD, 1))
    lines = labels.lines if isinstance(labels, LabelDefinitions) else [(n,) for n in range(count)]
    pairs = [
        AlikeLabels(labels[one], labels[other], float(spreads[one, other]))
        for one, other in zip(ones.tolist(), others.tolist(), strict=True)
        if one not in lines[other] and other not in lines[one]
    ]
    return tuple(sorted(pairs, key=lambda pair: pair.spread))


def _wordings(labels: Sequence[str]) -> Sequence[Wording]:
    if isinstance(labels, WordedLabels):
        return labels.wordings()
    return [Wording((label,)) for label in labels]


@functools.cache
def _own_meanings() -> dict[str, tuple[str, ...]]:
    entries = (" ".join(entry.split()).split(": ") for entry in _MEANINGS.split(";"))
    return {name: tuple(meanings.split(", ")) for name, meanings in entries}


@functools.cache
def _everyday() -> frozenset[str]:
    return frozenset(map(same_label, background_words()))


@functools.cache
def _kinds_pictured() -> dict[str, tuple[str, ...]]:
    """Words that are the first of several synsets of ImageNet-21k's cleaned release that are of
    different kinds, and the kinds; none where timm's lists are not there."""
    from clipsearch.nouns import pictured_synsets

    try:
        pictured = pictured_synsets()
    except MissingExtraError:
        return {}
    kinds: dict[str, dict[str, None]] = {}
    for offset, lemmas, meaning in pictured:
        if same_label(lemmas[0]) in same_label(meaning):
            continue
        kind = next((kind for low, high, kind in _KINDS if low <= offset <= high), None)
        if kind is not None:
            kinds.setdefault(same_label(lemmas[0]), {})[kind] = None
    return {name: tuple(found) for name, found in kinds.items() if len(found) > 1}


def _kinds_known(name: str, wordnet: WordNet) -> tuple[str, ...]:
    """The same of WordNet; nothing where its files turn out to be damaged."""
    kinds: dict[str, None] = {}
    try:
        for offset in wordnet.senses(name)[:_SENSES]:
            synset = wordnet.synset(offset)
            is_thing = synset.category in _KIND_OF and not synset.is_instance
            is_own = same_label(synset.lemmas[0]) == name and name not in same_label(synset.gloss)
            if is_thing and is_own:
                kinds[_KIND_OF[synset.category]] = None
    except LabelError:
        return ()
    return tuple(kinds) if len(kinds) > 1 else ()
