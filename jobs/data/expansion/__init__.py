"""New tokens for a byte-pair encoding: learned from text as the base cuts it, put behind what the base has.

The base's training is continued, not repeated: words are taken as sequences of the base's own tokens, and
new merges join these. A BPE applies merges in the order of their ranks. New ones come last, and each
makes a token that the base does not have, so no merge of the base is ever given something new to work on:
text is first cut exactly as the base cuts it, and then neighbours are joined. Hence what all tests of this
package rest on: replacing every new id by the base's ids that it stands for gives the base's ids of the
text, whatever the text. Ids keep their meaning, text without new words keeps its ids, decoding gives the
same text, no text becomes longer, and the mean of the replaced embeddings is there to start from.

Other ways do not have this. Tokens added with `add_tokens` are cut out before the base sees the text, in most
tokenizers inside of words as well (`stent` in `consistent`), and the rest of the word is encoded
differently. MedicalGPT, like Chinese-LLaMA, appends the pieces of another SentencePiece model with score 0:
in SentencePiece's BPE that is before all merges of the base, whose rank is minus their score.
"""
