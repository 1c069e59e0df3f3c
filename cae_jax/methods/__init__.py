"""How a model learns and scores: one file per method, each a record of pure functions."""
