"""Ray, and nothing but Ray: it runs any worker class over any items."""
