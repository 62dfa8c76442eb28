"""Figures for papers and lectures: functions that take arrays and return a matplotlib figure."""
