"""Detection in files, videos and folders, as programs need it: results in files of several formats."""
