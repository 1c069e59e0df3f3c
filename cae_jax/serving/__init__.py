"""A trained run at work: one image, or a folder of any size."""
