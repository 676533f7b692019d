"""Write the network of the stage retrain; also a subnet with the weights of its supernet (``retrain.epochs: 0``)."""

from __future__ import annotations

from typing import Any

from vitas_ds.arch.cost import spec_macs
from vitas_ds.arch.spec import SubnetSpec, read_spec
from vitas_ds.config import RANDOM_IMAGES, Config
from vitas_ds.data.sources import ImageSet
from vitas_ds.distributed import comm
from vitas_ds.distributed.comm import Ranks
from vitas_ds.elastic.order import read_order
from vitas_ds.elastic.reorder import restore
from vitas_ds.export.card import model_card
from vitas_ds.export.folder import Facts, Preprocess, atomic_folder, write_model_files
from vitas_ds.models.vit import VisionTransformer
from vitas_ds.run.files import write_json, write_text
from vitas_ds.run.run_dir import RunDir
from vitas_ds.run.summary import complete_summary, write_result
from vitas_ds.stages.initial_weights import make_init
from vitas_ds.stages.licenses import license_of_training
from vitas_ds.stages.source_run import supernet_run


def keep_initial_weights(config: Config, run_dir: RunDir, ranks: Ranks, spec: SubnetSpec, images: ImageSet) -> None:
    """Write the network with its initial weights as a model folder. All ranks call this."""
    model = VisionTransformer(spec, class_token_only=True)
    init = make_init(config, run_dir, model, images, ranks)
    assert init is not None, "checked by validate"
    where = init()
    if ranks.is_main:
        restored = _restore_order(config, run_dir, model)
        write_json(run_dir.retrain_spec, spec.to_dict())
        write_network(config, run_dir, model, images, {"steps": 0, "loss": None, "seconds": 0.0})
        print(f"retrain: {where}{restored}, not trained (retrain.epochs is 0), {run_dir.retrain_model}")
    comm.barrier()


def write_network(
    config: Config, run_dir: RunDir, model: VisionTransformer, images: ImageSet, numbers: dict[str, Any]
) -> None:
    """Write the network of the stage retrain as a model folder, and its numbers (rank 0 only)."""
    data = config.data
    preprocess = Preprocess(data.resize, data.mean, data.std, images.classes)
    facts: Facts = {"training images": RANDOM_IMAGES} if data.synthetic else {}
    facts["accuracy"] = "not evaluated"
    with atomic_folder(run_dir.retrain_model) as folder:
        write_model_files(model, folder, preprocess, facts)
        write_text(
            folder / "README.md", model_card(model.spec, run_dir.name, facts, license=license_of_training(config))
        )
        write_result(run_dir, "retrain", numbers | {"macs": spec_macs(model.spec)}, folder / "config.json")
    complete_summary(run_dir)


def _restore_order(config: Config, run_dir: RunDir, model: VisionTransformer) -> str:
    """Restore the order of units of the pretrained network if nothing was removed from it. Return a note."""
    folder = supernet_run(config).pretrained
    if not (folder / "spec.json").is_file() or read_spec(folder / "spec.json") != model.spec:
        return ""
    order = read_order(folder, model.spec)
    if order is None:
        return ""
    restore(model, order)
    return ", with the units in the order of the pretrained network"
