"""TF Serving: the SavedModel, and the files that serve it."""
