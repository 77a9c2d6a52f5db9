"""Where images, models and weights come from: files, folders, libraries."""
