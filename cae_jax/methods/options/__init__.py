"""The flags of the methods, one file each as the methods themselves: what a command line needs to
know, without JAX, whose import takes longer than a --help should.

A method whose `Options` stand in its own file is one as well, see `methods.options_of`.
"""

PRECISIONS = ("float32", "tf32", "bfloat16")  # of --precision
