"""``medd load``: synthetic images at a chosen pace, to any Storage SCP or into a folder, and what became of each."""
