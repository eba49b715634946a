"""A list of URLs to class folders of pictures."""
