"""The papers' tables: experiments as data, one sweep over the runs store, and figures beside the published ones."""
