"""The model of a trained run, refused when its file is not what training wrote."""

from __future__ import annotations

from torch import nn

from regatta.core.errors import RecordError
from regatta.core.files import read_json
from regatta.models.spec import ModelSpec
from regatta.models.weights import load_model
from regatta.records.predictions import file_hash
from regatta.records.run_folder import RunFolder


def load_trained(run: RunFolder) -> tuple[nn.Module, ModelSpec, list[str]]:
    """As `models.weights.load_model`, of a file that is whole.

    Raises:
        RecordError: see `check_model`. WeightsError: the file does not fit its own settings.
    """
    check_model(run)
    return load_model(run.model)


def check_model(run: RunFolder) -> None:
    """RecordError unless model.safetensors has the hash that the training results hold.

    One changed bit would still load, and be judged as if it had been trained so. Runs of releases
    that noted no hash pass.
    """
    if not run.is_trained():
        return
    restart = f"train this run anew with: regatta run <study file> --restart {run.run_id}"
    results = read_json(run.training_results)
    if not isinstance(results, dict):
        raise RecordError("the results are not a record", where=run.training_results, hint=restart)
    path, noted = run.model / "model.safetensors", results.get("model_sha256")
    if noted is None:
        return
    if not path.is_file():
        raise RecordError("the trained weights are missing", where=path, hint=restart)
    if file_hash(path) != noted:
        raise RecordError(
            "the trained weights do not match the hash that training noted",
            where=path,
            hint=restart,
        )
