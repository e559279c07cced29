"""Recorded states of many calls: kept in tiers, brought to the device step by step, saved and committed."""
