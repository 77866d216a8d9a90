"""How the commands draw what they report."""
