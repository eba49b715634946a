"""Fetch a list of image URLs into class folders."""
