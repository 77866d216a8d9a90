"""Searches: which trial comes next, who carries it out, and which are not worth going on with."""
