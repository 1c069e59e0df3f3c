"""A table of scores with made-up distances."""

import numpy as np

from cae_jax.evaluation.scores import scores_frame


def score_table(n_validation=10, n_good=20, n_defective=15, dtype=np.float32):
    rng = np.random.default_rng(0)
    n = n_validation + n_good + n_defective
    labels = np.repeat([0, 1], [n_validation + n_good, n_defective])
    return scores_frame(
        [f"test/x/{i:03d}.png" for i in range(n)],
        labels,
        ["scratch" if label else "good" for label in labels],
        ["validation"] * n_validation + ["test"] * (n_good + n_defective),
        (rng.gamma(9, 1e6, n) * (1 + 0.4 * labels)).astype(dtype),
    )
