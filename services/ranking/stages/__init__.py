"""The stages of a ranking, one small file each; services/ranking/pipeline.py lists them in order."""
