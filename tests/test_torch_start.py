"""What is left out when a model is loaded, and that its vectors are what they were."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import open_clip
import torch

from clipsearch.encoder import load_encoder
from clipsearch.model_names import folder_of
from clipsearch.torch_start import no_random_weights

_PROGRAM = """
import sys
from clipsearch.encoder import load_encoder
import numpy as np
encoder = load_encoder("mini", device="cpu")
size = encoder.space.geometry.height
encoder.encode_images(np.zeros((1, size, size, 3), np.uint8))
encoder.encode_texts(["a dog"])
print([name for name in ("torch._dynamo", "sympy") if name in sys.modules])
import open_clip.timm_model
print(open_clip.timm_model.timm is not None)
from torchvision.ops import roi_align
import torch
boxes = [torch.tensor([[0.0, 0.0, 4.0, 4.0]])]
print(tuple(roi_align(torch.ones(1, 1, 8, 8), boxes, (2, 2)).shape))
import torch._dynamo.utils
print(torch._dynamo.utils.__file__.endswith("utils.py"), torch.compile is not None)
print(torch.compile(lambda x: x + 1, backend="eager")(torch.ones(1)).tolist())
"""


def test_the_compiler_stays_away_until_it_is_asked_for() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == ["[]", "True", "(1, 1, 2, 2)", "True True", "[2.0]"]


def test_vectors_are_those_of_a_network_that_was_filled_with_random_weights_first() -> None:
    folder = folder_of("mini")
    assert isinstance(folder, Path)
    # By open_clip alone, as it is meant to be used.
    net = open_clip.create_model(
        f"local-dir:{folder}", load_weights=False, pretrained_image=False, pretrained_text=False
    )
    weights = next(folder.glob("*.safetensors"))
    open_clip.load_checkpoint(net, str(weights), weights_only=True)
    net = net.eval().requires_grad_(False)
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    encoder = load_encoder("mini", device="cpu")
    geometry = encoder.space.geometry
    pixels = np.random.default_rng(0).integers(
        0, 256, (5, geometry.height, geometry.width, 3), dtype=np.uint8
    )
    cfg = net.visual.preprocess_cfg
    mean, std = (torch.tensor(cfg[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    batch = torch.from_numpy(pixels).permute(0, 3, 1, 2).float().contiguous()
    with torch.inference_mode():
        expected = net.encode_image(batch.div_(255).sub_(mean).div_(std), normalize=True).numpy()
        texts = net.encode_text(tokenizer(["a dog", "two birds"]), normalize=True).numpy()
    assert np.array_equal(encoder.encode_images(pixels), expected)
    assert np.array_equal(encoder.encode_texts(["a dog", "two birds"]), texts)


def test_only_random_numbers_are_left_out() -> None:
    torch.manual_seed(7)
    before = torch.get_rng_state()
    with no_random_weights():
        layer = torch.nn.Linear(3, 2)
        norm = torch.nn.LayerNorm(4)
        torch.nn.init.trunc_normal_(layer.weight)
        torch.nn.init.constant_(layer.bias, 0.5)
    assert torch.equal(torch.get_rng_state(), before)  # nothing was drawn
    assert layer.bias.tolist() == [0.5, 0.5]
    assert norm.weight.tolist() == [1.0] * 4
    assert norm.bias.tolist() == [0.0] * 4
    torch.nn.init.normal_(layer.weight)
    assert not torch.equal(torch.get_rng_state(), before)
