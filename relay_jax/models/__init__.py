"""The models: a looped Transformer and a decoder, made of the same layers."""
