"""Rounds: a plan, a loop, a run tree, branches over finished rounds."""
