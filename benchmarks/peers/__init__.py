"""What a user could take instead of this project, and the limits, behind one small protocol.

Each peer runs in an environment of its own (`make bench-peers`), so nothing here may import more than the standard
library, NumPy and the peer.
"""
