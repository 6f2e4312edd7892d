"""What the headers of image files say that ITK does not notice, one format a file."""
