"""The objective: a Flax module around the model that says what a batch means and costs."""

from typing import Any, ClassVar, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax.errors import UserError
from scanmax.models.taps import read_taps
from scanmax.train.config import Config, ObjectiveConfig
from scanmax.train.losses import Loss, make_loss
from scanmax.train.metrics import is_correct
from scanmax.train.teachers import Teacher, Told, replaced_tap
from scanmax.train.terms.base import Term

Batch = dict[str, Array]


class Losses(NamedTuple):
    """What an objective finds in a training batch.

    Attributes:
      values: name -> loss of each example [B] (or token [B, T], whose mean is the example's), its
        weight included: a step minimises the mean of their sum over the examples that count.
      outputs: what the model said.
      metrics: name -> value of each example or token, averaged and logged, not minimised.
    """

    values: dict[str, Float[Array, "B ..."]]
    outputs: Any
    metrics: dict[str, Float[Array, "B ..."]]


class Objective(nn.Module):
    """What a run minimises. A subclass is one file, and one name of OBJECTIVES.

    It is a module around the model, so that whatever it learns besides (projectors, predictors,
    prototypes) is a submodule: initialised, sharded, decayed and checkpointed like any other, and
    left behind at export, which takes `params["model"]`. What it carries without learning (queues,
    centres, momentum teachers) lives in Flax collections, kept by name in the training state.

    Attributes:
      model: the network; its variables lie under "model".
      config: the config's section `objective`.
      terms: further losses, each between student and teacher.
      teachers: who teaches; their variables are an argument of every call.
      total_steps: length of the run, for what follows a schedule.
      classes: how many classes the data have.

    What a subclass says of itself:
      data_kind: the `kind` of the pipelines that it reads.
      metric_names: what `evaluate` returns; "best" may mean any of them. () says nothing of single
        examples: evaluators do.
      views: how many views of each image a training batch must hold; 1 is the image itself.
      reads_local: whether it reads the small views, "local_image".
      headless: whether the model is made without its head and gives pooled features [B, D].
      gives_pairs: whether the model gives the embeddings of images and texts, `Pairs`, which terms
        then read in the place of logits.
      accumulates: whether the loss of a batch is the mean over its parts, so that
        `optim.accumulate` changes nothing; an objective that compares the rows of a batch says no.
    """

    model: nn.Module
    config: ObjectiveConfig
    terms: tuple[Term, ...] = ()
    teachers: tuple[Teacher, ...] = ()
    total_steps: int = 1
    classes: int = 0

    # Terms keep the names that the config gave them, which their parameters and losses carry.
    preserve_adopted_names: ClassVar[bool] = True
    data_kind: ClassVar[str] = "image"
    metric_names: ClassVar[tuple[str, ...]] = ("loss",)
    views: ClassVar[int] = 1
    reads_local: ClassVar[bool] = False
    headless: ClassVar[bool] = False
    gives_pairs: ClassVar[bool] = False
    accumulates: ClassVar[bool] = True

    def __call__(self, batch: Batch, train: bool = False, teachers: Any = ()) -> Losses:
        """The losses of a batch.

        Args:
          batch: arrays by name, as the pipeline gives them.
          train: whether dropout and batch statistics work as in training.
          teachers: variables of each of `self.teachers`, in order.
        """
        raise NotImplementedError

    def evaluate(self, batch: Batch) -> dict[str, Float[Array, "B ..."]]:
        """Values of each held-out example, by the names of `metric_names`; padding may be NaN."""
        raise NotImplementedError

    def predict(self, batch: Batch) -> dict[str, Array]:
        """What is kept of each held-out example; {} where there is nothing to predict."""
        return {}

    @staticmethod
    def inputs(batch: Batch) -> Array:
        """What the model reads of a held-out batch."""
        return batch["image"]

    @staticmethod
    def beside(batch: Batch) -> Batch:
        """What the model reads besides, by keyword."""
        return {}

    @classmethod
    def told_beside(cls, batch: Batch) -> Batch:
        """What teachers read besides, by keyword: what the model does."""
        return cls.beside(batch)

    @staticmethod
    def judge(outputs: Any, batch: Batch) -> dict[str, Array]:
        """How right a teacher is on each held-out example, by its outputs; {} where none says."""
        if "label" in batch:
            return {"accuracy": is_correct(outputs, batch["label"])}
        if "tokens" in batch and "targets" not in batch:
            return {"accuracy": is_correct(outputs, batch["tokens"][:, 1:])}
        return {}

    @classmethod
    def read_as(cls, model: nn.Module, config: Config, pipeline: Any) -> nn.Module:
        """The model as it is read: without its head where it learns no classes.

        Args:
          model: the config's, or a module of a user's own.
          config: the run's.
          pipeline: the data; of those of a trained model `kind` and the sizes are known.

        Raises:
          UserError: a head that nothing would train, or a model that cannot be without one.
        """
        if not cls.headless:
            return model
        own = config.objective.name
        if config.model.num_classes:
            raise UserError(
                f"config.model.num_classes={config.model.num_classes}: {own!r} trains no head; "
                "leave 0"
            )
        if not hasattr(model, "num_classes"):
            raise UserError(
                f"config.objective.name={own!r} reads pooled features; {type(model).__name__} has "
                "no head to go without"
            )
        return model.clone(num_classes=0)

    @classmethod
    def taught_by(cls, model: nn.Module, options: dict[str, Any], field: str, pipeline: Any) -> Any:
        """A teacher's model as it is asked.

        Args:
          model: of its name.
          options: the teacher's.
          field: what names it in a message.
          pipeline: the data.

        Raises:
          UserError: options of teachers that this objective does not ask.
        """
        if "towers" in options:
            raise UserError(f"{field}: towers are of teachers of images and texts")
        return model

    @nn.nowrap
    def begin(self, params: Any, carried: dict[str, Any]) -> dict[str, Any]:
        """What is carried when a run begins, such as a momentum teacher that copies the model.

        Here it is the share of the run that is done, where the loss of labels or a term asks.

        Args:
          params: the initial parameters.
          carried: collections as the module's own initialisation made them.

        Returns:
          The collections, of any names.
        """
        if not (self.loss.defer or any(term.schedule or term.follows_run for term in self.terms)):
            return carried
        return {**carried, "progress": {"share": jnp.zeros((), jnp.float32)}}

    @nn.nowrap
    def after_update(self, params: Any, carried: dict[str, Any], step: Array) -> dict[str, Any]:
        """What is carried to the next step; a pure function.

        Args:
          params: the parameters behind the update.
          carried: the collections as the forward pass left them.
          step: index of the update, from 0.

        Returns:
          The collections, of the same names and shapes.
        """
        if "progress" not in carried:
            return carried
        share = ((step + 1) / self.total_steps).astype(jnp.float32)
        return {**carried, "progress": {"share": share}}

    @property
    def loss(self) -> Loss:
        """The config's loss of classes."""
        return make_loss(self.config)

    def label_loss(self, logits: Float[Array, "*B C"], labels: Array) -> Float[Array, "*B"]:
        """The loss of labels in training: smoothed, weighed, and weights deferred as it says."""
        return self.loss(
            logits,
            labels,
            label_smoothing=self.config.label_smoothing,
            progress=self.progress,
        )

    @property
    def progress(self) -> Float[Array, ""] | float:
        """The share of the run that is done, without a gradient; 0 where nothing follows it."""
        if not self.has_variable("progress", "share"):
            return 0.0
        return jax.lax.stop_gradient(self.get_variable("progress", "share"))

    def ask(self, inputs: Array, train: bool, **given: Array) -> Told:
        """The model's answer, with its taps where a term reads them."""
        outputs = self.model(inputs, train=train, **given)
        if not self.reads_taps:
            return Told(outputs, {})
        sown = self.model.variables.get("intermediates", {})

        def resume(path: str, value: Array) -> Told:
            return self.resume(inputs, sown, path, value, train, **given)

        return Told(outputs, read_taps(sown), resume)

    def resume(
        self, inputs: Array, sown: Any, path: str, value: Array, train: bool, **given: Array
    ) -> Told:
        """What the model says of the inputs if the activation at a path is `value`.

        Its statistics stay, and what it loses and counts beside its answer is left out.

        Args:
          inputs: what it reads.
          sown: its intermediates of these inputs.
          path: of a tap.
          value: of that tap's shape.
          train: whether dropout and batch statistics work as in training.
          given: what it reads by keyword.
        """
        left_out = ("intermediates", "losses", "metrics")
        variables = {k: v for k, v in self.model.variables.items() if k not in left_out}
        rngs = {"dropout": self.make_rng("dropout")} if self.has_rng("dropout") else {}
        outputs, found = self.model.clone(parent=None).apply(
            {**variables, "replaced": replaced_tap(sown, path, value)},
            inputs,
            train=train,
            rngs=rngs,
            mutable=[*left_out, "batch_stats"],
            **given,
        )
        return Told(outputs, read_taps(found["intermediates"]))

    def add_terms(
        self,
        values: dict[str, Array],
        student: Told,
        batch: Batch,
        teachers: Any,
        inputs: Array | None = None,
    ) -> dict[str, Array]:
        """The losses with those of the terms beside them.

        Args:
          values: the objective's own, by name.
          student: what terms hold against the teachers.
          batch: the batch.
          teachers: variables of each teacher.
          inputs: what the teachers read; None is what the model reads.
        """
        inputs = self.inputs(batch) if inputs is None else inputs
        asked = sorted({index for term in self.terms for index in term.teachers})
        places = batch.get("index")
        beside = self.told_beside(batch)
        told = {
            index: self.teachers[index](teachers[index], inputs, places, **beside)
            for index in asked
        }
        for term in self.terms:
            if "held_out" in batch and not term.learns_held_out:
                continue
            given = {"progress": self.progress} if term.follows_run else {}
            loss = term(student, term.hear(told), batch, **given)
            values = values | {term.name: term.weight_at(self.progress) * loss}
        return values

    @property
    def reads_taps(self) -> bool:
        """Whether a term reads activations of the model."""
        return any(term.reads_taps for term in self.terms)

    @nn.nowrap
    def check(self) -> None:
        """Refuses terms that ask for a teacher that is not there, and what else they refuse.

        Raises:
          UserError: such a term.
        """
        for term in self.terms:
            term.check(len(self.teachers))
            if term.reads_pairs != self.gives_pairs:
                reads, gives = (
                    "embeddings of images and texts" if pairs else "answers"
                    for pairs in (term.reads_pairs, self.gives_pairs)
                )
                raise UserError(
                    f"config.objective.terms: {term.name!r} reads {reads}, and the model of "
                    f"config.objective.name={self.config.name!r} gives {gives}"
                )
            for index in term.teachers:
                if term.reads_taps and not self.teachers[index].has_taps:
                    raise UserError(
                        f"config.objective.terms: {term.name!r} reads activations, of which "
                        f"teacher {index} has stored none: leave its 'stored' out"
                    )


def check_no_labels(config: ObjectiveConfig) -> None:
    """Refuses options of labels, for objectives that read none.

    Raises:
      UserError: one that is set.
    """
    default = ObjectiveConfig()
    for name in ("loss", "loss_kwargs", "label_smoothing"):
        if getattr(config, name) != getattr(default, name):
            raise UserError(
                f"config.objective.name={config.name!r} reads no labels: leave "
                f"config.objective.{name} alone"
            )


def merged(outputs: Any) -> Array:
    """The logits of one head, or the mean of several heads'."""
    return sum(outputs) / len(outputs) if isinstance(outputs, tuple) else outputs
