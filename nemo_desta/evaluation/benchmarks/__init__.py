"""Benchmarks, one file each, behind the interface of `base`."""
