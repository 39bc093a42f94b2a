"""Synthetic image sets: plan, render, shards, verify."""
