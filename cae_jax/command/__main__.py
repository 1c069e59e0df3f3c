"""`python -m cae_jax.command` is `cae-jax`, where the folder of commands is not on the path."""

from cae_jax.command import main

main()
