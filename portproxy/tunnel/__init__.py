"""Carries packets between the families: an add-on, of which the relay needs nothing."""
