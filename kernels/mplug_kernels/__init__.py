"""Cross-attention of few text rows to many memory rows (image tokens), in its forms, and the choice among them.

Dimensions of this package:

    B  memories (pictures)
    N  rows of one memory (visual tokens)
    M  width of a memory's rows
    S  sequences; S = B * sequences of each memory, those of one memory side by side
    L  new tokens of one sequence
    T  new tokens of all sequences of one memory (T = S / B * L)
    H  heads
    K  width of one head
    D  width of the stream (H * K)

`reference` is what the others must equal; `cached` projects a memory to keys and values once and attends to them
as often as wanted; `absorbed` never projects it; `dispatch` says which costs less. `rates` measures the machine.
"""
