"""New tokens for a byte-pair encoding, learned from text and added after those of the base.

The base's training is continued: words are sequences of the base's tokens, and new merges join these. A BPE applies
merges in the order of their ranks. New ones come last, and each makes a token that the base does not have, so text is
first cut exactly as the base cuts it, and then neighbours are joined. So replacing every new id by the base's ids that
it stands for gives the base's ids of any text; all tests of this package rest on that. Ids keep their meaning, text
without new words keeps its ids, decoding gives the same text, no text becomes longer, and a new embedding can start
from the mean of those it replaces.

Other ways do not have this property. `add_tokens` cuts tokens out before the base sees the text, in most tokenizers
inside of words as well (`stent` in `consistent`), and the rest of the word is encoded differently. MedicalGPT, like
Chinese-LLaMA, appends the tokens of another SentencePiece model with score 0, which ranks them before all merges of the
base.
"""
