"""A small layer over bpf(2): maps, programs, links, pins, the ring buffer and the kernel's clock.

It needs no compiler and no library beyond libc (clsact alone needs pyroute2). All of it is
blocking system calls that return at once, except where a docstring says that it waits.
"""
