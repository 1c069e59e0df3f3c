"""One HTML file for each finished run of a workdir and one over all, from the runs' own files."""

from __future__ import annotations

from cae_jax.runs import command_line


def run() -> None:
    """Writes the pages of the flags' workdir and prints where the one over all stands."""
    from cae_jax.reports import html  # a --help need not wait for it

    written = html.write(command_line.needed("workdir", "the folder of a run"))
    print(f"{len(written) - 1} runs: {written[-1]}")


if __name__ == "__main__":
    command_line.main(run, ["workdir"], again="the same command writes all pages anew")
