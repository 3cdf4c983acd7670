"""Whether a model is likely to know the language of a query.

CLIP's own tokenizer learnt its words from English captions. What it has to read in pieces is
rare, misspelt, or of another language, and then the model's answer means little. Programs that
tell languages apart need longer texts than queries are: on single words they are mostly wrong.
"""

from __future__ import annotations

import functools
import gzip
import importlib.util
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from clipsearch.model_names import CONFIG_FILE, folder_of

_WORD = re.compile(r"[^\W\d_]+")
# Little words of other languages that are none in English.
_TELLING = re.compile(
    r"\b(der|das|dem|ein|eine|einen|einem|einer|und|mit|im|auf|ohne|zwei|drei|von|zu|bei|el|los|las"
    r"|un|una|unos|unas|en|sin|del|y|une|les|du|et|avec|sans|sur|dans|au|aux|il|gli|uno|nel|nella"
    r"|sul|sulla|della|het|op|met|zonder|een|os|um|uma|com|sem|nas|em|ao|på|med|uten|uden|og|ett"
    r"|och|utan|na|nad|bez|bir|ve|ile)\b"
)
_MERGES = 49152 - 256 - 2  # how many of the file's merges the tokenizer takes
_FEW_KNOWN = 0.25  # of a vocabulary's words; of ImageNet's nouns, with all its plants, 0.6 are


def language_note(text: str, model: str) -> str | None:
    """A line for a person when ``text`` seems to be in a language that ``model`` was not taught.

    model : the canonical name of the model of a space. None where nothing is amiss, where the
    model's tokenizer is of many languages, or where its configuration is not on this machine.
    """
    if not _reads_english_only(model):
        return None
    words = _WORD.findall(text.lower())
    strange = [word for word in words if word not in word_ranks()]
    few = 0.25 if len(words) >= 3 else 0.5
    if not strange or (len(strange) < few * len(words) and not _TELLING.search(text.lower())):
        return None
    different = list(dict.fromkeys(strange))[:3]
    named = ", ".join(repr(word) for word in different)
    known_as = "as a word" if len(different) == 1 else "as words"
    return (
        f"Note: the model was taught in English and does not know {named} {known_as}. If the query "
        "is in another language, ask in English, or index with --model multilingual."
    )


def vocabulary_note(words: Sequence[str], model: str) -> str | None:
    """A line for a person when hardly any of a vocabulary's words are known to ``model``.

    A word of several counts as known where one of them is. model : as in ``language_note``;
    None in the same cases.
    """
    if not words or not _reads_english_only(model):
        return None
    known = sum(any(part in word_ranks() for part in _WORD.findall(w.lower())) for w in words)
    if known >= _FEW_KNOWN * len(words):
        return None
    return (
        f"Note: the model was taught in English and knows {known:,} of the vocabulary's "
        f"{len(words):,} words, so names taken from it mean little. Use English words, or index "
        "with --model multilingual."
    )


def _reads_english_only(model: str) -> bool:
    """Whether the model reads with CLIP's tokenizer; the others know more languages."""
    folder = folder_of(model)
    try:
        if folder is not None:
            document = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))["model_cfg"]
        else:
            name = model.split("/", 1)[0]
            file = _in_open_clip(Path("model_configs", f"{name}.json"))
            document = json.loads(file.read_text(encoding="utf-8"))
        text: dict[str, Any] = document["text_cfg"]
        return not text.get("hf_tokenizer_name") and not text.get("hf_model_name")
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


@functools.cache
def word_ranks() -> Mapping[str, int]:
    """The words that CLIP's tokenizer has a token for (about 34,000), the commonest in English
    captions first: word -> its place among them. Empty where open_clip is not on this machine."""
    try:
        lines = gzip.decompress(_in_open_clip(Path("bpe_simple_vocab_16e6.txt.gz")).read_bytes())
    except OSError:
        return {}
    merges = lines.decode("utf-8").split("\n")[1 : _MERGES + 1]
    whole = (merge.replace(" ", "") for merge in merges if merge.endswith("</w>"))
    # A single letter needs no merge.
    words = ["a", *(word.removesuffix("</w>") for word in whole), *"bcdefghijklmnopqrstuvwxyz"]
    return {word: place for place, word in enumerate(dict.fromkeys(words))}


def _in_open_clip(file: Path) -> Path:
    """A file of the installed open_clip, which is not imported for it: torch would come too."""
    spec = importlib.util.find_spec("open_clip")
    for folder in spec.submodule_search_locations or () if spec is not None else ():
        return Path(folder, file)
    raise FileNotFoundError(str(file))
