"""Terms of a terminology: indexed, found in text, normalised, masked and varied."""
