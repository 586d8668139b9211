"""Search one's own files: a catalogue of texts and pictures, their embeddings, and what finds them."""
