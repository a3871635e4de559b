"""A vector index in FAISS: immutable parts in files, searched while they are replaced.

https://github.com/facebookresearch/faiss. `import faiss` means the library: imports here are absolute.

A FAISS index must not be changed while it is searched, so nothing here ever is. What came lately is in a small delta
that is compared row by row; a thread of the index seals it into a segment, and merges segments; what is deleted is
masked. A search reads one state of all this and waits for nobody.
"""

from backends.faiss.index import FaissIndex

__all__ = ["FaissIndex"]
