"""Answers: the Generator seam, its adapters, and what turns their text into a cited answer."""
