"""Vocabularies: thousands of words encoded once, and kept with the text vectors of a space."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from clipsearch.background_words import BACKGROUND_TEMPLATE
from clipsearch.errors import LabelError
from clipsearch.prompts import filled
from clipsearch.text_vectors import TextVectors


@dataclass(frozen=True)
class KeptVocabulary:
    """words, prompts : how many different ones. known : prompts that were kept already;
    encoded : those that came to it."""

    words: int
    prompts: int
    known: int
    encoded: int


def keep_vocabulary(
    words: Sequence[str],
    texts: TextVectors,
    templates: str | Sequence[str] = BACKGROUND_TEMPLATE,
) -> KeptVocabulary:
    """Encode every word in every template and keep the vectors; what is kept already is not
    encoded again, so that the same call goes on after an interruption.

    words : blank ones are left out, and repeated ones counted once. templates : see
    ``prompts.resolve_templates``; the default is the one of the background words.

    Raises LabelError for no words at all and for templates that will not do, TextCacheError
    where vectors cannot be kept, and what encoding raises.
    """
    different = list(dict.fromkeys(word.strip() for word in words if word.strip()))
    if not different:
        raise LabelError("expected words to keep, got none")
    prompts = list(dict.fromkeys(filled(different, templates)))
    counts = texts.keep(prompts)
    return KeptVocabulary(len(different), len(prompts), counts.cached, counts.encoded)
