"""Kernels in C++, which the machine's compiler compiles when they are first used."""
