"""What each refill mode costs."""
