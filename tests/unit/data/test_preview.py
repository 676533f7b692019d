"""The grid contains the given images.

Reference: images of known colors.
"""

import numpy as np
import torch
from PIL import Image

from vitas_ds.config import Data
from vitas_ds.data import preview


def test_grid_shows_the_colors(tmp_path):
    data = Data()
    colors = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1]])
    mean, std = torch.tensor(data.mean), torch.tensor(data.std)
    images = ((colors - mean) / std)[:, :, None, None].expand(3, 3, 16, 16)
    preview.save_grid(
        images, torch.tensor([2, 0, 1]), ["ant", "bird", "naïve $x_"], tmp_path / "grid.png", data, columns=2
    )
    pixels = np.asarray(Image.open(tmp_path / "grid.png").convert("RGB")).astype(int).reshape(-1, 3)
    for color in (colors * 255).int().numpy():
        assert (np.abs(pixels - color) <= 1).all(1).mean() > 0.05
    soft = torch.tensor([[0.1, 0.9, 0], [0.5, 0.2, 0.3], [0, 0, 1]])
    preview.save_grid(images, soft, ["ant", "bird", "cat"], tmp_path / "soft.png", data)
    assert Image.open(tmp_path / "soft.png").size[0] > 300


def test_class_names_may_be_undecodable(tmp_path):
    images, name = torch.zeros(1, 3, 8, 8), "caf\udce9\nau lait"  # a folder name in Latin-1, and a line break
    preview.save_grid(images, torch.tensor([0]), [name], tmp_path / "grid.png", Data())
    preview.save_grid(images, torch.tensor([[1.0, 0]]), [name, "b"], tmp_path / "soft.png", Data())
    assert preview._title(torch.tensor(0), [name]) == r"caf\udce9\nau lait"
