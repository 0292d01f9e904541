"""From a spooled image to a prediction."""
