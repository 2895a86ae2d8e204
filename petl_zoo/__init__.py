"""PETL Zoo: every parameter-efficient transfer method on every vision-language backbone, compared honestly."""

__version__ = "0.1.0"
