"""`launcher corpus`: finding prepared corpora and looking into them, with nothing but the standard library.

`find` resolves names; `lengths` counts documents by their length; `verify` looks for damage; `sample` decodes
documents; `difference` compares two manifests.
"""
