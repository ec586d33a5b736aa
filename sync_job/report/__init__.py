"""What a run leaves for people: counts that add up, results, rejects and other lists, and words for the terminal."""
