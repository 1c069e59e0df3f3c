"""The main path as users run it: the tests' own settings switch most of XLA's optimisation off."""

import os
import subprocess
import sys

import numpy as np
import pandas as pd
from command_lines import ROOT


def test_the_main_path_with_xlas_normal_optimisation(tmp_path):
    """README's first command, on fewer crops: the thesis's model learns, the tables are whole."""
    command = [sys.executable, "-m", "experiments.run", "--epochs=2", "--num_patches=640"]
    command += [f"--workdir={tmp_path / 'run'}"]
    environment = os.environ | {
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "0",
        "XLA_FLAGS": "",
        "JAX_PLATFORMS": "cpu",
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
    }
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Results: synthetic data" in done.stdout
    cell = tmp_path / "run/weave/bergmann/seed_0"
    history = pd.read_csv(cell / "history.csv")
    assert history["loss"].iloc[1] < 0.5 * history["loss"].iloc[0]
    scores = pd.read_csv(cell / "scores.csv")
    assert np.isfinite(scores[["distance", "l1", "l2", "ssim"]]).all(axis=None)
    assert (cell / "report.html").read_text().rstrip().endswith("</html>")
