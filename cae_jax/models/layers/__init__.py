"""What models are built from: the layer table, convolutions that XLA:CPU runs fast, a memory."""
