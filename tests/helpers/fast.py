"""Options of a run that takes seconds."""

FAST = ("trainer=fast", "model.embed_dim=32", "model.word_dim=16")
