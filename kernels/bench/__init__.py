"""What a GPU makes of the kernels: right or wrong, how fast, and how near to what the machine could do.

`python -m bench.gpu` needs torch and numpy and nothing of the project but `mplug_kernels`. It supervises child
processes (`worker`), since a kernel that goes wrong takes its process with it; each works through tasks (`tasks`) and
writes down a record for each. `shapes` says what is tried, `data` draws it, `checking` compares with float64,
`contenders` are who is timed by `timing`, `roofline` says what would have been possible, `sanitizing` runs NVIDIA's
checker, `wholes` runs whole models. Everything but the device's own code runs on a CPU as well: `--device cpu --tiny`.

Dimensions are those of `mplug_kernels`; S sequences of L tokens attend to I images of N rows.
"""
