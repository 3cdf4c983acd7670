"""The loop of transformers' own examples: Pillow, CLIPProcessor, CLIPModel, batches.

    python hugging_face_loop.py PHOTOS MODEL_FOLDER OUT.npy [--batch 32] [--pipeline]

--pipeline : ``pipeline("image-feature-extraction")`` with the image tower in place of the loop.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image


def by_loop(paths, folder, batch):
    from transformers import CLIPImageProcessor, CLIPModel

    model = CLIPModel.from_pretrained(folder).eval()
    processor = CLIPImageProcessor.from_pretrained(folder)
    vectors = []
    with torch.inference_mode():
        for start in range(0, len(paths), batch):
            images = [Image.open(path).convert("RGB") for path in paths[start : start + batch]]
            pixels = processor(images=images, return_tensors="pt")
            found = model.get_image_features(**pixels)
            found = getattr(found, "pooler_output", found)  # from transformers 5 an object
            vectors.append(torch.nn.functional.normalize(found, dim=-1).numpy())
    return np.concatenate(vectors)


def by_pipeline(paths, folder, batch):
    from transformers import CLIPImageProcessor, CLIPVisionModelWithProjection, pipeline

    model = CLIPVisionModelWithProjection.from_pretrained(folder).eval()
    extract = pipeline(
        "image-feature-extraction",
        model=model,
        image_processor=CLIPImageProcessor.from_pretrained(folder),
        device="cpu",
    )
    found = extract([str(path) for path in paths], batch_size=batch, return_tensors=True)
    vectors = np.concatenate([np.asarray(one)[:1] for one in found])
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("photos")
    parser.add_argument("model")
    parser.add_argument("out")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--pipeline", action="store_true")
    arguments = parser.parse_args()
    paths = sorted(Path(arguments.photos).rglob("*.jpg"))
    way = by_pipeline if arguments.pipeline else by_loop
    np.save(arguments.out, way(paths, arguments.model, arguments.batch))


if __name__ == "__main__":
    main()
