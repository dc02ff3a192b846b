"""The forms that sheets are shown in, one file a form; none of them knows what a sheet is about."""
