"""What each assumed number decides."""
