"""Clusters of digits without labels: features that SimCLR learned, and rate reduction behind them.

Three seeds; the clusters are of held-out digits, each taken for the class that fits it best.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.claims import Finding, claim
from benchmarks.claims.few_digits_objectives import by_few, views_of
from benchmarks.claims.few_digits_runs import Net, few, objective_of
from benchmarks.claims.few_digits_runs import learn as learn_views
from benchmarks.claims.together import SEEDS, batches, each, learn, made, told
from scanmax.train.clustering import cluster_count, clustering_accuracy, spectral_labels
from scanmax.train.losses import coding_rate, sinkhorn_membership
from scanmax.train.objectives.views import unit

ROWS, STEPS, CANDIDATES = 256, 200, range(2, 21)
# Much smaller than the released 4096 and 128, which are for features of CLIP.
KWARGS = {"hidden": 128, "dim": 32}


@functools.cache
def features() -> Any:
    """Parameters of nets that learned views of 1400 digits, by seed."""
    kwargs = {"projector_widths": (64, 32)}
    objective = objective_of(Net(0, 32), "simclr", kwargs=kwargs)
    learned = learn_views(objective, few(1400), views_of, by_few)
    return learned.variables["params"]["model"]


def drawn(key: jax.Array, data: Any) -> dict[str, jax.Array]:
    """Digits at places up to a pixel away, without labels."""
    which, where = jax.random.split(key)
    rows = jax.random.randint(which, (ROWS,), 0, data["placed"].shape[0])
    images = data["placed"][rows, jax.random.randint(where, (ROWS,), 0, 9)]
    return {"image": images, "mask": jnp.ones(ROWS, bool)}


def reduction(objective: Any, variables: Any, data: Any) -> jax.Array:
    """R of held-out digits."""
    z = objective.apply(variables, {"image": data["held"]}, method="predict")["z"]
    return coding_rate(z)


@functools.cache
def vectors(**options: Any) -> dict[str, np.ndarray]:
    """Held-out features and, behind rate reduction, z, c and their memberships, by seed."""
    objective = made("rate_reduction", Net(0, 32), **KWARGS, **options)
    data = few(1400)
    given = batches(drawn, data, STEPS)
    found = learn(
        objective,
        given,
        data,
        reduction,
        start=features(),
        frozen=("^model/",),
        epochs=1,
        steps=STEPS,
        rate=3e-4,
    )

    def of_seed(variables, data):
        batch = {"image": data["held"]}
        said = objective.apply(variables, batch, method="predict")
        plain = unit(objective.model.apply({"params": variables["params"]["model"]}, data["held"]))
        return {
            **said,
            "features": plain,
            "plain": sinkhorn_membership(plain),
            "membership": objective.membership(said["c"]),
            "label": data["held_label"],
        }

    return each(of_seed, found.variables, data)


@claim("digits-rate-reduction", paper="cpp-rate-reduction-clustering", by_hand=True)
def digits_rate_reduction(quick):
    """Rate reduction behind frozen features clusters better than these, and finds how many."""
    from sklearn.cluster import KMeans

    found, scores = vectors(), {"k-means": [], "spectral": [], "reduced": []}
    counts = {"features": [], "z": []}
    for seed in range(len(SEEDS)):
        own = {name: values[seed] for name, values in found.items()}
        clusters = {
            "k-means": KMeans(10, n_init=10, random_state=0).fit_predict(own["features"]),
            "spectral": spectral_labels(own["plain"], 10),
            "reduced": spectral_labels(own["membership"], 10),
        }
        for name, labels in clusters.items():
            scores[name].append(clustering_accuracy(labels, own["label"]))
        counts["features"].append(cluster_count(own["plain"], own["features"], CANDIDATES)[0])
        counts["z"].append(cluster_count(own["membership"], own["z"], CANDIDATES)[0])
    findings = [
        Finding(
            f"held-out digits in 10 clusters, rate reduction and {what} of its frozen features",
            f"above {what}",
            f"{told(scores['reduced'])}; {told(scores[name])}",
            bool(np.mean(scores["reduced"]) > np.mean(scores[name])),
        )
        for name, what in (("k-means", "k-means"), ("spectral", "spectral clustering"))
    ]
    shown = "; ".join(
        f"{', '.join(map(str, values))} by {what}"
        for values, what in ((counts["z"], "z"), (counts["features"], "the frozen features"))
    )
    return [
        *findings,
        Finding(
            f"clusters of least coding length, of {CANDIDATES[0]} to {CANDIDATES[-1]}, by seed",
            "10 by z",
            shown,
            all(count == 10 for count in counts["z"]),
        ),
    ]
