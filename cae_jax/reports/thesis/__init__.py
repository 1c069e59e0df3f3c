"""The thesis's tables with ours beside them."""
