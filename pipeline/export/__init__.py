"""A checkpoint as a folder that scores rows by itself, with torch and numpy and nothing of ours."""
