"""The recommended encoders: what they are good for, what they weigh, what they cost.

Imports nothing heavy, so that ``--help`` and ``model list`` stay quick.
"""

from __future__ import annotations

from dataclasses import dataclass

BUILT_IN = "mini"
RECOMMENDED = "balanced"


@dataclass(frozen=True)
class Preset:
    """One recommended encoder.

    model : the name ``load_encoder`` takes. hub_repo : where its weights are, None if built in.
    dim : length of a vector. image_size : pixels of a side.
    download_mb : size of the weights (and of the tokenizer where it is extra), 10**6 bytes.
    imagenet_top1 : published zero-shot top-1 in percent, None where none is published.
    cpu_images_per_second : image tower alone, float32, two cores, by benchmarks/encoder_rate.py;
        None where not measured.
    text_repo : a second repository that holds the tokenizer; it needs ``transformers``.
    """

    name: str
    model: str
    licence: str
    hub_repo: str | None
    dim: int
    image_size: int
    download_mb: float
    imagenet_top1: float | None
    cpu_images_per_second: float | None
    note: str
    text_repo: str | None = None


# Top-1 figures: open_clip's docs/openclip_results.csv. Speeds: medians, measured with open_clip 3.3
# and random weights where the real ones were not at hand; multilingual has the tower of fast.
PRESETS = (
    Preset(
        name="fast",
        model="ViT-B-32/datacomp_xl_s13b_b90k",
        licence="MIT",
        hub_repo="laion/CLIP-ViT-B-32-DataComp.XL-s13B-b90K",
        dim=512,
        image_size=224,
        download_mb=605,
        imagenet_top1=69.2,
        cpu_images_per_second=22,
        note="a third faster than balanced, less accurate",
    ),
    Preset(
        name="balanced",
        model="ViT-B-32-256/datacomp_s34b_b86k",
        licence="MIT",
        hub_repo="laion/CLIP-ViT-B-32-256x256-DataComp-s34B-b86K",
        dim=512,
        image_size=256,
        download_mb=605,
        imagenet_top1=72.8,
        cpu_images_per_second=17,
        note="recommended: good answers on an ordinary computer",
    ),
    Preset(
        name="best",
        model="ViT-L-14/datacomp_xl_s13b_b90k",
        licence="MIT",
        hub_repo="laion/CLIP-ViT-L-14-DataComp.XL-s13B-b90K",
        dim=768,
        image_size=224,
        download_mb=1711,
        imagenet_top1=79.2,
        cpu_images_per_second=1.1,
        note="most accurate; wants a GPU or patience",
    ),
    Preset(
        name="multilingual",
        model="xlm-roberta-base-ViT-B-32/laion5b_s13b_b90k",
        licence="MIT",
        hub_repo="laion/CLIP-ViT-B-32-xlm-roberta-base-laion5B-s13B-b90k",
        dim=512,
        image_size=224,
        download_mb=1480,
        imagenet_top1=62.4,
        cpu_images_per_second=22,
        note='about 100 languages; needs pip install "clipsearch[multilingual]"',
        text_repo="xlm-roberta-base",
    ),
    Preset(
        name=BUILT_IN,
        model=BUILT_IN,
        licence="Apache-2.0",
        hub_repo=None,
        dim=256,
        image_size=96,
        download_mb=0,
        imagenet_top1=None,
        cpu_images_per_second=1300,
        note=(
            "built in; for trying out, tests and machines without a network: 55 % on CIFAR-10, "
            "20 % on real photos of 200 classes"
        ),
    ),
)


def find_preset(name: str) -> Preset | None:
    """The preset with this name or model name, or None."""
    return next((p for p in PRESETS if name in (p.name, p.model)), None)
