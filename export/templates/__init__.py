"""What a bundle brings besides models: files that `edgedet deploy` fills in, and install.sh on the device."""
