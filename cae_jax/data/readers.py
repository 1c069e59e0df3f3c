"""Readers that need tensorflow_datasets: a run on a folder works where it is not installed."""

from __future__ import annotations

from types import ModuleType

from cae_jax.types import UsageError


def of(dataset: str) -> ModuleType:
    """Returns the file that reads a data set, the only door to tensorflow_datasets; raises
    UsageError where it is not installed."""
    try:
        if dataset == "mvtec_ad":
            from cae_jax.data import mvtec_ad

            return mvtec_ad
        from cae_jax.data import records

        return records
    except ModuleNotFoundError as error:
        raise UsageError(
            f"--dataset={dataset} needs the package {error.name}, which is not installed; "
            "--dataset=folder reads the same images without it"
        ) from error
