"""Where files are kept: folders, object stores, the Hub."""
