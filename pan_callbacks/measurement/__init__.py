"""From the maps of a model to a report: hooks, views, references, contrasts, and the engine that feeds them."""
