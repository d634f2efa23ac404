"""Runs that begin with something else than what people said here: a file, a constitution, an environment.

Their processes, their results and their pages are those of all runs (`studio/training`); here is how they are started.
"""
