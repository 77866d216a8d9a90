"""Will it fit, is it allowed: pure functions of recipe and cluster."""
