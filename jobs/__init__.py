"""What a person runs: each file is `python -m jobs.NAME` and a line of `./launch.sh help`."""
