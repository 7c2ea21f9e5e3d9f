"""Sharing on the Hub: files without local paths, the model card, and the upload."""
