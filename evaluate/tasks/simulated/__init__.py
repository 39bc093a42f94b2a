"""Simulated camera traps, written in the layout of WILDS's iWildCam and opened as such."""
