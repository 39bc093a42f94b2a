"""The fine-tuning task: iWildCam and other WILDS sets, and a simulated one."""
