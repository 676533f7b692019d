"""Stage export: the retrained net as a folder that ``vitas_ds.load`` reads."""

from __future__ import annotations

from vitas_ds import distributed
from vitas_ds.config import Config
from vitas_ds.errors import UserError
from vitas_ds.models.exported import model_card, read_model, read_preprocess, write_model
from vitas_ds.run_dir import RunDir, open_run, read_summary, update_summary


def run(config: Config) -> None:
    """Write ``runs/NAME/export/`` from the retrained net, with a model card of what the run measured."""
    ranks = distributed.init("cpu", config.run.timeout)
    folder = open_run(config, ranks.is_main, stage="export", world_size=ranks.world_size)
    if not folder.retrain_weights.exists():
        raise UserError(f"{folder.retrain_model}: is not there yet; run the stage retrain first")
    if ranks.is_main:
        _export(config, folder)
    distributed.barrier()


def _export(config: Config, folder: RunDir) -> None:
    model = read_model(folder.retrain_model)
    preprocess = read_preprocess(folder.retrain_model)
    facts = _facts(config, read_summary(folder))
    write_model(model, folder.export, preprocess, model_card(model, folder.name, facts))
    size = (folder.export / "model.safetensors").stat().st_size
    update_summary(folder, "export", {"dir": str(folder.export), "bytes": size})
    print(f"export: {folder.export} ({size / 1e6:.1f} MB)")


def _facts(config: Config, summary: dict[str, dict[str, float]]) -> dict[str, object]:
    """Rows of the model card that this run can vouch for."""
    facts: dict[str, object] = {"training images": config.data.train, "epochs": config.retrain.epochs}
    measured = summary.get("evaluate", {})
    if "top1" in measured:
        facts["top-1 / top-5"] = f"{measured['top1']:.2%} / {measured['top5']:.2%} of {measured['images']:,} images"
        facts["validation images"] = config.data.val
    else:
        facts["accuracy"] = "not evaluated"
    return facts
