"""Accuracy of pruned networks on the search images, without any training: it chooses between networks of a method."""
# B images

from __future__ import annotations

import torch
from torch import Tensor

from tests.benchmarks.elastic import networks
from tests.benchmarks.elastic.networks import Score
from vitas_ds.arch.spec import SubnetSpec
from vitas_ds.data import loader
from vitas_ds.data.sources import hold_out, read_folder
from vitas_ds.distributed.comm import Ranks
from vitas_ds.export.folder import read_preprocess
from vitas_ds.models.extract import extract
from vitas_ds.run.run_dir import RunDir, read_config

BATCH = 500


def on_search_images(run: RunDir) -> Score:
    """Return a function that scores a subnet of the start network of a run on its search images."""
    config, supernet = read_config(run), networks.sorted_supernet(run)
    _, held_out = hold_out(read_folder(config.data.train), config.data.search_per_class, config.run.seed)
    data = read_preprocess(run.pretrained).apply_to(config.data)
    pixels = loader.decode_all(held_out, data, config.space.image_size, Ranks(0, 1, 0, torch.device("cpu")))
    x, labels = loader.normalize(pixels, data), torch.from_numpy(held_out.labels)

    def score(spec: SubnetSpec) -> float:
        return accuracy(extract(supernet, spec), x, labels)

    return score


@torch.no_grad()
def accuracy(net: torch.nn.Module, x: Tensor, labels: Tensor) -> float:
    """Return the fraction of images [B, 3, H, W] whose largest logit is that of their label [B]."""
    net.eval()
    found = torch.cat([net(part).argmax(1) for part in x.split(BATCH)])
    return (found == labels).float().mean().item()
