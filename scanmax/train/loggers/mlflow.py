"""MLflow."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from scanmax.train.loggers.base import Logger, flat, kept_id

# What MLflow takes of the text of a parameter.
LONGEST = 500


@dataclasses.dataclass
class MLflow(Logger):
    """A run of MLflow, continued where the training continues.

    Attributes:
      tracking_uri: the server, "http://tracking:5000", or a data base where the whole `mlflow` is
        installed, "sqlite:///runs.db"; "" is what MLFLOW_TRACKING_URI says.
      experiment: name of the experiment, made where there is none.
      tags: words of one's own, by name.
    """

    tracking_uri: str = ""
    experiment: str = "scanmax"
    tags: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def open(self, workdir: pathlib.Path, config: Mapping[str, Any], start: int) -> None:
        from mlflow.tracking import MlflowClient

        # A client of our own: the module's active run is one for the whole process.
        self._client = MlflowClient(tracking_uri=self.tracking_uri or None)
        self._id = kept_id(workdir, "mlflow", lambda: self._created(workdir.name))
        self._client.set_terminated(self._id, "RUNNING")
        told = self._client.get_run(self._id).data.params
        for name, value in flat(config).items():
            # A parameter is told once; what a resumed run changes stands in its config.json.
            if name not in told:
                self._client.log_param(self._id, name, str(value)[:LONGEST])

    def _created(self, name: str) -> str:
        found = self._client.get_experiment_by_name(self.experiment)
        number = found.experiment_id if found else self._client.create_experiment(self.experiment)
        return self._client.create_run(number, run_name=name, tags=dict(self.tags)).info.run_id

    def write(self, step: int, split: str, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            self._client.log_metric(self._id, f"{split}/{name}", value, step=step)

    def image(self, step: int, name: str, pixels: np.ndarray) -> None:
        self._client.log_image(self._id, pixels, f"{name}.png")

    def text(self, step: int, name: str, text: str) -> None:
        self._client.log_text(self._id, text, f"{name}.txt")

    def close(self, failed: bool = False) -> None:
        self._client.set_terminated(self._id, "FAILED" if failed else "FINISHED")
