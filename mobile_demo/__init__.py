"""The demo in the browser: `server` shows `page/`, which is built from `web/`, with an export directory."""
