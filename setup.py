"""What pyproject.toml has no words for: a folder of the repository that has another place in the
wheel."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["cae_jax*"]), "cae_jax.presets"],
    package_dir={"cae_jax.presets": "experiments/presets"},
    package_data={
        "cae_jax": ["tables/*", "reports/html/templates/*", "serving/service/templates/*"],
        "cae_jax.presets": ["*.flags"],
    },
)
