"""The first minute on a CUDA device: checks for the faults that only a device can show.

Each section is a module here with a generator `checks()` of (name, call), and runs in a process of
its own: a broken CUDA context ends that section alone. A call returns what it saw, as text or as
figures, and raises if the check fails. With THOTHY_GPU_DRY_RUN=1 sections compute tiny shapes on
the CPU in Triton's interpreter.
"""
