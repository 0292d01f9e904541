"""Models: bundles on disk, and which of them is on duty."""
