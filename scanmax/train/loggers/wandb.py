"""Weights & Biases."""

import dataclasses
import pathlib
import secrets
from collections.abc import Mapping
from typing import Any

import numpy as np

from scanmax.train.loggers.base import Logger, kept_id


@dataclasses.dataclass
class Wandb(Logger):
    """A run of Weights & Biases, continued where the training continues.

    Attributes:
      project: the project; "" is what WANDB_PROJECT says.
      entity: the user or team; "" is the account's own.
      group: runs shown together; "" is none.
      tags: words to find it by.
      mode: "online", "offline" (under workdir/wandb, sent by `wandb sync`) or "disabled"; "" is
        what WANDB_MODE says.
    """

    project: str = ""
    entity: str = ""
    group: str = ""
    tags: tuple[str, ...] = ()
    mode: str = ""

    def open(self, workdir: pathlib.Path, config: Mapping[str, Any], start: int) -> None:
        import wandb

        self._wandb = wandb
        self._run = wandb.init(
            project=self.project or None,
            entity=self.entity or None,
            group=self.group or None,
            tags=self.tags or None,
            mode=self.mode or None,
            dir=workdir,
            name=workdir.name,
            config=dict(config),
            id=kept_id(workdir, "wandb", lambda: secrets.token_hex(8)),
            resume="allow",
            # Seeds that train in one step have a run each.
            reinit="create_new",
        )
        # By our step: a resumed run tells some steps a second time, which theirs must not.
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def write(self, step: int, split: str, metrics: Mapping[str, float]) -> None:
        told = {f"{split}/{name}": value for name, value in metrics.items()}
        self._run.log({"step": step, **told})

    def image(self, step: int, name: str, pixels: np.ndarray) -> None:
        self._run.log({"step": step, name: self._wandb.Image(pixels)})

    def text(self, step: int, name: str, text: str) -> None:
        self._run.log({"step": step, name: self._wandb.Html(f"<pre>{_escaped(text)}</pre>")})

    def close(self, failed: bool = False) -> None:
        self._run.finish(exit_code=int(failed))


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;")
