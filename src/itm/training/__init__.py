"""Lightning hooks: callbacks, resuming, checkpoint files, optimisers."""
