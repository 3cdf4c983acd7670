"""A word for what most of a cluster's images were called: the nearest hypernym of their names."""

from __future__ import annotations

from collections.abc import Sequence

from clipsearch.wordnet import WordNet

COVERED = 0.7
"""The share of the votes that a broader word has to cover."""
# Words that say nothing of a picture, and words that only a specialist says.
_PASSED_OVER = """
    abstract entity, abstraction, act, activity, animate thing, area, artefact, artifact,
    attribute, being, body, body part, causal agency, causal agent, cause, cognition, commodity,
    communication, construction, content, covering, creation, deed, device, entity, equipment,
    event, form, good, group, grouping, human action, human activity, instrumentality,
    instrumentation, knowledge, line, living thing, location, material, matter, measure,
    natural object, object, organism, part, phenomenon, physical entity, physical object,
    physical process, piece, point, process, product, psychological feature, quantity, region,
    relation, shape, solid, state, structure, stuff, substance, surface, thing, trade good, unit,
    whole,
    amniote, angiosperm, artiodactyl, bovid, chordate, craniate, eutherian, even-toed ungulate,
    gymnosperm, hoofed mammal, odd-toed ungulate, passeriform bird, perissodactyl, placental,
    ruminant, seed plant, self-propelled vehicle, spermatophyte, spiny-finned fish, teleost,
    tracheophyte, ungulate, vascular plant, wheeled vehicle
"""
_UNSAID = frozenset(" ".join(word.split()) for word in _PASSED_OVER.split(","))


def broader_word(wordnet: WordNet, votes: Sequence[tuple[str, int | None, float]]) -> str | None:
    """The narrowest noun that covers ``COVERED`` of the votes.

    votes : words, what each means (an offset in ``data.noun``, None where it is not known), and
    how many votes it has. None where one of the words covers them itself, or where only words
    do that say nothing of a picture.
    """
    needed = COVERED * sum(count for _, _, count in votes)
    if not needed > 0 or any(count >= needed for _, _, count in votes):
        return None
    covered: dict[int, float] = {}
    for word, offset, count in votes:
        above: set[int] = set()
        for meaning in wordnet.meanings(word, offset) if count > 0 else ():
            above |= wordnet.ancestors(meaning).keys()
        for synset in above:
            covered[synset] = covered.get(synset, 0.0) + count
    enough = [synset for synset, count in covered.items() if count >= needed]
    # Of equally narrow ones the one that covers more, and then the first in the file.
    ranked = sorted(enough, key=lambda at: (-wordnet.depth(at), -covered[at], at))
    lemmas = (wordnet.synset(synset).lemmas[0] for synset in ranked)
    return next((lemma for lemma in lemmas if lemma.casefold() not in _UNSAID), None)
