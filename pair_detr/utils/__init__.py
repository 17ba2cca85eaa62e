"""What all packages use and none of them is about: files, locks, disks and numbers."""
