"""Training of everything that writes from text alone: one experiment for GPT-3, PALM and PLUG.

    rows.py        what is learnt: a source and a target, or a text; a user's rows, parted
    families.py    a row as each family reads it, and the logits that are learnt
    batches.py     rows of like length together, each batch a function of seed and number
    experiment.py  cross-entropy of the target's tokens
    measuring.py   perplexity, and how good what is written is
    finetuning.py  a user's own rows; `minis.py` the two small models that ship, whose rows are made by `poems.py` and
                   `titles.py` and whose vocabulary and shape by `small.py`

`config.py` holds the settings and recipes and needs no torch.
"""
