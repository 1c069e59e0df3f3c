"""A model's scoring function as an ONNX graph, for programs without JAX or Python."""
