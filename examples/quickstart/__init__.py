"""`wings quickstart`: the main job of the package, from nothing to a plot, on two CPU cores."""
