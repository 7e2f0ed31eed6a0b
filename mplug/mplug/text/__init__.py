"""Text in and out: tokenizers."""
