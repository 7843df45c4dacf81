"""The model: vocabulary, stock backbone, and the two with their codecs as one any-to-any thing."""
