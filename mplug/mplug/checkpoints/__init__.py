"""Checkpoint folders: ModelScope's, the raw AliceMind / X-PLUG layout, and our own."""
