"""What was found, as plain data: no model, no tensor that lives on a device."""
