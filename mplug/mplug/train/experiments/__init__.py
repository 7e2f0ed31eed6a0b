"""mPLUG's objectives as experiments that the one trainer runs, each with its published recipe.

    retrieval.py     contrast with momentum twins, matching with hard negatives
    captioning.py    cross-entropy on captions; scst.py goes on from there with CIDEr as the reward
    answering.py     weighted answers to questions
    pretraining.py   contrast, matching, masked words and the rest of a text, all at once

What they share: `settings.py`, `base.py` (parameter groups, evaluation, saving), `batches.py` (what a step reads),
`contrast.py` (twins and queue), `recomputing.py` (activation checkpointing). Evaluators hand what a model writes
(`evaluators.py`) or finds (`search_evaluator.py`) to metrics. `recipes.py` has the published numbers, `building.py`
makes a recipe's model. For a user's own rows (`user_data.py`) `finetuning.py` and `pretraining_on_rows.py` put model,
batches (`feeding.py`, `row_setup.py`) and measure (`row_scores.py`) together. `mini_retrieval.py` is mplug-mini's own.
"""
