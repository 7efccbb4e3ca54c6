"""Self-distillation of short paths against a loop from its equation."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import scanmax
from scanmax.errors import UserError
from scanmax.testing import ObjectiveSuite, SmallImages, SmallNet
from scanmax.train.config import ObjectiveConfig
from scanmax.train.evaluators import PathAblation
from scanmax.train.terms import TERMS

SMALL = {"dim": 8, "depth": 2, "heads": 2, "mlp_ratio": 1.0, "img_size": 4, "patch_size": 2}


def tiny(**fields):
    return scanmax.create_model("vit_tiny_patch16_224", num_classes=4, **{**SMALL, **fields})


class PathSelfDistillSuite(ObjectiveSuite):
    terms = (("path_self_distill", {"weight": 0.5, "blocks": (1,), "temperature": 2.0}),)
    fields = {
        "objective": ObjectiveConfig(terms=terms),
        # Evaluated where it is asked: every run of the suite would compile it.
        "evaluators": (("path_ablation", {"final": True}),),
    }
    model = tiny(ensemble_scale=0.7)

    def reference(self, variables, batch, teachers):
        params, total = variables["params"]["model"], 0.0
        model = self.model.clone(dtype=jnp.float64)
        logits, sown = model.apply(
            {"params": params}, batch["image"], train=True, mutable=["intermediates"]
        )
        answers = jax.lax.stop_gradient(logits)

        def head(sums):
            x = sums[0]
            x = (x - x.mean()) / jnp.sqrt(((x - x.mean()) ** 2).mean() + 1e-6)
            x = x * params["norm"]["scale"] + params["norm"]["bias"]
            return x @ params["head"]["kernel"] + params["head"]["bias"]

        for row in range(len(logits)):
            if batch["mask"][row]:
                total -= jax.nn.log_softmax(logits[row])[batch["label"][row]]
                q = jax.nn.softmax(answers[row] / 2)
                short = head(sown["intermediates"]["block_00"]["ensemble"][0][row])
                p = jax.nn.softmax(short / 2)
                total += 0.5 * 4 * sum(q * (jnp.log(q) - jnp.log(p)))
        return total / sum(batch["mask"])

    def test_the_evaluator_leaves_each_path_out(self):
        """On padded rows of NaN, as the pruned models find it on the rows that count."""
        run, state = self.plain_run(), self.begun()
        found = run.evaluators[0](run, state)
        variables = {"params": state.params["model"]}
        rows = [(b["image"][b["mask"]], b["label"][b["mask"]]) for b in run.pipeline.eval_batches()]
        images, labels = (np.concatenate(part) for part in zip(*rows))
        expected = {}
        for index, name in enumerate(
            ("path_00_mixer", "path_00_mlp", "path_01_mixer", "path_01_mlp")
        ):
            logits = self.model.clone(pruned_paths=(index,)).apply(variables, images)
            expected[name] = np.mean(np.argmax(logits, -1) == labels)
        whole = np.mean(np.argmax(self.model.apply(variables, images), -1) == labels)
        worth = whole - np.array(list(expected.values()))
        expected |= {"path_worth": max(worth.max(), 0), "path_harm": max(-worth.min(), 0)}
        self.assertEqual(set(found), set(expected))
        for name, value in expected.items():
            self.assertAlmostEqual(found[name], value, places=6, msg=name)


def test_other_models_have_no_paths_to_evaluate():
    run = types.SimpleNamespace(
        model=SmallNet(),
        pipeline=SmallImages(),
        config=types.SimpleNamespace(objective=ObjectiveConfig()),
    )
    with pytest.raises(UserError, match=r"reads the paths of a ViT .* this is SmallNet by"):
        PathAblation().check(run, "config.evaluators 'path_ablation'")


def test_what_it_cannot_read_is_told():
    taps = {f"block_{index:02d}/output": np.zeros((1, 2, 8)) for index in range(3)}
    told = types.SimpleNamespace(taps=taps, logits=np.zeros((1, 4)))
    with pytest.raises(UserError, match=r"blocks=\(3,\) of a model of 3 blocks; .* 1 to 2"):
        TERMS["path_self_distill"](name="path_self_distill", blocks=(3,))(told, None, {})
    told.taps = {"stem": 0}
    with pytest.raises(UserError, match=r"reads block_00/output .* this model has stem"):
        TERMS["path_self_distill"](name="path_self_distill")(told, None, {})
