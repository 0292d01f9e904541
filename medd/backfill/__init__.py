"""Archives: what lies in a folder, a bucket or a PACS, scored behind everything that comes in live."""
