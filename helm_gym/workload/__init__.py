"""Who asks for what and when: profiles, popularity, regimes, logs."""
