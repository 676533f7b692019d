"""Accuracy of pruned networks on the search images, without any training: it chooses between networks of a method."""
# B images

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from tests.benchmarks.elastic import networks
from tests.benchmarks.elastic.networks import Score
from vitas_ds.arch.spec import SubnetSpec
from vitas_ds.data.sources import ImageSet, hold_out, read_folder
from vitas_ds.export.folder import Preprocess, read_preprocess
from vitas_ds.models.extract import extract
from vitas_ds.run.run_dir import RunDir, read_config

BATCH = 500


def on_search_images(run: RunDir) -> Score:
    """Return a function that scores a subnet of the start network of a run on its search images."""
    config, supernet = read_config(run), networks.sorted_supernet(run)
    _, held_out = hold_out(read_folder(config.data.train), config.data.search_per_class, config.run.seed)
    x, labels = pixels(held_out, read_preprocess(run.pretrained)), torch.from_numpy(held_out.labels)

    def score(spec: SubnetSpec) -> float:
        return accuracy(extract(supernet, spec), x, labels)

    return score


def pixels(images: ImageSet, preprocess: Preprocess) -> Tensor:
    """Return normalized images [B, 3, H, W]; others than those of CIFAR-10 are resized to the size of the network."""
    size = (preprocess.resize,) * 2
    found = np.stack([np.asarray(Image.open(images.file(i)).convert("RGB").resize(size)) for i in range(len(images))])
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (preprocess.mean, preprocess.std))
    return (torch.from_numpy(found).movedim(3, 1) / 255 - mean) / std


@torch.no_grad()
def accuracy(net: torch.nn.Module, x: Tensor, labels: Tensor) -> float:
    """Return the fraction of images [B, 3, H, W] whose largest logit is that of their label [B]."""
    net.eval()
    found = torch.cat([net(part).argmax(1) for part in x.split(BATCH)])
    return (found == labels).float().mean().item()
