"""How good a model's outputs are: recall, captions, answers; needs no torch but where it runs a model (`retrieval`)."""
