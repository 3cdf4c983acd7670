"""A tiny WordNet in its real format: synsets at their byte offsets, a sorted index."""

from __future__ import annotations

from pathlib import Path

_FILES = {"tops": 3, "animal": 5, "artifact": 6, "group": 14, "object": 17, "person": 18}

# name: (category, lemmas, hypernyms, gloss); what is broader comes first. "@" before a hypernym
# makes the synset an instance of it.
ANIMALS = {
    "entity": ("tops", "entity", "", "that which is perceived to exist"),
    "organism": ("tops", "organism being", "entity", "a living thing"),
    "animal": ("animal", "animal beast", "organism", "a living organism that moves"),
    "mammal": ("animal", "mammal", "animal", "warm-blooded"),
    "placental": ("animal", "placental", "mammal", "mammals having a placenta"),
    "carnivore": ("animal", "carnivore", "placental", "eats flesh"),
    "big_cat": ("animal", "big_cat cat", "carnivore", "any of several large cats"),
    "leopard": ("animal", "leopard Panthera_pardus", "big_cat", "large feline; (spotted)"),
    "jaguar": ("animal", "jaguar panther", "big_cat", "a large spotted feline"),
    "dog": ("animal", "dog domestic_dog", "carnivore", "a member of the genus Canis"),
    "bird": ("animal", "bird", "animal", "with feathers and wings"),
    "artifact": ("artifact", "artifact", "entity", "a man-made object"),
    "machine": ("artifact", "machine", "artifact", "a mechanical device"),
    "jaguar_car": ("artifact", "jaguar", "machine", "a make of car"),
    "box": ("artifact", "box", "artifact", "a container"),
    "taxon": ("group", "taxon", "entity", "animal or plant group"),
    "canis": ("animal", "Canis genus_Canis", "taxon", "type genus of the Canidae"),
    "lout": ("person", "lout", "organism", "an awkward person"),
    "junk": ("artifact", "junk", "artifact", "disparaging term for a thing"),
    "hill": ("object", "hill", "entity", "a raised part of the earth"),
    "everest": ("object", "Everest", "@hill", "a mountain in the Himalayas"),
}


def write_wordnet(
    folder: Path, synsets: dict[str, tuple[str, str, str, str]] | None = None
) -> dict[str, int]:
    """Write ``index.noun`` and ``data.noun`` into a folder; the offset of each synset."""
    records = ANIMALS if synsets is None else synsets
    folder.mkdir(parents=True, exist_ok=True)
    data = b"  1 This is a test's own database.  \n  2 Its offsets are real.  \n"
    offsets: dict[str, int] = {}
    senses: dict[str, list[int]] = {}
    for name, (category, lemmas, above, gloss) in records.items():
        offsets[name] = len(data)
        words = lemmas.split()
        pointers = [
            f"{'@i' if up[0] == '@' else '@'} {offsets[up.lstrip('@')]:08d} n 0000"
            for up in above.split()
        ]
        fields = [f"{offsets[name]:08d} {_FILES[category]:02d} n {len(words):02x}"]
        fields += [f"{word} 0" for word in words]
        fields += [f"{len(pointers):03d}", *pointers, f"| {gloss}  "]
        data += " ".join(fields).encode() + b"\n"
        for word in words:
            senses.setdefault(word.lower(), []).append(offsets[name])
    lines = [
        f"{lemma} n {len(at)} 1 @ {len(at)} 0 {' '.join(f'{o:08d}' for o in at)}  \n"
        for lemma, at in sorted(senses.items(), key=lambda item: item[0].encode())
    ]
    index = b"  1 This is a test's own database.  \n" + "".join(lines).encode()
    (folder / "data.noun").write_bytes(data)
    (folder / "index.noun").write_bytes(index)
    return offsets
