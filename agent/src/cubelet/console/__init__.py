"""How every command prints what it found."""
