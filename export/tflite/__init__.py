"""The .tflite file: exact rewrites, conversion, the recipe of its operators and ranges, metadata."""
