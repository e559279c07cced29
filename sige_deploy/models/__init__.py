"""Networks to export and to test with: plain dense torch modules, no sparse code in them."""
