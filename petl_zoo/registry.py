"""MMEngine looks for a scope's registries at ``<scope>.registry``; they live in the leaf package ``registry``."""

from registry import *  # noqa: F403
