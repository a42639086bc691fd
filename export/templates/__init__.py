"""What a bundle brings besides models: the files of this folder, filled in by `edgedet deploy` and by install.sh on the device."""
