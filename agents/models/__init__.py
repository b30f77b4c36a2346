"""What a trained network is, and the files that hold one."""
