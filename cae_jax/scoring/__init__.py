"""From images to scores in one compiled call."""
