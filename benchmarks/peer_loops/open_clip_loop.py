"""The loop that a careful person writes: Pillow, open_clip's own transform, torch, batches.

python open_clip_loop.py PHOTOS MODEL_FOLDER OUT.npy [--workers 0] [--batch 32]
"""

import argparse
from pathlib import Path

import numpy as np
import open_clip
import torch
from PIL import Image


class Photos(torch.utils.data.Dataset):
    def __init__(self, folder, transform):
        self.paths = sorted(Path(folder).rglob("*.jpg"))
        self.transform = transform

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, number):
        with Image.open(self.paths[number]) as image:
            return self.transform(image)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("photos")
    parser.add_argument("model")
    parser.add_argument("out")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--batch", type=int, default=32)
    arguments = parser.parse_args()
    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{arguments.model}")
    model.eval()
    photos = Photos(arguments.photos, transform)
    loader = torch.utils.data.DataLoader(photos, arguments.batch, num_workers=arguments.workers)
    with torch.inference_mode():
        vectors = [model.encode_image(batch, normalize=True).numpy() for batch in loader]
    np.save(arguments.out, np.concatenate(vectors))


if __name__ == "__main__":
    main()
