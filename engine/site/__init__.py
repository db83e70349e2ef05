"""What runs at a site: the only package that opens a site's images. One program on every back end."""
